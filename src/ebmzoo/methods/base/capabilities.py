"""Capabilities that only some methods have, declared by inheritance and tested by `isinstance`.

One file because it is the list to choose from: each class is a few signatures, and many extend each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ebmzoo.data.degradations import Operator
from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import Energy
from ebmzoo.errors import UserError
from ebmzoo.methods.base.samples import Samples
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.noise_schedule import NoiseSchedule
from ebmzoo.sampling.posterior import PosteriorSampler

Evaluation = Literal["library", "paper"]
"""How samples are drawn for figures: the library's way, the same for all methods, or that of the paper's figures."""


class EvaluatesAsPaper(ABC):  # noqa: B024 – what it declares is an attribute that `sample` reads
    """Draws samples in the library's way or, with `evaluation` set to `paper`, as the authors' code does."""

    evaluation: Evaluation = "library"


class ScoresJointly(ABC):
    """Scores images by E(x) − β cos(g(f(x)), h(x)), where β is a choice."""

    @property
    @abstractmethod
    def joint_weight(self) -> float | None:
        """The paper's β; None for a model without an encoder."""

    @abstractmethod
    def joint_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E(x) and cos(g(f(x)), h(x)), each `(B,)`, of the weights of evaluation."""


class Encodes(ABC):
    """Has representations of an image that probes can read."""

    @abstractmethod
    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """By name, a function from images `(B, C, H, W)` in [-1, 1] to features `(B, D)`."""


class Generates(ABC):
    """Has a generator, which maps latents z ~ N(0, I) to images."""

    @property
    @abstractmethod
    def latent(self) -> int:
        """The dimension of z."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """G(z) of z ~ N(0, I): `(B, latent)` to images `(B, C, H, W)` in [-1, 1], of the evaluated weights."""

    def decoder(self) -> Callable[[Tensor], Tensor]:
        """`decode` of the weights as they are now, for uses that nothing changes in between."""
        return self.decode

    # Not abstract: where G has no batch norms, or one set of statistics, it is the same.
    def decode_inferred(self, z: Tensor) -> Tensor:
        """G(z) of latents inferred from images, which G saw under other batch statistics than those of N(0, I)."""
        return self.decode(z)


class StartsFromProposal(ABC):  # noqa: B024 – what it declares, `sample(n, steps=0)`, is no new method
    """Its chains start from what a network proposes, which alone is already a sampler: `sample(n, steps=0)`."""

    @property
    def can_propose(self) -> bool:
        """Whether this model was built with that network, where that is a choice."""
        return True


class StartsFromGenerator(Generates, StartsFromProposal):
    """Its chains start from its generator, which alone is already a sampler: `sample(n, steps=0)`."""

    @abstractmethod
    def revise(
        self, x: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """Every state of the chain that `sample` runs, here from the images `x` in [-1, 1]: K + 1 of them."""


class HasChain(ABC):
    """Samples by Langevin steps on images, which `range` says the units of."""

    sampler: Langevin
    range: ImageRange

    @abstractmethod
    def chain_energy(self) -> Energy:
        """What the chain of samples descends, of images in `range`: the energy, of the weights of evaluation."""


class RunsChain(ABC):
    """Samples by a Langevin chain on images, which can go on past its length."""

    @property
    @abstractmethod
    def chain_steps(self) -> int:
        """Steps of the chain that `sample` runs."""

    @abstractmethod
    def long_chain(
        self, n: int, steps: int, *, generator: torch.Generator | None = None
    ) -> tuple[str, Iterator[Tensor]]:
        """Where the chains of `sample` start, and every state of them, `steps` + 1 batches `(n, C, H, W)` in [-1, 1].

        The steps are those of the sampler on the energy of training's chain, and nothing else: no augmentations.
        """


class HasFlatDirections(ABC):
    """Its energy is flat along the data and curved across it, which tells how many dimensions they have nearby."""

    @property
    @abstractmethod
    def flat_curvature(self) -> float:
        """The largest |λ| of an eigenvalue of ∇²E(x), x in [-1, 1], whose direction counts as one of the data."""


class RunsLevels(ABC):
    """Samples by Langevin chains at one noise level after another, which can go on past their length."""

    @abstractmethod
    def sample_longer(self, n: int, times: int, *, generator: torch.Generator | None = None) -> Samples:
        """As `sample`, with `times` as many steps at each level, each of the size of training's."""


