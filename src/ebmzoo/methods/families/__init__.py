"""What several methods share: how their chains start, walk and are conditioned."""
