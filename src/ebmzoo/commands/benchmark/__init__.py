"""Training and testing several methods under one budget, each in its own process."""

from ebmzoo.commands.benchmark.plan import Plan, Run
from ebmzoo.commands.benchmark.runner import Outcome, execute

__all__ = ["Outcome", "Plan", "Run", "execute"]
