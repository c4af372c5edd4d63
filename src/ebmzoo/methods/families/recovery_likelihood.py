"""What CDRL and DRL share: a sequence of energies learnt by recovery likelihood, and sampling down its levels.

One file because it is one class: training, sampling and every task go down the same levels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Literal, cast, final

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.degradations import Operator
from ebmzoo.data.images import UNLABELLED
from ebmzoo.data.plane import PlaneData
from ebmzoo.energy import Energy, gradient
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import (
    ClassConditional,
    HasLevels,
    Inpaints,
    RestorationSettings,
    Restores,
    RunsLevels,
    SampleStage,
)
from ebmzoo.methods.base.log_values import LogValues, energy_log_values
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.methods.families.level_sampler import ClassCondition, LevelSampler, recovery_energy
from ebmzoo.methods.families.restoration import Known, Measured, MeasuredAtLevels, projected
from ebmzoo.networks.autoencoder import ImageCoder, load_coder
from ebmzoo.networks.base import LevelEnergyNet
from ebmzoo.sampling.level_chain import RecoveryChain
from ebmzoo.sampling.level_energies import AtLevel, guided
from ebmzoo.sampling.noise_schedule import NoiseSchedule, column


class RecoveryLikelihood(Method, ClassConditional, Inpaints, Restores, HasLevels, RunsLevels):
    """A method with one network for the energies of all noise levels of a diffusion.

    The energy of level i − 1 is that of y = m_i x_{i−1} (its `scale`); given x_i it is E(y) + |y − x_i|²/2σ_i²
    and at the top, i = T, E(y) alone. With a `coder`, images are its latents inside.
    """

    energy_net: LevelEnergyNet
    schedule: NoiseSchedule
    chain: RecoveryChain
    coder: ImageCoder | None
    coder_checkpoint: str | None
    shape: tuple[int, int, int]
    drop_classes: float
    denoise: float

    @abstractmethod
    def propose(self, x: Tensor, i: Tensor, condition: ClassCondition, generator: torch.Generator | None) -> Tensor:
        """Where a chain of transition `i` starts: y, of the shape of x_i."""

    @property
    @abstractmethod
    def proposals(self) -> Literal["none", "unconditional", "by class"]:
        """What network proposes, for the count of network evaluations."""

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @final
    def _training_classes(self, labels: Tensor) -> Tensor | None:
        """The class that each image is trained with, `(B, 1)`: one of k at random, and −1, none, at some rate."""
        if self.classes == 0:
            return None
        if labels.dim() == 2:
            chosen = torch.randint(labels.shape[1], (len(labels), 1), device=labels.device)
            labels = labels.gather(1, chosen)[:, 0]
        dropped = torch.rand(len(labels), device=labels.device) < self.drop_classes
        return labels.masked_fill(dropped, -1)[:, None]

    @final
    def _refine(self, start: Tensor, x: Tensor, i: Tensor, labels: Tensor | None) -> Tensor:
        """ỹ after K steps. The power iterations of spectral norms stand still meanwhile, as in the code."""
        unit = self.chain.unit(self.schedule, i)
        self.energy_net.eval()
        try:
            energy = recovery_energy(self.energy_net, self.schedule, x, i, unit, ClassCondition(labels))
            return self.chain(energy, start, unit)
        finally:
            self.energy_net.train()

    @final
    def _contrast(self, y: Tensor, ends: Tensor, i: Tensor, labels: Tensor | None) -> tuple[Tensor, LogValues]:
        """mean w_i (Ê(y) − Ê(ỹ)), both in one pass, and its log values."""
        time = self.schedule.time[i - 1].repeat(2)
        both = self.energy_net(torch.cat([y, ends]), time, None if labels is None else labels[:, 0].repeat(2))
        data, chain = both.chunk(2)
        loss = (self.schedule.loss_weight(i) * (data - chain)).mean()
        return loss, energy_log_values(data, chain) | {"loss_energy": loss.detach()}

    @final
    def _moved(self, start: Tensor, end: Tensor) -> LogValues:
        """How far chains moved. Not over √K·s: the quadratic term keeps even a flat energy's chain nearer than that."""
        return {"displacement": (end - start).detach().flatten(1).square().mean(1).sqrt().mean()}

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.starts_anew and self.coder_checkpoint is not None:
            assert self.coder is not None
            load_coder(self.coder, self.coder_checkpoint)

    @property
    @final
    def classes(self) -> int:
        return self.energy_net.classes

    @final
    def check_data(self, data: ImageData | PlaneData) -> None:
        super().check_data(data)
        if self.classes and len(names := data.training_classes[0]) != self.classes:
            shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
            found = f"model.energy_net.classes is {self.classes} but data has {len(names)}: {shown}"
            of = ["energy_net", *(["initializer"] if getattr(getattr(self, "initializer", None), "classes", 0) else [])]
            if names == UNLABELLED:
                without = " ".join(f"--model.{network}.classes 0" for network in of)
                raise UserError(
                    f"model.energy_net.classes is {self.classes}, but the images of {data.name} have no classes: sort "
                    f"them into one folder for each class, or train without classes by {without}"
                )
            raise UserError(f"{found}; set {' '.join(f'--model.{network}.classes {len(names)}' for network in of)}")

    @final
    def _inward(self, images: Tensor) -> Tensor:
        if self.coder is None:
            return images
        with torch.no_grad():
            return self.coder.encode(images)

    @final
    def _outward(self, x: Tensor) -> Tensor:
        return x if self.coder is None else self.coder.decode(x)

    @final
    def energy_at(self, x: Tensor, level: int) -> Tensor:
        return self._level(level)(x)

    def _level(self, level: int, condition: ClassCondition = ClassCondition()) -> Energy:  # noqa: B008  (frozen)
        """The energy of x_level itself, which is that of y = m x."""

        def energy(x: Tensor) -> Tensor:
            i = torch.full(x.shape[:1], level + 1, device=x.device)
            net = cast(LevelEnergyNet, self.network("energy_net"))
            unit = self.chain.unit(self.schedule, i)
            at = AtLevel(net, self.schedule.time[i - 1], unit, condition.labels, condition.weights)
            return at(column(self.schedule.scale(i), x) * x)

        return energy

    @final
    def energy(self, x: Tensor) -> Tensor:
        """The energy of the least noisy level (CDRL, §4.4), in units of nats: Ê/s_1²."""
        return self.energy_at(self._inward(x), 0)

    @final
    def class_energy(self, x: Tensor, label: int, level: int | None = None) -> Tensor:
        """E(x|c) `(B,)` of the class c = `label`: as `energy` or, at a `level`, as `energy_at`."""
        condition = ClassCondition(torch.full((x.shape[0], 1), label, device=x.device))
        return self._level(level or 0, condition)(self._inward(x) if level is None else x)

    @property
    @final
    def has_density(self) -> bool:
        """With a coder the energy is of latents."""
        return self.coder is None

    @final
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """Down the levels from N(0, I) (Alg. 2); `steps` are those of each level, and 0 is the proposals alone.

        A model with classes draws one for each image, uniformly, where no `labels` are given.
        """
        if labels is None and self.classes:
            drawn = torch.randint(self.classes, (n,), device=self.device, generator=generator)
            samples = self._of_classes(drawn, 0.0, steps, generator)
            return replace(samples, start=f"{samples.start} of uniformly drawn classes")
        if labels is not None:
            return self.sample_from_classes(labels, steps=steps, generator=generator)
        return self._samples(n, ClassCondition(), steps, generator)

    @final
    def sample_from_classes(
        self,
        labels: Tensor,
        *,
        guidance: float = 0.0,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """As `sample`, of classes.

        Raises:
            UserError: the model has no classes, or not those, or `labels` has another shape.
        """
        if self.classes == 0:
            raise UserError("model.energy_net.classes is 0: this model was trained without classes")
        if labels.dim() not in (1, 2) or labels.numel() == 0:
            raise UserError(f"labels have shape {tuple(labels.shape)}; (n,) or (n, k) is needed")
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            found = f"from {int(labels.min())} to {int(labels.max())}"
            raise UserError(f"labels run {found}; this model has the classes 0 to {self.classes - 1}")
        return self._of_classes(labels.to(self.device), guidance, steps, generator)

    def _of_classes(
        self, labels: Tensor, guidance: float, steps: int | None, generator: torch.Generator | None
    ) -> Samples:
        """Samples of labels on the device, which the host does not read: it would wait for them."""
        condition = ClassCondition(*guided(labels[:, None] if labels.dim() == 1 else labels, guidance))
        return self._samples(len(labels), condition, steps, generator)

    @final
    def sample_longer(self, n: int, times: int, *, generator: torch.Generator | None = None) -> Samples:
        """Unlike `sample` with more steps, which makes each shorter."""
        labels, start = None, "noise"
        if self.classes:
            labels = torch.randint(self.classes, (n, 1), device=self.device, generator=generator)
            start = "noise of uniformly drawn classes"
        longer = replace(self.chain, steps=times * self.chain.steps, sample_steps=None)
        samples = self._samples(n, ClassCondition(labels), longer.steps, generator, chain=longer)
        return replace(samples, start=start)

    @final
    def trajectory(self, n: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        with self.evaluating():
            sampler = self._sampler(ClassCondition(), self.chain.sampling, generator)
            return list(sampler.path(self._noise(n, generator)))

    @final
    def inpaint(
        self, x: Tensor, hidden: Tensor, *, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Samples:
        """As `sample`, where what is known is put back, with its level's noise, after every step (appendix C).

        One ε an image is the noise of what is known at all levels. With a coder, a latent is hidden where any of its
        pixels is.
        """
        hidden = hidden.to(self.device).expand_as(x)
        clean, mask = self._inward(x), hidden
        if self.coder is not None:
            mask = adaptive_max_pool2d(hidden.any(1, keepdim=True).float(), clean.shape[-2:]) > 0
        noise = self._noise(len(x), generator)
        known = Known(clean, mask, noise, self.schedule)
        samples = self._samples(len(x), ClassCondition(), steps, generator, known)
        return replace(samples, images=torch.where(hidden, samples.images, x))

    @property
    @final
    def can_restore(self) -> bool:
        """A measurement is of pixels, which no level of latents of a coder has."""
        return self.coder is None

    @final
    def restored(
        self, y: Tensor, operator: Operator, restoring: RestorationSettings, *, generator: torch.Generator | None = None
    ) -> list[SampleStage]:
        """As `inpaint`, with what y determines of the image in place of what is not hidden."""
        known = MeasuredAtLevels(Measured(y, operator), self._noise(len(y), generator), self.schedule)
        samples = self._samples(len(y), ClassCondition(), restoring.steps, generator, known)
        stage = SampleStage("levels", [operator.pinv(y), samples.images], [0, samples.nfe])
        return [stage, *projected(stage, y, operator, restoring)]

    def _noise(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.randn(n, *self.shape, device=self.device, generator=generator)

    @property
    @final
    def image_shape(self) -> tuple[int, int, int]:
        if self.coder is None:
            return self.shape
        with self.evaluating():
            decoded = self.coder.decode(torch.zeros(1, *self.shape, device=self.device))
        return cast(tuple[int, int, int], tuple(decoded.shape[1:]))

    @final
    def chain_info(self, steps: int | None = None) -> ChainInfo:
        info = self._chain_info(ClassCondition(), steps)
        return replace(info, start=f"{info.start} of uniformly drawn classes") if self.classes else info

    def _chain_info(
        self, condition: ClassCondition, steps: int | None, chain: RecoveryChain | None = None
    ) -> ChainInfo:
        steps = (chain or self.chain).sampling if steps is None else steps
        passes = condition.passes
        proposing = {"none": 0, "unconditional": 1, "by class": passes}[self.proposals]
        denoising = passes if steps and self.denoise else 0
        nfe = self.schedule.levels * (proposing + steps * passes) + denoising
        temperature = self.chain.noise**2 if steps else math.nan
        return ChainInfo(nfe, "noise", self.schedule.levels * steps, temperature)

    def _sampler(
        self,
        condition: ClassCondition,
        steps: int,
        generator: torch.Generator | None,
        known: Known | MeasuredAtLevels | None = None,
        chain: RecoveryChain | None = None,
    ) -> LevelSampler:
        """The sampler of the weights that evaluation uses."""
        net = cast(LevelEnergyNet, self.network("energy_net"))

        def propose(x: Tensor, i: Tensor) -> Tensor:
            return self.propose(x, i, condition, generator)

        return LevelSampler(net, self.schedule, chain or self.chain, propose, condition, steps, known, generator)

    def _samples(
        self,
        n: int,
        condition: ClassCondition,
        steps: int | None,
        generator: torch.Generator | None,
        known: Known | MeasuredAtLevels | None = None,
        chain: RecoveryChain | None = None,
    ) -> Samples:
        """`n` samples from noise, with the last denoising (CDRL, Eq. 18 and below it)."""
        info = self._chain_info(condition, steps, chain)
        start = self._noise(n, generator)
        sampler = self._sampler(condition, info.steps // self.schedule.levels, generator, known, chain)
        with self.evaluating():
            *_, x = sampler.path(start)
            if info.steps and self.denoise:
                # Tweedie's formula, with a longer step
                schedule = self.schedule
                score = -gradient(self._level(0, condition), x)
                x = (x + self.denoise * schedule.sigma_bar[0].square() * score) / schedule.alpha_bar[0]
            return info.samples(self._outward(x))


def latent_shape(coder: ImageCoder | None, channels: int, size: int) -> tuple[int, int, int]:
    """The shape of what is modelled: an image's, or that of its latent."""
    if coder is None:
        return channels, size, size
    coder.freeze()
    return coder.shape(channels, size)
