"""Noise schedules: the levels of a diffusion, and the noisy pairs of two neighbouring levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from ebmzoo.errors import UserError


class NoiseSchedule(nn.Module, ABC):
    """Levels 0 … T of a variance-preserving diffusion, x_i = ᾱ_i x + σ̄_i ε with ᾱ_i² + σ̄_i² = 1.

    Level 0 is nearly the data, level T nearly N(0, I). Transition i = 1 … T leads from level i − 1 to level i:
    x_i = α_i x_{i−1} + σ_i ε with α_i = ᾱ_i/ᾱ_{i−1} and σ_i² = 1 − α_i². All tables are float32 buffers, which are on
    the method's device and not in its checkpoint; entry 0 of those of a transition is of no use.
    Source: DRL (Gao et al., 2021), §3.2; CDRL, §3.1, whose product for ᾱ has a wrong index.

    Shapes: `i` is `(B,)` int64; what is looked up by it is `(B,)`.
    """

    alpha_bar: Tensor
    sigma_bar: Tensor
    alpha: Tensor
    sigma: Tensor
    time: Tensor

    def __init__(self, alpha_bar: Tensor, time: Tensor | None = None) -> None:
        """`alpha_bar`, `(T + 1,)` float64, falls; `time` is what networks are told of a level, by default its SNR's."""
        super().__init__()
        sigma_bar = (1 - alpha_bar.square()).sqrt()
        alpha = torch.ones_like(alpha_bar)
        alpha[1:] = alpha_bar[1:] / alpha_bar[:-1]
        sigma = (1 - alpha.square()).clamp_min(0).sqrt()
        if time is None:
            # 1000·(2/π) atan e^{−λ/2}, where e^{−λ/2} is σ̄/ᾱ (CDRL's code)
            time = 2000 / math.pi * torch.atan2(sigma_bar, alpha_bar)
        tables = {"alpha_bar": alpha_bar, "sigma_bar": sigma_bar, "alpha": alpha, "sigma": sigma, "time": time}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    @property
    def levels(self) -> int:
        """T, the number of transitions, and of energies: one each for the levels 0 … T − 1."""
        return len(self.alpha_bar) - 1

    @property
    def logsnr(self) -> Tensor:
        """λ_i = log ᾱ_i²/σ̄_i², `(T + 1,)`."""
        return 2 * (self.alpha_bar.log() - self.sigma_bar.log())

    def is_top(self, i: Tensor) -> Tensor:
        """Whether the transition comes from level T, whose energy is a marginal one (DRL, §3.2), `(B,)` bool."""
        return i == self.levels

    def scale(self, i: Tensor) -> Tensor:
        """m_i of y = m_i x_{i−1}: α_i, and 1 at the top."""
        return torch.where(self.is_top(i), torch.ones_like(self.alpha[i]), self.alpha[i])

    def noised(self, x: Tensor, i: Tensor, noise: Tensor) -> Tensor:
        """x_i = ᾱ_i x + σ̄_i ε."""
        return column(self.alpha_bar[i], x) * x + column(self.sigma_bar[i], x) * noise

    def pair(self, x: Tensor, i: Tensor, shared: bool = True) -> tuple[Tensor, Tensor]:
        """(x_{i−1}, x_i) of clean images `x`: the levels that transition i joins.

        With `shared`, x_{i−1} = ᾱ_{i−1} x + σ̄_{i−1} ε and x_i = ᾱ_i x + σ̄_i ε with one ε (CDRL, Eq. 9, whose second
        line must read x_0); without, x_i = α_i x_{i−1} + σ_i ε', the diffusion itself. The marginals are the same.
        """
        noise = torch.randn_like(x)
        lower = self.noised(x, i - 1, noise)
        if shared:
            return lower, self.noised(x, i, noise)
        return lower, column(self.alpha[i], x) * lower + column(self.sigma[i], x) * torch.randn_like(x)

    def proposal_std(self, i: Tensor) -> Tensor:
        """m_i σ̃_i, σ̃_i² = (σ̄_{i−1}²/σ̄_i²) σ_i²: the least spread of x_{i−1} given x_i, scaled to y (CDRL, Eq. 6)."""
        return self.scale(i) * self.sigma_bar[i - 1] / self.sigma_bar[i] * self.sigma[i]

    def posterior_mean(self, x: Tensor, x_i: Tensor, i: Tensor) -> Tensor:
        """E[x_{i−1} | x_0 = x, x_i] = (ᾱ_{i−1} σ_i² x + α_i σ̄_{i−1}² x_i)/σ̄_i² (Ho et al., 2020, Eq. 7)."""
        lower, upper = self.sigma_bar[i - 1].square(), self.sigma_bar[i].square()
        of_x = self.alpha_bar[i - 1] * self.sigma[i].square() / upper
        return column(of_x, x) * x + column(self.alpha[i] * lower / upper, x) * x_i

    def loss_weight(self, i: Tensor) -> Tensor:
        """w_i = σ_1/σ_i: the code's weight of an energy's loss, which the papers do not print."""
        return self.sigma[1] / self.sigma[i]

    @abstractmethod
    def extra_repr(self) -> str: ...


