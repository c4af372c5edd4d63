"""What every method is: an iteration that trains it, an energy, samples and an out-of-distribution score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.plane import PlaneData
from ebmzoo.errors import UserError
from ebmzoo.methods.base.averaging import Average
from ebmzoo.methods.base.ddp_hook import average_selected_gradients
from ebmzoo.methods.base.log_values import LogValues
from ebmzoo.methods.base.optimization import NetworkOptimizer
from ebmzoo.sampling.randomness import repeatable

PRECISIONS = ("32-true", "bf16-mixed", "64-true")


@dataclass(frozen=True)
class Samples:
    """Images with what they cost.

    `images` are `(n, C, H, W)` in [-1, 1] up to the chain's noise; `nfe` counts network evaluations per image;
    `start` says where the chain began; `temperature` is τ²/2η, NaN without a chain.
    """

    images: Tensor
    nfe: int
    start: str
    steps: int
    temperature: float


class Method(LightningModule, ABC):
    """An energy-based model with the algorithm that trains it.

    A method is one file: `trained_networks` names the networks with their optimizers, `iterate` is the algorithm box.
    `training_step` is the same for all: one batch is one iteration and one `global_step`, however many optimizers step.
    `accumulate` is the trainer's `accumulate_grad_batches`, of which see `minimize`.
    """

    averages: nn.ModuleDict
    use_averages: bool = True
    accumulate: int = 1
    _stepped: tuple[str, ...] = ()
    _selected: set[int] = set()  # noqa: RUF012  (replaced, never changed)
    _kept: dict[str, Tensor] | None = None

    @abstractmethod
    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        """The networks that are trained, by name; the same names at every call."""

    @abstractmethod
    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        """One iteration of the algorithm on images in [-1, 1]: the gradient steps by `minimize`, and what to log."""

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
        """`n` images, with `steps` Langevin steps instead of the sampler's own where given."""

    @property
    def has_density(self) -> bool:
        """Whether exp(−E) is, but for Z, the density of images; False where `energy` only compares them."""
        return True

    def ood_score(self, x: Tensor) -> Tensor:
        """How far out of distribution each image is, `(B,)`, higher is farther: the energy, unless there is better."""
        return self.energy(x)

    @property
    def trains_energy(self) -> bool:
        """Whether the run has come to train the energy; before that there is nothing to validate or draw."""
        return True

    @property
    def phase(self) -> str:
        """What the run is doing, for the progress bar."""
        return "training"

    @property
    def automatic_optimization(self) -> bool:
        return False

    @automatic_optimization.setter
    def automatic_optimization(self, value: bool) -> None:
        if value:
            raise UserError("a Method steps its optimizers itself, by `minimize`")

    # ── training ────────────────────────────────────────────────────────────────────────────────────────────────────

    @final
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self._stepped = ()
        for name, value in self.iterate(images, labels).items():
            self.log(f"train/{name}", value, prog_bar=name in ("energy_gap", "displacement", "ssrl_loss"))
        # Lightning counts optimizer steps; here a batch counts once, whatever was stepped in it (see `minimize`).
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    @final
    def minimize(self, loss: Tensor, *names: str) -> Tensor:
        """One gradient step on `loss` for the networks named; returns the norm of the gradient, before any limit.

        Only the networks named are changed. Their schedules move one step and so do their averages.

        With `accumulate` k the gradient is the mean of k successive batches', and the step, with all that moves with
        it, is taken in the last of them. That is one batch of k times the size, but for batch statistics, and for a
        loss that waits for another step of its own iteration. The norm is that of the batches so far.

        Raises:
            UserError: gradients are accumulated, and a network would step twice in one iteration.
        """
        order = self.trained_networks()
        optimizers = dict(zip(order, self.trainer.optimizers, strict=True))
        scheduled = [name for name, descent in order.items() if descent.schedule is not None]
        configs = self.trainer.lr_scheduler_configs
        schedules = {name: config.scheduler for name, config in zip(scheduled, configs, strict=True)}
        self._backward(loss, order, names)
        squares = []
        for name, descent in order.items():
            if name not in names:
                continue
            parameters = list(descent.network.parameters())
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            squares.append(norm.square())
            if not self.steps_now:
                continue
            if descent.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, descent.clip_norm, norm)
            # Not through LightningOptimizer.step, which would raise global_step once for each optimizer.
            self.trainer.strategy.optimizer_step(optimizers[name], closure=lambda: None, model=self)
            if name in schedules:
                schedules[name].step()
            if name in self.averages:
                cast(Average, self.averages[name]).update_parameters(descent.network)
        return torch.stack(squares).sum().sqrt() * (self.accumulate / (self._gathered + 1))

    def _backward(self, loss: Tensor, order: dict[str, NetworkOptimizer], names: tuple[str, ...]) -> None:
        """Add 1/k of the gradient of `loss` to that of the networks named, and leave the others' as it was."""
        others: list[tuple[nn.Parameter, Tensor | None]] = []
        for name, descent in order.items():
            for p in descent.network.parameters():
                if name not in names and self.accumulate > 1:
                    others.append((p, p.grad))
                if name not in names or self._gathered == 0:
                    p.grad = None
        if self.accumulate > 1:
            if twice := [name for name in names if name in self._stepped]:
                raise UserError(
                    f"trainer.accumulate_grad_batches is {self.accumulate}; it must be 1, for {type(self).__name__} "
                    f"steps its {twice[0]} more than once in an iteration"
                )
            self._stepped = (*self._stepped, *names)
            loss = loss / self.accumulate
        self._selected = {id(p) for name in names for p in order[name].network.parameters()}
        self.manual_backward(loss)
        for p, grad in others:
            p.grad = grad

    @property
    def _gathered(self) -> int:
        """Of how many batches before this one the gradients are kept."""
        return self.global_step % self.accumulate

    @property
    def steps_now(self) -> bool:
        """Whether networks step in this iteration: in every one, or in the last of `accumulate`."""
        return self._gathered == self.accumulate - 1

    def configure_optimizers(self) -> Any:
        configured = []
        for name, descent in self.trained_networks().items():
            try:
                optimizer = descent.optimizer(descent.network.parameters())
                one: dict[str, Any] = {"optimizer": optimizer}
                if descent.schedule is not None:
                    one["lr_scheduler"] = {"scheduler": descent.schedule(optimizer), "interval": "step"}
            except (ValueError, TypeError) as error:  # torch looks at its numbers only now
                raise UserError(f"model: the optimizer of {name}, or its schedule, cannot be made: {error}") from error
            configured.append(one)
        return configured

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def network(self, name: str) -> nn.Module:
        """The network that evaluation uses: its average, or with `use_averages` off the weights being trained."""
        if self.use_averages and name in self.averages:
            return cast(nn.Module, self.averages[name].module)
        return cast(nn.Module, getattr(self, name))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """All networks in eval mode, in the trainer's precision, without gradients; afterwards each is as it was."""
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
        if (precision := str(self.trainer.precision)) not in PRECISIONS:
            raise UserError(f"trainer.precision is {precision}; energies need fp32, so choose one of {PRECISIONS}")
        if isinstance(self.trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise UserError(
                "trainer.strategy shards the parameters, which chains on frozen networks and copies for averages do "
                "not bear; use ddp (see docs/scaling.md)"
            )
        self.to(memory_format=torch.channels_last)
        # 64-true: Lightning converts after this, too late for the dry run.
        self.trainer.precision_plugin.convert_module(self)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData | PlaneData):
            self.check_data(data)

    @property
    def starts_anew(self) -> bool:
        """From `on_fit_start` on, whether a fit goes on from no checkpoint: one holds what else would be loaded."""
        return self.trainer.ckpt_path is None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._gathered:
            kept = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
            checkpoint["gathered"] = {"accumulate": self.accumulate, "gradients": kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        gathered = checkpoint.get("gathered", {})
        self._kept = gathered["gradients"] if gathered.get("accumulate") == self.accumulate else None

    def on_fit_start(self) -> None:
        self.train()  # `load` gives a method in eval mode
        if self.trainer.world_size > 1:  # chains and latents are each process's own
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and strategy._ddp_comm_hook is None:
            cast(DistributedDataParallel, strategy.model).register_comm_hook(
                lambda: self._selected, average_selected_gradients
            )

    def on_train_start(self) -> None:  # after `on_fit_start` Lightning clears gradients
        if self._kept is not None and not self.starts_anew:
            for name, p in self.named_parameters():
                p.grad = self._kept[name].to(p) if name in self._kept else None
        self._kept = None

    def check_data(self, data: ImageData | PlaneData) -> None:
        """Raises `UserError` when the networks do not fit the data's images, or points."""
        shape = (data.channels, data.size, data.size)
        with self.evaluating():
            try:
                self.ood_score(torch.zeros(1, *shape, device=self.device))
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"model does not accept data of shape {shape} (channels, height, width): {reason}"
                ) from error
            made = tuple(self.sample(1, steps=0).images.shape[1:])
        if made != shape:
            raise UserError(f"model makes images of shape {made} but data has {shape} (channels, height, width)")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if not self.trains_energy:
            return
        images, _ = batch
        with self.evaluating(), repeatable(seed=batch_idx):
            data, chain = self.energy(images), self.energy(self.sample(len(images)).images)
        self.log_dict(
            {
                "val/energy_data": data.mean(),
                "val/energy_chain": chain.mean(),
                "val/energy_gap": chain.mean() - data.mean(),
            },
            batch_size=len(images),
            sync_dist=True,
        )

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        with self.evaluating():
            self.log("test/energy_data", self.energy(images).mean(), batch_size=len(images), sync_dist=True)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        images, labels = batch
        with self.evaluating():
            return {"energy": self.energy(images), "ood_score": self.ood_score(images), "label": labels}
