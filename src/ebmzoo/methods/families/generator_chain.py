"""Methods with a generator: those whose samples are G(m), and those whose chains start from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.restoration import RestoresByEnergy, by_latents, projected
from ebmzoo.networks.base import Generator, InferenceNet
from ebmzoo.networks.batch_norm_calibration import Calibration
from ebmzoo.sampling.langevin import Langevin


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

    @property
    def image_shape(self) -> tuple[int, int, int]:
        with self.evaluating():
            image = self.network("generator")(torch.zeros(1, self.latent, device=self.device))
        return cast(tuple[int, int, int], tuple(image.shape[1:]))

    @property
    def by_batch(self) -> bool:
        """Whether G(m) has the statistics of its batch in evaluation too, as in the authors' evaluations."""
        return False

    @final
    def decode(self, z: Tensor) -> Tensor:
        return cast(Tensor, self._sampler_of_images()(z))

    @final
    def decoder(self) -> Callable[[Tensor], Tensor]:
        return self._sampler_of_images()

    @final
    def decode_inferred(self, z: Tensor) -> Tensor:
        return cast(Tensor, self.network("generator")(z))

    def _sampler_of_images(self) -> Generator:
        """G with the statistics of its samples, kept until its weights change."""
        network = cast(Generator, self.network("generator"))
        if not self.calibrates:
            return network
        return self._calibration(network, by_batch=self.by_batch)

    @final
    def prior(self, n: int, labels: Tensor | None, generator: torch.Generator | None) -> Tensor:
        """m ~ N(0, I), `(n, latent)`.

        Raises:
            UserError: Labels are given, which an unconditional method does not take.
        """
        self.refuse_labels(labels)
        return torch.randn(n, self.latent, device=self.device, generator=generator)

    def check_data(self, data: ImageData | PlaneData) -> None:
        with self._calibration.suspended():
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
        info = self.chain_info(steps)
        with self.evaluating():
            return info.samples(self.decode(self.prior(n, labels, generator)))

    @final
    def chain_info(self, steps: int | None = None) -> ChainInfo:
        if steps:
            raise UserError(f"steps is {steps}, but {type(self).__name__} samples without a chain: leave it out")
        return ChainInfo(nfe=1, start="generator", steps=0, temperature=math.nan)

    @final
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        with self.evaluating(), frozen(self):
            stages = by_latents(self, None, y, operator, restoring, generator)
            return [*stages, *projected(stages[-1], y, operator, restoring)]


class ChainFromGenerator(WithGenerator, RestoresByEnergy, StartsFromGenerator, RunsChain):
    """A method whose chain starts from its generator; it says what the chain descends, in `range`."""

    @property
    def evaluation_sampler(self) -> Langevin:
        """The chain of samples: training's, unless the method says otherwise."""
        return self.sampler

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
        sampler = self.evaluation_sampler.lasting(steps)
        with self.evaluating():
            x0 = self.range.inward(self.decode(self.prior(n, labels, generator)))
            x = sampler(self.chain_energy(), x0, generator=generator)
        return self.chain_info(steps).samples(self.range.outward(x))

    @final
    def chain_info(self, steps: int | None = None) -> ChainInfo:
        sampler = self.evaluation_sampler.lasting(steps)
        temperature = sampler.temperature if sampler.steps else math.nan
        return ChainInfo(1 + sampler.steps, "generator", sampler.steps, temperature)

    @final
    def revise(
        self, x: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        path = self.evaluation_sampler.lasting(steps).path(
            self.chain_energy(), self.range.inward(x), generator=generator
        )
        return map(self.range.outward, path)

    @property
    @final
    def chain_steps(self) -> int:
        return self.evaluation_sampler.steps

    @final
    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        x0 = self.decode(self.prior(n, None, generator))
        return "generator", self.revise(x0, steps=steps, generator=generator)
