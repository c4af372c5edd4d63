"""Adversarial perturbations of images within a ball, by projected gradient descent on a classifier's own loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmzoo.energy import savable
from ebmzoo.errors import UserError


@dataclass(frozen=True)
class ProjectedGradientAttack:
    """Perturbations δ of at most `radius` in a norm that raise the cross-entropy, x + δ in [-1, 1].

        δ ← project(δ + a s(∇CE(x + δ))),   s(g) = sign g for ℓ∞ and g/|g| for ℓ₂,   a = rate · radius/steps

    from one random start, uniform in the ball. An image withstands it if it is classified correctly as it is and at
    every state of the attack. Source: Madry et al. (2018), whose a is 2.5 · radius/steps.

    >>> attack = ProjectedGradientAttack("linf", radius=0.5, steps=4)
    >>> brightness = lambda x: torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], dim=1)
    >>> x = torch.stack([torch.full((1, 2, 2), 0.4), torch.full((1, 2, 2), 0.6)])
    >>> attack(brightness, x, labels=torch.tensor([0, 0]))
    tensor([False,  True])

    Args:
        norm: `linf` or `l2`, over all elements of an image.
        radius: In units of images in [-1, 1], above 0.
        steps: Gradient steps, one pass of the classifier forward and backward each; a last pass follows.
        rate: The length of all steps together, in units of the radius.

    Raises:
        UserError: A number is out of its range.
    """

    norm: Literal["linf", "l2"]
    radius: float
    steps: int = 20
    rate: float = 2.5

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise UserError(f"attack.norm is {self.norm!r}; it must be linf or l2")
        if self.steps < 1:
            raise UserError(f"attack.steps is {self.steps}; it must be 1 or more")
        for key in ("radius", "rate"):
            if not getattr(self, key) > 0:
                raise UserError(f"attack.{key} is {getattr(self, key)}; it must be above 0")

    def __call__(
        self,
        logits: Callable[[Tensor], Tensor],
        x: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return which images withstand the attack, `(B,)` bool; the logits of one must not depend on another.

        Args:
            logits: The classifier, from images in [-1, 1], `(B, *)`, to `(B, K)`; its parameters should be frozen.
            x: The images.
            labels: Their classes, `(B,)` int64.
            generator: Source of the start; None is torch's global generator.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x, labels = savable(x).detach(), savable(labels)
            with torch.no_grad():
                withstood = logits(x).argmax(1) == labels
            state = self._inside(x, self._start(x, generator))
            for _ in range(self.steps):
                state = state.requires_grad_()
                found = logits(state)
                withstood &= found.argmax(1) == labels
                # In double, as 1 − p(y|x), the gradient of the class's own logit, is 0 in float32 from 17 nats on.
                loss = F.cross_entropy(found.double(), labels, reduction="sum")
                (grad,) = torch.autograd.grad(loss, state)
                delta = (state - x).detach() + self.rate * self.radius / self.steps * self._direction(grad)
                state = self._inside(x, delta)
            with torch.no_grad():
                return withstood & (logits(state).argmax(1) == labels)

    def _start(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """A point of the ball, uniformly."""
        if self.norm == "linf":
            return self.radius * (2 * torch.rand(x.shape, device=x.device, generator=generator) - 1)
        direction = self._direction(torch.randn(x.shape, device=x.device, generator=generator))
        share = torch.rand(len(x), device=x.device, generator=generator) ** (1 / x[0].numel())
        return self.radius * self._per_image(share, x) * direction

    def _direction(self, grad: Tensor) -> Tensor:
        if self.norm == "linf":
            return grad.sign()
        return grad / self._per_image(grad.flatten(1).norm(dim=1).clamp_min(1e-12), grad)

    def _inside(self, x: Tensor, delta: Tensor) -> Tensor:
        """x + δ, with δ first in the ball, which moving into [-1, 1] then leaves no more."""
        if self.norm == "linf":
            delta = delta.clamp(-self.radius, self.radius)
        else:
            norm = delta.flatten(1).norm(dim=1).clamp_min(1e-12)
            delta = delta * self._per_image((self.radius / norm).clamp_max(1.0), delta)
        return (x + delta).clamp(-1, 1).detach()

    @staticmethod
    def _per_image(value: Tensor, x: Tensor) -> Tensor:
        return value.view(-1, *[1] * (x.dim() - 1))
