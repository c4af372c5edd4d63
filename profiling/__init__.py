"""How fast the chain and the training iterations are, beside others: `python -m profiling`."""

import time

BEGUN = time.monotonic()
"""When the process began to import."""
