"""What a trained model is asked; each task is plainly callable, and a callback under `ebmzoo test`."""

from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.generation import Generation
from ebmzoo.tasks.ood import OutOfDistributionDetection
from ebmzoo.tasks.representation import Representation

__all__ = ["Generation", "OutOfDistributionDetection", "Representation", "Result", "Task"]
