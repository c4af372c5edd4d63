"""What a person can change of a model's samples, within which limits, and why not where not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ebmzoo.commands.watching import with_noise
from ebmzoo.data import CentralSquare, Half, ImageData, Scribbles
from ebmzoo.data.degradations import OPERATORS, Masking, Operator
from ebmzoo.data.masks import Mask
from ebmzoo.errors import SEEDS, UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import ClassConditional, Inpaints, Restores
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood
from ebmzoo.tasks.conditioning import ByClass, conditions_on_latents, has_classes

MOST_IMAGES = 16
LONGEST = 10
"""How many times the chain's own length it may be."""
HIDING: Mapping[str, Operator] = {
    "the left half is hidden": Masking(Half("left")),
    "the right half is hidden": Masking(Half("right")),
    "the upper half is hidden": Masking(Half("top")),
    "the lower half is hidden": Masking(Half("bottom")),
    "the centre is hidden": Masking(CentralSquare()),
    "scribbles hide parts": Masking(Scribbles()),
}
PAINTED = "what you paint is hidden"
"""The choice of a mask that a person paints."""
DEGRADING: Mapping[str, Operator] = {
    "it has noise": OPERATORS["denoise"],
    "it is blurred": OPERATORS["blur"],
    "it has a quarter of the resolution": OPERATORS["sr4"],
    "it has an eighth of the resolution": OPERATORS["sr8"],
    "it has no colours": OPERATORS["color"],
}


class Painted(Mask):
    """The mask `(size, size)` that a person has painted, bool, true where hidden."""

    name = "painted"

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden

    def __call__(self, size: int, seed: int = 0) -> Tensor:
        return self.hidden


@dataclass(frozen=True)
class Control:
    """A number that a person sets.

    Args:
        name: What it is called in an error.
        value: The model's own.
        least: The smallest.
        most: The largest.
        whole: Whether it is a whole number.
        why_not: A sentence that says why this model has none; None where it has.
    """

    name: str
    value: float
    least: float
    most: float
    whole: bool = False
    why_not: str | None = None

    def read(self, value: object) -> float:
        """The number that a person has set; the model's own where it has none to be set.

        Raises:
            UserError: It is no number, or out of range.
        """
        if self.why_not is not None:
            return self.value
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
        if not (self.least <= number <= self.most) or (self.whole and number != int(number)):
            what = "a whole number" if self.whole else "a number"
            shown = "empty" if value is None else value
            raise UserError(f"{self.name} is {shown}; it must be {what} from {self.least:.10g} to {self.most:.10g}")
        return number


IMAGES = Control("the number of images", MOST_IMAGES, 1, MOST_IMAGES, whole=True)
SEED = Control("the seed", 0, 0, SEEDS - 1, whole=True)


def steps_of(method: Method) -> Control:
    """The number of Langevin steps, as `sample` takes it."""
    info = method.chain_info()
    own = method.chain.sampling if isinstance(method, RecoveryLikelihood) else info.steps
    why_not = None if own else f"{type(method).__name__} makes its images without a chain of steps."
    return Control("the number of steps", own, 0, max(LONGEST * own, 100), whole=True, why_not=why_not)


def temperature_of(method: Method) -> Control:
    """The factor of the temperature of the chain's steps, which is the square of that of their noise."""
    info, found, why_not = method.chain_info(), with_noise(method, 2.0), None
    kind = type(method).__name__
    if info.steps == 0:
        why_not = f"{kind} makes its images without a chain of steps."
    elif found is not None and not info.temperature > 0:
        why_not = "This chain has no noise: it only descends the energy."
    elif found is None or not _warms(method, *found):
        why_not = f"{kind} sets the temperature of its steps by a schedule of its own."
    return Control("the temperature", 1.0, 0.0, 9.0, why_not=why_not)


def _warms(method: Method, name: str, chain: object) -> bool:
    """Whether the temperature of samples follows the noise of this chain."""
    own, before = getattr(method, name), method.chain_info().temperature
    setattr(method, name, chain)
    try:
        return method.chain_info().temperature > before
    finally:
        setattr(method, name, own)


def guidance_of(method: Method) -> Control:
    """w of classifier-free guidance."""
    why_not = None if has_classes(method) else "Guidance needs a model that was trained with classes, such as CDRL's."
    return Control("the guidance", 0.0, 0.0, 10.0, why_not=why_not)


def classes_of(method: Method, data: ImageData | None, no_data: str) -> tuple[list[str], str | None]:
    """The classes that can be sampled, and a sentence that says why none can.

    Args:
        method: The method.
        data: Its data; None where they cannot be loaded.
        no_data: Why they cannot.
    """
    if has_classes(method):
        if data is not None:
            return list(ByClass(method, data).names), None
        assert isinstance(method, ClassConditional)
        return [str(k) for k in range(method.classes)], None
    if not conditions_on_latents(method):
        return [], f"This {type(method).__name__} was trained without classes."
    if data is None:
        return [], f"A class is the mean latent of its training images, and they are not at hand: {no_data}"
    if len(data.classes) < 2:
        return [], f"{data.name} has no classes."
    return list(data.classes), None


def degradations_of(method: Method) -> tuple[dict[str, Operator], str | None]:
    """The degradations that the method restores, and a sentence that says why it restores none."""
    restores = isinstance(method, Restores) and method.can_restore
    if not restores and not isinstance(method, Inpaints):
        return {}, f"This {type(method).__name__} does not restore images."
    channels, size, _ = method.image_shape
    every = {**HIDING, **DEGRADING} if restores else HIDING
    return {name: operator for name, operator in every.items() if operator.lacks(channels, size) is None}, None