class Reconstructs(Generates):
    """Has an inference network, which maps an image to a latent of its generator."""

    @property
    def can_infer(self) -> bool:
        """Whether this model was built with its inference network, where that is a choice."""
        return True

    @property
    def posterior_sampler(self) -> PosteriorSampler | None:
        """The chain that revises inferred latents, where the method has one of its own."""
        return None

    @abstractmethod
    def infer(self, x: Tensor) -> Tensor:
        """μ(x): images `(B, C, H, W)` in [-1, 1] to the means `(B, latent)` of q(z|x)."""


class DecodesGaussian(Reconstructs):
    """Its generator is a density: x = G(z) + σε, z ~ N(0, I), with q(z|x) = N(μ, diag exp(logvar)) by a network."""

    @property
    @abstractmethod
    def decoder_sigma(self) -> float | None:
        """σ in units of [-1, 1], as the loss of training has it; None where this model was not trained as a density."""

    @abstractmethod
    def inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ and logvar of q(z|x), `(B, latent)` each, of images `(B, C, H, W)` in [-1, 1]."""


class Classifies(ABC):
    """Is a classifier too, of the classes that it was trained with."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes there are; 0 for a model built without."""

    @abstractmethod
    def class_logits(self, x: Tensor) -> Tensor:
        """Logits of p(y|x), `(B, classes)`, of images `(B, C, H, W)` in [-1, 1], of the weights of evaluation."""


