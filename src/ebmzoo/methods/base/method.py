"""The interface of every method: an iteration that trains it, an energy, samples and an out-of-distribution score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, cast, final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.matching import fitted_to, matching_flags
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError
from ebmzoo.methods.base.checks import CheckedMeta, check_class, check_log_values, check_networks
from ebmzoo.methods.base.log_values import LogValues
from ebmzoo.methods.base.optimization import NetworkOptimizer, Optimization
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.sampling.replay import ReplayBuffer

PRECISIONS = ("32-true", "bf16-mixed", "64-true")
SHORT = {"16": "16-mixed", "32": "32-true", "64": "64-true", "bf16": "bf16-mixed"}
"""Other names of precisions, which Lightning takes too."""
VALIDATED = ("val/energy_data", "val/energy_chain", "val/energy_gap")
"""What a validation logs."""
SHOWN_IN_BAR = ("energy_gap", "displacement_ratio", "ssrl_loss")


def check_precision(precision: object) -> None:
    """Check that a method trains in a precision, as the trainer or its config names it; null is `32-true`.

    `auto` is one of them too, which `ZooTrainer` replaces.

    Raises:
        UserError: It is none of `PRECISIONS`.
    """
    if precision not in (None, "auto") and SHORT.get(str(precision), str(precision)) not in PRECISIONS:
        raise UserError(
            f"trainer.precision is {precision}; energies need fp32, so choose one of auto, {', '.join(PRECISIONS)}"
        )


class Method(LightningModule, ABC, metaclass=CheckedMeta):
    """An energy-based model with the algorithm that trains it.

    A method is one file: `trained_networks` names the networks with their optimizers, `iterate` is the algorithm box.
    `training_step` is the same for all: one batch is one iteration and one `global_step`, however many optimizers step.

    Class attributes that a concrete method sets: `paper`, where it is published, and `is_baseline`, True for a method
    that others are compared with.
    """

    paper: ClassVar[Paper | None] = None
    is_baseline: ClassVar[bool] = False
    averages: nn.ModuleDict
    use_averages: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.optimization = Optimization(self, self.trained_networks)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_class(cls)

    # ── what a concrete method defines ──────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        """The networks that are trained, by name, with their optimizers; the same names at every call."""

    @abstractmethod
    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        """One iteration of the algorithm on images in [-1, 1]: gradient steps by `minimize`; returns what to log."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """E(x) `(B,)` of images in [-1, 1], of the averaged weights; p(x) ∝ exp(−E(x))."""

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """`n` images, with `steps` Langevin steps instead of the sampler's own where they are given."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images of `sample`; by default those of one image, drawn without Langevin steps."""
        channels, height, width = self.sample(1, steps=0).images.shape[1:]
        return channels, height, width

    def chain_info(self, steps: int | None = None) -> ChainInfo:
        """What `sample(n, steps=steps)` costs and where its chains start; by default found out by drawing one image."""
        return self.sample(1, steps=steps).chain

    @property
    def has_density(self) -> bool:
        """True where exp(−E) is the density of images up to Z; False where `energy` only compares them."""
        return True

    def ood_score(self, x: Tensor) -> Tensor:
        """How far out of distribution each image is, `(B,)`, higher is farther: the energy, unless there is better."""
        return self.energy(x)

    @property
    def trains_energy(self) -> bool:
        """True once energy training has begun; before that there is nothing to validate or draw."""
        return True

    @property
    def phase(self) -> str:
        """The current phase of training, for the progress bar."""
        return "training"

    @property
    def automatic_optimization(self) -> bool:
        return False

    @automatic_optimization.setter
    def automatic_optimization(self, value: bool) -> None:
        if value:
            raise UserError("a Method steps its optimizers itself, by `minimize`")

    @property
    def training_state(self) -> tuple[str, ...]:
        """The beginnings of the keys of the state_dict that only training needs, which a shared model leaves out."""
        buffers = () if getattr(self, "sample_from_replay", False) else self.named_modules()
        return tuple(f"{name}." for name, module in buffers if isinstance(module, ReplayBuffer))

    def refuse_labels(self, labels: Tensor | None) -> None:
        """Raises `UserError` where an unconditional method is given labels."""
        if labels is not None:
            raise UserError(f"{type(self).__name__} is unconditional: sample takes no labels")

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @final
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.optimization.begin_iteration()
        values = self.iterate(images, labels)
        if self.global_step == 0:
            check_log_values(type(self).__name__, values)
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name in SHOWN_IN_BAR)
        self.optimization.end_iteration()

    @final
    def minimize(self, loss: Tensor, *names: str) -> Tensor:
        """One gradient step on `loss` for the networks named; returns the norm of the gradient, before any limit.

        Only the networks named are changed. Their schedules move one step and so do their averages. With gradient
        accumulation the step is taken in the last of several iterations, and the norm is that of the batches so far
        (`Optimization`).

        Raises:
            UserError: A name is not one of `trained_networks`, or gradients are accumulated and a network would step
                twice in one iteration.
        """
        return self.optimization.minimize(loss, names, self._averages)

    def configure_optimizers(self) -> Any:
        return self.optimization.configured()

    @property
    def starts_anew(self) -> bool:
        """True, from `on_fit_start` on, where a fit resumes no checkpoint."""
        return self.trainer.ckpt_path is None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (state := self.optimization.state()) is not None:
            checkpoint["gathered"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.optimization.load_state(checkpoint.get("gathered"))

    def on_fit_start(self) -> None:
        self.train()  # `load` gives a method in eval mode
        if self.trainer.world_size > 1:  # chains and latents are each process's own
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)
        self.optimization.share_selected_gradients()

    def on_train_start(self) -> None:  # after `on_fit_start` Lightning clears gradients
        self.optimization.restore_gradients(resuming=not self.starts_anew)

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _averages(self) -> nn.ModuleDict:
        """`averages`, which a method without averages need not have."""
        return cast(nn.ModuleDict, self._modules.get("averages") or nn.ModuleDict())

    def network(self, name: str) -> nn.Module:
        """The network that evaluation uses: its average, or with `use_averages` off the weights being trained."""
        if self.use_averages and name in self._averages:
            return cast(nn.Module, self._averages[name].module)
        return cast(nn.Module, getattr(self, name))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it all networks are in eval mode, in the trainer's precision, without gradients; then as before."""
        modes = {module: module.training for module in self.modules()}
        precision = self.trainer.precision_plugin.forward_context() if self._trainer is not None else nullcontext()
        self.eval()
        try:
            # Chains differentiate, which tensors made under inference mode do not allow.
            with torch.inference_mode(False), torch.no_grad(), precision:
                yield
        finally:
            for module, training in modes.items():
                module.training = training

    def setup(self, stage: str) -> None:
        """Check the networks against the data, by a dry run on one image, before anything is trained or loaded."""
        check_precision(self.trainer.precision)
        if isinstance(self.trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise UserError(
                "trainer.strategy shards the parameters, which is not possible with chains on frozen networks and with "
                "averages of the weights; use ddp (see docs/scaling.md)"
            )
        if stage == "fit":
            check_networks(self, self.trained_networks())
        self.to(memory_format=torch.channels_last)
        # 64-true: Lightning converts after this, too late for the dry run.
        self.trainer.precision_plugin.convert_module(self)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData | PlaneData):
            self.check_data(data)

    @property
    def section(self) -> dict[str, Any] | None:
        """The model's section of the config, where the command line built it."""
        section: dict[str, Any] | None = getattr(self._trainer, "model_config", None)
        return section

    def check_data(self, data: ImageData | PlaneData) -> None:
        """Raises `UserError` when the networks do not fit the data's images, or points."""
        shape = (data.channels, data.size, data.size)
        with self.evaluating():
            with fitted_to(data, self.section):
                self.ood_score(torch.zeros(1, *shape, device=self.device))
            # A dry run of sampling too, which also keeps a run's random numbers what they have always been.
            sampled = tuple(self.sample(1, steps=0).images.shape[1:])
        if sampled != shape:
            flags = matching_flags(data, self.section)
            raise UserError(
                f"model makes images of shape {sampled} but data has {shape} (channels, height, width){flags}"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if not self.trains_energy:
            return
        images, _ = batch
        with self.evaluating(), repeatable(seed=batch_idx):
            data, chain = self.energy(images), self.energy(self.sample(len(images)).images)
        values = (data.mean(), chain.mean(), chain.mean() - data.mean())
        self.log_dict(dict(zip(VALIDATED, values, strict=True)), batch_size=len(images), sync_dist=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        with self.evaluating():
            self.log("test/energy_data", self.energy(images).mean(), batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        with self.evaluating():
            return {"energy": self.energy(images), "ood_score": self.ood_score(images), "label": labels}
