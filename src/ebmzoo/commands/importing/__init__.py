"""Published checkpoints of the authors, read into ours."""
