"""`ebmzoo play`: a local page on which a person moves a model's chain, and scores and restores pictures."""
