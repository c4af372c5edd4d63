"""Evaluations of a trained model; each task can be called directly, and is a callback under `ebmzoo test`."""

from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.classification import Classification
from ebmzoo.tasks.compositional import Compositional
from ebmzoo.tasks.conditional import Conditional
from ebmzoo.tasks.cost import Cost
from ebmzoo.tasks.denoising import Denoising
from ebmzoo.tasks.density import Density
from ebmzoo.tasks.generation import Generation
from ebmzoo.tasks.guidance import Guidance
from ebmzoo.tasks.inpainting import Inpainting
from ebmzoo.tasks.interpolation import Interpolation
from ebmzoo.tasks.intrinsic_dimension import IntrinsicDimension
from ebmzoo.tasks.likelihood import Likelihood
from ebmzoo.tasks.ood import OutOfDistributionDetection
from ebmzoo.tasks.reconstruction import Reconstruction
from ebmzoo.tasks.representation import Representation
from ebmzoo.tasks.restoration import Restoration
from ebmzoo.tasks.revision import Revision
from ebmzoo.tasks.stability import Stability
from ebmzoo.tasks.stages import Stages

__all__ = [
    "Classification",
    "Compositional",
    "Conditional",
    "Cost",
    "Denoising",
    "Density",
    "Generation",
    "Guidance",
    "Inpainting",
    "Interpolation",
    "IntrinsicDimension",
    "Likelihood",
    "OutOfDistributionDetection",
    "Reconstruction",
    "Representation",
    "Restoration",
    "Result",
    "Revision",
    "Stability",
    "Stages",
    "Task",
]
