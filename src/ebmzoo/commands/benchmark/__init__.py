"""Several methods trained and tested under one budget, each in a process of its own."""

from ebmzoo.commands.benchmark.plan import Plan, Run
from ebmzoo.commands.benchmark.runner import Outcome, execute

__all__ = ["Outcome", "Plan", "Run", "execute"]
