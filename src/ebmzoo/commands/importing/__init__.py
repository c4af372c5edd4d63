"""Importing the authors' published checkpoints."""
