"""How the networks of a method are optimized: their optimizers, and the gradient steps taken with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ebmzoo.errors import UserError
from ebmzoo.methods.base.averaging import Average
from ebmzoo.methods.base.ddp_hook import average_selected_gradients

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


@dataclass(frozen=True)
class NetworkOptimizer:
    """A network with its optimizer, its schedule stepped once an iteration, and the limit of its gradient norm.

    Raises:
        UserError: The limit is not above 0.
    """

    network: nn.Module
    optimizer: OptimizerCallable
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"model.clip_norm is {self.clip_norm}; it must be above 0, or null for no limit")


def optimizers_of(
    owner: nn.Module,
    optimizers: Mapping[str, OptimizerCallable],
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    clip_norm: float | None = None,
) -> dict[str, NetworkOptimizer]:
    """A `NetworkOptimizer` for each network of `owner` that has an optimizer, by name; a network may be None.

    Raises:
        UserError: `owner` has no attribute of a name.
    """
    for name in optimizers:
        if not hasattr(owner, name):
            raise UserError(f"{type(owner).__name__} has an optimizer for '{name}', but no network of that name")
    networks = {name: getattr(owner, name) for name in optimizers}
    return {
        name: NetworkOptimizer(network, optimizers[name], schedule, clip_norm)
        for name, network in networks.items()
        if network is not None
    }


def _check_kinds(name: str, optimizer: Optimizer, lr_scheduler: Mapping[str, Any] | None = None) -> None:
    """Check that an optimizer and a schedule take a step without a closure, sparse gradients or a metric."""
    if isinstance(optimizer, LBFGS | SparseAdam):
        raise UserError(
            f"model: the optimizer of {name} is {type(optimizer).__name__}; one that steps by dense gradients alone is "
            "needed, such as Adam"
        )
    if lr_scheduler is not None and isinstance(lr_scheduler["scheduler"], ReduceLROnPlateau):
        raise UserError(
            f"model: the schedule of {name} is ReduceLROnPlateau, which follows a metric; one that follows the "
            "iterations alone is needed, such as CosineAnnealingLR"
        )


class Optimization:
    """The gradient steps of a method: accumulation, norm limits, schedules, averages, data parallelism, and resuming.

    With `accumulate` k the gradient is the mean of the gradients of k successive batches, and the step, with all that
    moves with it, is taken in the last of them: one batch of k times the size, except for batch statistics, and for a
    loss that waits for another step of its own iteration.

    Args:
        method: The Lightning module whose networks step; its trainer holds the optimizers.
        networks: The networks by name with their optimizers, equal at every call (`Method.trained_networks`).
    """

    def __init__(self, method: LightningModule, networks: Callable[[], dict[str, NetworkOptimizer]]) -> None:
        self._method = method
        self._networks = networks
        self.accumulate = 1
        self._stepped: tuple[str, ...] = ()
        self._selected: set[int] = set()
        self._kept: dict[str, Tensor] | None = None

    @property
    def gathered(self) -> int:
        """The number of batches before this one whose gradients are kept for the coming step."""
        return self._method.global_step % self.accumulate

    @property
    def steps_now(self) -> bool:
        """True where networks step in this iteration: in every one, or in the last of `accumulate`."""
        return self.gathered == self.accumulate - 1

    def configured(self) -> list[dict[str, Any]]:
        """The optimizers and schedules as Lightning's `configure_optimizers` returns them.

        Raises:
            UserError: torch cannot make an optimizer or a schedule from its numbers, or it needs more than a step.
        """
        configured = []
        for name, trained in self._networks().items():
            try:
                optimizer = trained.optimizer(trained.network.parameters())
                one: dict[str, Any] = {"optimizer": optimizer}
                if trained.schedule is not None:
                    one["lr_scheduler"] = {"scheduler": trained.schedule(optimizer), "interval": "step"}
            except (ValueError, TypeError) as error:  # torch looks at its numbers only now
                raise UserError(f"model: the optimizer of {name}, or its schedule, cannot be made: {error}") from error
            _check_kinds(name, **one)
            configured.append(one)
        return configured

    def begin_iteration(self) -> None:
        """Forget which networks have stepped: a new batch has come."""
        self._stepped = ()

    def end_iteration(self) -> None:
        """Count one iteration, and raise `global_step` by one, however many optimizers stepped."""
        # Lightning counts optimizer steps; here none is counted when it is taken (see `minimize`).
        progress = self._method.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def minimize(self, loss: Tensor, names: Sequence[str], averages: nn.ModuleDict) -> Tensor:
        """One gradient step on `loss` for the networks named; returns the norm of the gradient, before any limit.

        Raises:
            UserError: No network is named, or one that is not trained, or gradients are accumulated and a network would
                step twice in one iteration.
        """
        trainer = self._method.trainer
        order = self._networks()
        if not names or not set(names) <= set(order):
            named = ", ".join(name for name in names if name not in order) or "no network"
            raise UserError(
                f"{type(self._method).__name__} minimizes {named}, but trained_networks() has {', '.join(order)}"
            )
        optimizers = dict(zip(order, trainer.optimizers, strict=True))
        scheduled = [name for name, trained in order.items() if trained.schedule is not None]
        configs = trainer.lr_scheduler_configs
        schedules = {name: config.scheduler for name, config in zip(scheduled, configs, strict=True)}
        self._backward(loss, order, names)
        squares = []
        for name, trained in order.items():
            if name not in names:
                continue
            parameters = list(trained.network.parameters())
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            squares.append(norm.square())
            if not self.steps_now:
                continue
            if trained.clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, trained.clip_norm, norm)
            # Not through LightningOptimizer.step, which would raise global_step once for each optimizer.
            trainer.strategy.optimizer_step(optimizers[name], closure=lambda: None, model=self._method)
            if name in schedules:
                schedules[name].step()
            if name in averages:
                cast(Average, averages[name]).update_parameters(trained.network)
        return torch.stack(squares).sum().sqrt() * (self.accumulate / (self.gathered + 1))

    def _backward(self, loss: Tensor, order: dict[str, NetworkOptimizer], names: Sequence[str]) -> None:
        """Add 1/k of the gradient of `loss` to that of the networks named, and leave the others' as it was."""
        others: list[tuple[nn.Parameter, Tensor | None]] = []
        for name, trained in order.items():
            for p in trained.network.parameters():
                if name not in names and self.accumulate > 1:
                    others.append((p, p.grad))
                if name not in names or self.gathered == 0:
                    p.grad = None
        if self.accumulate > 1:
            if twice := [name for name in names if name in self._stepped]:
                raise UserError(
                    f"trainer.accumulate_grad_batches is {self.accumulate}; it must be 1, because "
                    f"{type(self._method).__name__} steps its {twice[0]} more than once in an iteration"
                )
            self._stepped = (*self._stepped, *names)
            loss = loss / self.accumulate
        self._selected = {id(p) for name in names for p in order[name].network.parameters()}
        self._method.manual_backward(loss)
        for p, grad in others:
            p.grad = grad

    def share_selected_gradients(self) -> None:
        """Under DDP, exchange the gradients of the networks that step, and of no others."""
        strategy = self._method.trainer.strategy
        if isinstance(strategy, DDPStrategy) and strategy._ddp_comm_hook is None:
            parallel = cast(DistributedDataParallel, strategy.model)
            parallel.register_comm_hook(lambda: self._selected, average_selected_gradients)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint keeps: the gradients gathered so far; None where there are none."""
        if not self.gathered:
            return None
        kept = {name: p.grad for name, p in self._method.named_parameters() if p.grad is not None}
        return {"accumulate": self.accumulate, "gradients": kept}

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Keep the gradients of a checkpoint for `restore_gradients`, if they are of as many batches a step."""
        matches = state is not None and state.get("accumulate") == self.accumulate
        self._kept = state["gradients"] if matches and state is not None else None

    def restore_gradients(self, resuming: bool) -> None:
        """Put the gradients of the checkpoint back, where a run resumes; Lightning clears them before."""
        if self._kept is not None and resuming:
            for name, p in self._method.named_parameters():
                p.grad = self._kept[name].to(p) if name in self._kept else None
        self._kept = None
