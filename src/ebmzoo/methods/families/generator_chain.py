"""Methods with a generator: those whose samples are G(m), and those whose chains start from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast, final

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.degradations import Operator
from ebmzoo.data.plane import PlaneData
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import (
    Generates,
    RestorationSettings,
    Restores,
    RunsChain,
    SampleStage,
    StartsFromGenerator,
)
from ebmzoo.methods.base.method import Method, Samples
from ebmzoo.methods.families.restoration import RestoresByEnergy, by_latents, projected
from ebmzoo.networks.base import Generator, InferenceNet
from ebmzoo.networks.batch_norm_calibration import Calibration


class WithGenerator(Method, Generates):
    """A method with a network `generator`, whose batch norms are in training mode when it makes G(m) in training.

    So are they in the authors' evaluations, where an image depends on its batch. Here samples have the statistics of
    G(m), m ~ N(0, I), estimated anew for the weights at hand, and inferred latents the running ones of training.
    """

    generator: Generator
    calibrates: bool = True
    """False where the batch norms of G are in inference mode in training too."""

    def __init__(self) -> None:
        super().__init__()
        self._calibration = Calibration()

    @property
    @final
    def latent(self) -> int:
        return self.generator.latent

    @final
    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self._sampler_of_images()(z))

    @final
    def decode_inferred(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.network("generator")(z))

    def _sampler_of_images(self) -> Generator:
        """G with the statistics of its samples, kept until its weights change."""
        network = cast(Generator, self.network("generator"))
        return self._calibration(network) if self.calibrates else network

    @final
    def prior(self, n: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """m ~ N(0, I), `(n, latent)`.

        Raises:
            UserError: labels are given, which these methods cannot follow.
        """
        if labels is not None:
            raise UserError(f"{type(self).__name__} is unconditional: sample takes no labels")
        return torch.randn(n, self.latent, device=self.device, generator=generator)

    def check_data(self, data: ImageData | PlaneData) -> None:
        with self._calibration.ignore_write_errors():
            super().check_data(data)


def check_latents(generator: Generator, inference: InferenceNet | None) -> None:
    """Raises `UserError` when q(z|x) has other latents than G takes."""
    if inference is not None and inference.latent != generator.latent:
        raise UserError(
            f"model.inference has latents of dimension {inference.latent} and model.generator of {generator.latent}: "
            "give both the same `latent`"
        )


class GeneratorAlone(WithGenerator, Restores):
    """A method whose samples are its generator's."""

    @final
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """G(m), m ~ N(0, I). There is no chain, so `steps` can only be 0 or None."""
        if steps:
            raise UserError(f"steps is {steps}, but {type(self).__name__} samples without a chain: leave it out")
        with self.evaluating():
            images = self.decode(self.prior(n, labels, generator))
        return Samples(images, nfe=1, start="generator", steps=0, temperature=math.nan)

    @final
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        with self.evaluating(), frozen(self):
            stages = by_latents(self, None, y, operator, restoring, generator)
            return [*stages, *projected(stages[-1], y, operator, restoring)]


class ChainFromGenerator(WithGenerator, RestoresByEnergy, StartsFromGenerator, RunsChain):
    """A method whose chain starts from its generator; it says what the chain descends, in `range`."""

    @final
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """G(m) and then Langevin steps on the energy of training's chain; `steps=0` is the generator alone."""
        sampler = self.sampler.lasting(steps)
        with self.evaluating():
            x0 = self.range.inward(self.decode(self.prior(n, labels, generator)))
            x = sampler(self.chain_energy(), x0, generator=generator)
        return Samples(
            images=self.range.outward(x),
            nfe=1 + sampler.steps,
            start="generator",
            steps=sampler.steps,
            temperature=sampler.temperature if sampler.steps else math.nan,
        )

    @final
    def revise(
        self, x: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        path = self.sampler.lasting(steps).path(self.chain_energy(), self.range.inward(x), generator=generator)
        return map(self.range.outward, path)

    @property
    @final
    def chain_steps(self) -> int:
        return self.sampler.steps

    @final
    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        x0 = self.decode(self.prior(n, None, generator))
        return "generator", self.revise(x0, steps=steps, generator=generator)
