"""The functions of a method that can be exported, each of one batch of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import Classifies, Encodes, Generates, HasLevels
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood

What = Literal["energy", "ood", "generator", "encoder"]


class ExportedFunction(nn.Module):
    """A function of a method, as a module with its networks, and what its file says of it.

    Args:
        method: The method.
        name: The name of the output.
        function: The function, of tensors `(B, *shape)`.
        shape: The shape of one input.
        takes: What the input is, and its range.
        gives: What the output is.
    """

    def __init__(
        self,
        method: Method,
        name: str,
        function: Callable[[Tensor], Tensor],
        shape: tuple[int, ...],
        takes: str,
        gives: str,
    ) -> None:
        super().__init__()
        self.method = method
        self.name = name
        self.function = function
        self.shape = shape
        self.takes = takes
        self.gives = gives

    @property
    def argument(self) -> str:
        """The name of the input."""
        return self.takes.partition(" ")[0]

    def forward(self, x: Tensor) -> Tensor:
        """The function of a batch."""
        return self.function(x)

    def example(self, n: int) -> Tensor:
        """`n` inputs, in their range and the same at each call."""
        generator = torch.Generator().manual_seed(n)
        if self.argument == "latents":
            return torch.randn(n, *self.shape, generator=generator)
        return torch.rand(n, *self.shape, generator=generator) * 2 - 1


@dataclass(frozen=True)
class Choice:
    """What of a method is exported.

    Args:
        what: The kind of function.
        level: The noise level of the energy, for a method with levels; None is that of `Method.energy`.
        representation: The name of the representation, for an encoder of several.
        label: The index of the class that the energy is given, for a method with classes; None is the energy without.
        class_name: Its name.
    """

    what: What = "energy"
    level: int | None = None
    representation: str | None = None
    label: int | None = None
    class_name: str | None = None

    def of(self, method: Method) -> ExportedFunction:
        """The function.

        Raises:
            UserError: The method has no such function, level, representation or class.
        """
        kind = type(method).__name__
        if self.level is not None and (self.what != "energy" or not isinstance(method, HasLevels)):
            raise UserError(f"level is {self.level}, which only the energy of a method with noise levels has")
        if self.representation is not None and self.what != "encoder":
            raise UserError(f"representation is {self.representation}, which only --what encoder has")
        if self.label is not None and self.what != "energy":
            raise UserError(f"class is {self.name_of_class}, which only --what energy has, not {self.what}")
        if self.what == "generator":
            if not isinstance(method, Generates):
                raise UserError(f"what is generator, but a {kind} has none; it can be energy, ood or encoder")
            takes = f"latents float32 (batch, {method.latent}), z ~ N(0, I)"
            shape = _shape(method)
            gives = f"images float32 (batch, {shape}) in [-1, 1]"
            return ExportedFunction(method, "images", method.decoder(), (method.latent,), takes, gives)
        channels, height, width = method.image_shape
        takes = f"images float32 (batch, {_shape(method)}) in [-1, 1]"
        if self.what == "encoder":
            name, function = self._representation(method)
            gives = f"features float32 (batch, D): the representation '{name}' of a {kind}"
            return ExportedFunction(method, "features", function, (channels, height, width), takes, gives)
        if self.what == "ood":
            gives = "ood_score float32 (batch,), higher is farther out of distribution"
            return ExportedFunction(method, "ood_score", method.ood_score, (channels, height, width), takes, gives)
        gives = "energy float32 (batch,), low where data is likely"
        if method.has_density:
            gives += "; p(x) is proportional to exp(-E(x))"
        if self.level is not None:
            gives += f"; of the images of noise level {self.level}"
        if self.label is not None:
            gives = (
                gives.replace("p(x)", "p(x|y)").replace("E(x)", "E(x|y)") + f"; given the class {self.name_of_class}"
            )
        return ExportedFunction(method, "energy", self._energy(method), (channels, height, width), takes, gives)

    @property
    def name_of_class(self) -> str:
        """The name of the class, or its index."""
        return str(self.label) if self.class_name is None else self.class_name

    def _energy(self, method: Method) -> Callable[[Tensor], Tensor]:
        level, label = self.level, self.label
        if level is not None:
            assert isinstance(method, HasLevels)
            if not 0 <= level < method.schedule.levels:
                raise UserError(f"level is {level}; it must be from 0 to {method.schedule.levels - 1}")
        if label is not None:
            return _of_class(method, label, level)
        if level is None:
            return method.energy
        assert isinstance(method, HasLevels)
        return lambda x: method.energy_at(x, level)

    def _representation(self, method: Method) -> tuple[str, Callable[[Tensor], Tensor]]:
        found = method.representations() if isinstance(method, Encodes) else {}
        if not found:
            raise UserError(f"what is encoder, but this {type(method).__name__} has none; it can be energy or ood")
        name = self.representation or ("encoder" if "encoder" in found else next(iter(found)))
        if name not in found:
            raise UserError(f"representation is {name}; it must be one of {', '.join(found)}")
        return name, found[name]


def classes_of(method: Method) -> int:
    """How many classes an energy of the method can be given; 0 if it has none."""
    return method.classes if isinstance(method, RecoveryLikelihood | Classifies) else 0


def _of_class(method: Method, label: int, level: int | None) -> Callable[[Tensor], Tensor]:
    """E(x|y) of one class y up to a constant: that of the network, or E(x) − log p(y|x) by Bayes' rule."""
    count = classes_of(method)
    if not 0 <= label < count:
        raise UserError(f"class is {label}, but the energy of this {type(method).__name__} has {count} classes")
    if isinstance(method, RecoveryLikelihood):
        return lambda x: method.class_energy(x, label, level)
    assert isinstance(method, Classifies)
    return lambda x: method.energy(x) - method.class_logits(x).log_softmax(1)[:, label]


def _shape(method: Method) -> str:
    return ", ".join(map(str, method.image_shape))


def differs(one: Tensor, two: Tensor, within: float = 1e-4) -> bool:
    """Whether two outputs differ by more than `within`, relative to 1 and to the larger of their magnitudes."""
    scale = max(1.0, float(two.abs().max()))
    largest = float((one - two).abs().max())
    return one.shape != two.shape or not math.isfinite(largest) or largest > within * scale