class CosineSchedule(NoiseSchedule):
    """λ(u) = −2 log tan(a u + b) at u = i/T, with λ(0) = `logsnr_max` and λ(1) = `logsnr_min`; ᾱ² = sigmoid(λ).

    Source: CDRL, A.3, Eq. 19 and 20. Networks are told 1000·(2/π) atan e^{−λ/2}, in [0, 1000].

    Raises:
        UserError: there are fewer than 2 levels, or the ends are the wrong way round.
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
    """ᾱ_i² = Π_{k ≤ k_i} (1 − β_k), β from 1e-4 to 0.02 in 1,000 equal steps, at k = 0, d, …, d (T − 1), 999.

    Source: DRL (Gao et al., 2021), whose code has d = ⌊1000/2(T − 1)⌋, 100 for T6; CDRL's T8 (G.3) adds two levels to
    the noisy end of T6, which is d = 100 with 8 levels.

    Args:
        levels: T.
        spacing: d; None is as in DRL's code.
        told: what networks are told of a level, its number i as in DRL, or its `logsnr` as in CDRL.

    Raises:
        UserError: there are fewer than 2 levels, or they do not fit into 1,000 steps.
    """

    def __init__(self, levels: int = 6, spacing: int | None = None, told: Literal["level", "logsnr"] = "level") -> None:
        if levels < 2:
            raise UserError(f"schedule.levels is {levels}; it must be 2 or more")
        apart = 1000 // (2 * (levels - 1)) if spacing is None else spacing
        if apart < 1 or apart * (levels - 1) >= 999:
            raise UserError(f"schedule.spacing is {apart}; {levels} levels need from 1 to {998 // (levels - 1)}")
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        at = [*range(0, apart * levels, apart), 999]
        time = torch.arange(levels + 1, dtype=torch.float64) if told == "level" else None
        super().__init__(kept[at].sqrt(), time)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class GeometricNoise(nn.Module):
    """σ_k = σ_max (σ_min/σ_max)^((k − 1)/(S − 1)), k = 1 … S: the noise that multi-scale denoisers are trained with.

    Source: Song & Ermon 2019, §3.2; Denoising-EBM, §5, whose numbers are the default. `sigma` is a float32 buffer
    `(S,)`, which falls; it is on the method's device and not in its checkpoint.

    Raises:
        UserError: there are fewer than 2 levels, or not σ_max > σ_min > 0.
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
        exponents = torch.linspace(0, 1, levels, dtype=torch.float64)
        sigma = sigma_max * (sigma_min / sigma_max) ** exponents
        self.register_buffer("sigma", sigma.float(), persistent=False)

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` of the σ, each as likely as another, `(n,)`."""
        at = torch.randint(len(self.sigma), (n,), device=self.sigma.device, generator=generator)
        return self.sigma[at]

    def extra_repr(self) -> str:
        return f"levels={len(self.sigma)}, from {float(self.sigma[0]):g} to {float(self.sigma[-1]):g}"


def column(values: Tensor, x: Tensor) -> Tensor:
    """`(B,)` values shaped to multiply `x`, `(B, *)`."""
    return values.view(-1, *[1] * (x.dim() - 1))