class LatentConditional(ABC):
    """Samples given points of its representation space, the unit sphere of an encoder's latents."""

    @property
    def can_condition_on_latents(self) -> bool:
        """Whether this model was built with its encoder, where that is a choice."""
        return True

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """h(x)/|h(x)|: images `(B, C, H, W)` in [-1, 1], as they are, to the unit sphere `(B, d)`."""

    @abstractmethod
    def sample_from_latents(
        self, z: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Samples:
        """One image for each row of `z` under E(x) − β Σₖ cos(g(f(x)), zₖ): `(n, d)`, or `(n, k, d)` to compose k."""


class ClassConditional(ABC):
    """Was trained with classes, or with the values of attributes as classes, and samples given them."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many classes there are; 0 for a model built without."""

    @abstractmethod
    def sample_from_classes(
        self,
        labels: Tensor,
        *,
        guidance: float = 0.0,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """One image for each row of `labels`, int64: `(n,)` of a class, or `(n, k)` of k at once (CDRL, Eq. 13).

        `guidance` is w of classifier-free guidance, 0 for none (CDRL, Eq. 11 and 14).
        """


class Inpaints(ABC):
    """Fills in what a mask hides."""

    @abstractmethod
    def inpaint(
        self, x: Tensor, hidden: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Samples:
        """Images that equal `x` where it is not hidden, to the last bit.

        Shapes: `x` is `(n, C, H, W)` in [-1, 1], of which only what is not hidden is read; `hidden` is bool and
        broadcasts to it, `(1, 1, H, W)` for one mask for all.
        """


class HasLevels(ABC):
    """Has an energy for each level of a diffusion, and samples by going down its levels."""

    schedule: NoiseSchedule

    @abstractmethod
    def energy_at(self, x: Tensor, level: int) -> Tensor:
        """E(x) `(B,)` of the density of x_level = ᾱ x + σ̄ ε, `level` from 0 to T − 1, of the averaged weights."""

    @abstractmethod
    def trajectory(self, n: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """The samples that `sample` makes, as they are at the levels T, T − 1, …, 0: T + 1 batches `(n, *)`."""


@dataclass(frozen=True)
class SampleStage:
    """One of the chains that samples go through: states `(n, C, H, W)`, the first of which is its start.

    `nfe` counts the network evaluations of an image up to each state, over all stages so far.

    >>> stage = SampleStage("texture", [torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)], nfe=[1, 31])
    >>> stage.nfe[-1] - stage.nfe[0]  # evaluations from the stage's start to its end
    30
    """

    name: str
    states: list[Tensor]
    nfe: list[int]


class SamplesInStages(ABC):
    """Makes an image by one chain after another."""

    @abstractmethod
    def stages(
        self,
        n: int,
        *,
        latent_steps: int | None = None,
        image_steps: int | None = None,
        keep: int = 12,
        generator: torch.Generator | None = None,
    ) -> list[SampleStage]:
        """`keep` states of each chain, or all if they are fewer, evenly spaced with both ends.

        Steps replace the method's own where given. With `latent_steps=0` the chain on images starts from N(0, I), and
        there is no stage before it; with `image_steps=0` there is no chain on images.
        """


class HasStochasticScore(ABC):
    """Has an out-of-distribution score with noise in it."""

    ood_seeds: int

    @abstractmethod
    def ood_scores(self, x: Tensor) -> Tensor:
        """The score by each of the seeds, `(ood_seeds, B)`, whose mean is `ood_score`: the same at every call."""


class Denoises(ABC):
    """Restores images from Gaussian noise."""

    @abstractmethod
    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Clean images of `x + sigma·ε`, ε ~ N(0, I): `(B, C, H, W)` to the same, of the averaged weights."""


@dataclass(frozen=True)
class RestorationSettings:
    """The numbers of a restoration; a method uses those of the chains that it has. No paper prints them: all are ours.

    Args:
        steps: on images: Langevin steps; for a sequence of energies those of each level; for a denoiser, evaluations.
            None is the method's own number.
        pull: the share of A⁺(A x − y) that a step of the chain on images takes away, from 0 to 1: σ of Eq. 17 is
            √(η/pull) there, or that of the noise on y where it is larger.
        latent_steps: on the latents of a generator.
        latent_rate: their η is latent_rate/(1 + CHW/(σ²d)), d the dimension of the latent: in units of the posterior's
            own curvature, so that it fits images of every size. τ = √(2η).
        sigma: σ of Eq. 16, in units of [-1, 1], or that of the noise on y where it is larger.
        starts: The number of latents of N(0, I) that are refined where there is no inference network; the likeliest is
            kept.
        projections: alternating projections on A x = y and [-1, 1] at the end, where y has no noise; 0 leaves them out.

    Raises:
        UserError: a number is out of its range.
    """

    steps: int | None = None
    pull: float = 0.2
    latent_steps: int = 100
    latent_rate: float = 0.1
    sigma: float = 0.1
    starts: int = 4
    projections: int = 50

    def __post_init__(self) -> None:
        for key, least in {"steps": 0, "latent_steps": 0, "starts": 1, "projections": 0}.items():
            if (count := getattr(self, key)) is not None and count < least:
                raise UserError(f"restoring.{key} is {count}; it must be {least} or more")
        if not 0 <= self.pull <= 1:
            raise UserError(f"restoring.pull is {self.pull}; it must be from 0 to 1")
        for key in ("latent_rate", "sigma"):
            if not (0 < getattr(self, key) < math.inf):
                raise UserError(f"restoring.{key} is {getattr(self, key)}; it must be a positive number")


class Restores(ABC):
    """Finds images of which a measurement y = A x + σε may be."""

    @property
    def can_restore(self) -> bool:
        """Whether this model can, where that depends on how it was built."""
        return True

    @abstractmethod
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        """The chains that lead from A⁺y to an image, in order; the states of each are its start and its end.

        Where y has no noise and `restoring.projections` is not 0 the last stage is `projected`. Shapes: `y` is that of
        A x, for images in [-1, 1]; states are `(n, C, H, W)`, in [-1, 1] up to a chain's noise.
        """
