"""Several methods trained and tested under one budget, each in a process of its own."""

from ebmzoo.benchmark.plan import Plan, Run
from ebmzoo.benchmark.runner import Outcome, execute

__all__ = ["Outcome", "Plan", "Run", "execute"]
