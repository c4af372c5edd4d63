"""Noise schedules: the levels of a diffusion, pairs of images at neighbouring levels, and geometric noise levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ebmzoo.errors import UserError


class NoiseSchedule(nn.Module, ABC):
    """Levels 0 … T of a variance-preserving diffusion, x_i = ᾱ_i x + σ̄_i ε with ᾱ_i² + σ̄_i² = 1.

    Level 0 is nearly the data, level T nearly N(0, I). Transition i = 1 … T leads from level i − 1 to level i:

        x_i = α_i x_{i−1} + σ_i ε,   α_i = ᾱ_i/ᾱ_{i−1},   σ_i² = 1 − α_i².

    The tables `alpha_bar`, `sigma_bar`, `alpha`, `sigma` and `time` are float32 buffers `(T + 1,)` that move with the
    method and are not in its checkpoint; entry 0 of `alpha` and `sigma` is unused. `time` is the input t of
    time-conditioned networks at each level.
    Source: DRL (Gao et al., 2021), §3.2; CDRL, §3.1, where the product for ᾱ has a wrong index.
    Shapes: the methods' `i` is `(B,)` int64.

    >>> class Linear(NoiseSchedule):
    ...     def extra_repr(self) -> str:
    ...         return f"levels={self.levels}"
    >>> schedule = Linear(torch.linspace(0.9, 0.1, 3, dtype=torch.float64))
    >>> schedule.levels, torch.allclose(schedule.alpha_bar**2 + schedule.sigma_bar**2, torch.ones(3))
    (2, True)

    Args:
        alpha_bar: ᾱ_0 > … > ᾱ_T, `(T + 1,)` float64.
        time: t of each level, `(T + 1,)`; None means 1000·(2/π) atan e^{−λ/2}, in [0, 1000], with λ = log ᾱ²/σ̄².
    """

    alpha_bar: Tensor
    sigma_bar: Tensor
    alpha: Tensor
    sigma: Tensor
    time: Tensor

    def __init__(self, alpha_bar: Tensor, time: Tensor | None = None) -> None:
        super().__init__()
        sigma_bar = (1 - alpha_bar.square()).sqrt()
        alpha = torch.ones_like(alpha_bar)
        alpha[1:] = alpha_bar[1:] / alpha_bar[:-1]
        sigma = (1 - alpha.square()).clamp_min(0).sqrt()
        if time is None:
            # 1000·(2/π) atan e^{−λ/2} with e^{−λ/2} = σ̄/ᾱ (CDRL's code)
            time = 2000 / math.pi * torch.atan2(sigma_bar, alpha_bar)
        tables = {"alpha_bar": alpha_bar, "sigma_bar": sigma_bar, "alpha": alpha, "sigma": sigma, "time": time}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    @property
    def levels(self) -> int:
        """T, the number of transitions, and of energies, one for each of the levels 0 … T − 1."""
        return len(self.alpha_bar) - 1

    @property
    def logsnr(self) -> Tensor:
        """λ_i = log ᾱ_i²/σ̄_i² of all levels, `(T + 1,)`."""
        return 2 * (self.alpha_bar.log() - self.sigma_bar.log())

    def is_top(self, i: Tensor) -> Tensor:
        """Return True for transitions from level T, where the energy is the marginal one (DRL, §3.2); `(B,)` bool."""
        return i == self.levels

    def scale(self, i: Tensor) -> Tensor:
        """Return the factor m_i of y = m_i x_{i−1}, `(B,)`: α_i, but 1 for the transition from level T."""
        return torch.where(self.is_top(i), torch.ones_like(self.alpha[i]), self.alpha[i])

    def noised(self, x: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """Return x_i = ᾱ_i x + σ̄_i ε for clean images `x` and `noise` ε, both `(B, *)`."""
        return column(self.alpha_bar[i], x) * x + column(self.sigma_bar[i], x) * noise

    def pair(self, x: Tensor, i: Tensor, shared: bool = True) -> tuple[Tensor, Tensor]:
        """Return (x_{i−1}, x_i), each `(B, *)`, of clean images `x`.

        With `shared`, x_{i−1} = ᾱ_{i−1} x + σ̄_{i−1} ε and x_i = ᾱ_i x + σ̄_i ε with the same ε (CDRL, Eq. 9, where the
        second line must read x_0). Otherwise x_i = α_i x_{i−1} + σ_i ε', the diffusion itself. The marginals are equal.
        """
        noise = torch.randn_like(x)
        lower = self.noised(x, i - 1, noise)
        if shared:
            return lower, self.noised(x, i, noise)
        return lower, column(self.alpha[i], x) * lower + column(self.sigma[i], x) * torch.randn_like(x)

    def proposal_std(self, i: Tensor) -> Tensor:
        """Return m_i σ̃_i, σ̃_i² = (σ̄_{i−1}²/σ̄_i²) σ_i², `(B,)`: the least spread of y given x_i (CDRL, Eq. 6)."""
        return self.scale(i) * self.sigma_bar[i - 1] / self.sigma_bar[i] * self.sigma[i]

    def posterior_mean(self, x: Tensor, x_i: Tensor, i: Tensor) -> Tensor:
        """Return E[x_{i−1} | x_0 = x, x_i] = (ᾱ_{i−1} σ_i² x + α_i σ̄_{i−1}² x_i)/σ̄_i², `(B, *)`.

        Source: Ho et al. (2020), Eq. 7.
        """
        lower, upper = self.sigma_bar[i - 1].square(), self.sigma_bar[i].square()
        of_x = self.alpha_bar[i - 1] * self.sigma[i].square() / upper
        return column(of_x, x) * x + column(self.alpha[i] * lower / upper, x) * x_i

    def loss_weight(self, i: Tensor) -> Tensor:
        """Return the weight w_i = σ_1/σ_i of the energy's loss, `(B,)`: from CDRL's code, not printed in the papers."""
        return self.sigma[1] / self.sigma[i]

    @abstractmethod
    def extra_repr(self) -> str: ...


class CosineSchedule(NoiseSchedule):
    """The cosine schedule: λ(u) = −2 log tan(a u + b) at u = i/T and ᾱ² = sigmoid(λ).

    a and b are such that λ(0) is `logsnr_max` and λ(1) is `logsnr_min`. Source: CDRL, A.3, Eq. 19 and 20.

    >>> schedule = CosineSchedule(levels=6, logsnr_max=9.8, logsnr_min=-5.1)
    >>> [round(float(schedule.logsnr[i]), 3) for i in (0, 6)]
    [9.8, -5.1]

    Args:
        levels: T, 2 or more.
        logsnr_max: λ of level 0.
        logsnr_min: λ of level T.

    Raises:
        UserError: If there are fewer than 2 levels, or `logsnr_max` is not above `logsnr_min`.
    """

    def __init__(self, levels: int = 6, logsnr_max: float = 9.8, logsnr_min: float = -5.1) -> None:
        if levels < 2:
            raise UserError(f"schedule.levels is {levels}; it must be 2 or more")
        if not logsnr_max > logsnr_min:
            raise UserError(f"schedule.logsnr_max is {logsnr_max}; it must be above logsnr_min, {logsnr_min}")
        b = math.atan(math.exp(-logsnr_max / 2))
        a = math.atan(math.exp(-logsnr_min / 2)) - b
        u = torch.arange(levels + 1, dtype=torch.float64) / levels
        super().__init__(torch.cos(a * u + b))  # sigmoid(−2 log tan v) = cos² v
        self.ends = (logsnr_max, logsnr_min)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, logsnr={self.ends}"


class DRLSchedule(NoiseSchedule):
    """DRL's schedule: ᾱ_i² = Π_{k ≤ k_i} (1 − β_k) at k_i = 0, d, …, d (T − 1), 999.

    β rises from 1e-4 to 0.02 in 1,000 equal steps. Source: DRL (Gao et al., 2021); in its code d = ⌊1000/2(T − 1)⌋,
    100 for T6. CDRL's T8 (G.3) adds two levels to the noisy end of T6: 8 levels with d = 100.

    >>> schedule = DRLSchedule(levels=6)
    >>> schedule.time.tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    >>> round(float(schedule.alpha_bar[0] ** 2), 4)  # 1 − β_0
    0.9999

    Args:
        levels: T, 2 or more.
        spacing: d; None means the value in DRL's code.
        time: What the time t of a level is that networks receive: its number i (`level`, DRL), or a function of its
            log-SNR (`logsnr`, CDRL).

    Raises:
        UserError: If there are fewer than 2 levels, or they do not fit into 1,000 steps.
    """

    def __init__(self, levels: int = 6, spacing: int | None = None, time: Literal["level", "logsnr"] = "level") -> None:
        if levels < 2:
            raise UserError(f"schedule.levels is {levels}; it must be 2 or more")
        apart = 1000 // (2 * (levels - 1)) if spacing is None else spacing
        if apart < 1 or apart * (levels - 1) >= 999:
            raise UserError(f"schedule.spacing is {apart}; {levels} levels need from 1 to {998 // (levels - 1)}")
        alpha_bar_squared = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        steps = [*range(0, apart * levels, apart), 999]
        numbers = torch.arange(levels + 1, dtype=torch.float64) if time == "level" else None
        super().__init__(alpha_bar_squared[steps].sqrt(), numbers)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class GeometricNoise(nn.Module):
    """Geometric noise levels σ_k = σ_max (σ_min/σ_max)^((k − 1)/(S − 1)), k = 1 … S, of multi-scale denoisers.

    `sigma` is a decreasing float32 buffer `(S,)` that moves with the method and is not in its checkpoint; `on_host` has
    the same numbers for chains, whose step sizes would otherwise wait for the device.
    Source: Song & Ermon (2019), §3.2; the defaults are those of Denoising-EBM, §5.

    >>> GeometricNoise(levels=3, sigma_max=1.0, sigma_min=0.25).sigma
    tensor([1.0000, 0.5000, 0.2500])

    Args:
        levels: S, 2 or more.
        sigma_max: σ_1, the standard deviation of the strongest noise.
        sigma_min: σ_S, that of the weakest, above 0.

    Raises:
        UserError: If there are fewer than 2 levels, or not σ_max > σ_min > 0.
    """

    sigma: Tensor

    def __init__(self, levels: int = 128, sigma_max: float = 1.0, sigma_min: float = 0.01) -> None:
        super().__init__()
        if levels < 2:
            raise UserError(f"noise.levels is {levels}; it must be 2 or more")
        if not math.inf > sigma_max > sigma_min > 0:
            raise UserError(
                f"noise.sigma_max is {sigma_max}; it must be above sigma_min, {sigma_min}, and both above 0"
            )
        self.on_host = tuple(float(np.float32(sigma)) for sigma in geometric_sequence(sigma_max, sigma_min, levels))
        self.register_buffer("sigma", torch.tensor(self.on_host, dtype=torch.float32), persistent=False)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return `n` of the σ, drawn uniformly with replacement, `(n,)`."""
        index = torch.randint(len(self.sigma), (n,), device=self.sigma.device, generator=generator)
        return self.sigma[index]

    def extra_repr(self) -> str:
        return f"levels={len(self.on_host)}, from {self.on_host[0]:g} to {self.on_host[-1]:g}"


def geometric_sequence(first: float, last: float, n: int) -> list[float]:
    """Return a_k = first (last/first)^((k − 1)/(n − 1)), k = 1 … n; a single number is `last`.

    >>> geometric_sequence(1.0, 0.25, 3)
    [1.0, 0.5, 0.25]
    """
    return [first * (last / first) ** (k / (n - 1)) for k in range(n)] if n > 1 else [last][:n]


def column(values: Tensor, x: Tensor) -> Tensor:
    """Return `values`, `(B,)`, in a shape that multiplies `x`, `(B, *)`.

    >>> column(torch.ones(4), torch.zeros(4, 3, 8, 8)).shape
    torch.Size([4, 1, 1, 1])
    """
    return values.view(-1, *[1] * (x.dim() - 1))
