"""How fast the chain and the training iterations are, beside others: `python -m profiling`."""
