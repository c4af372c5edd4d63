"""The terms that Energy Matching adds to its transport: the contrastive one in training, and repulsion of samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ebmzoo.errors import UserError


@dataclass(frozen=True)
class EnergyMatchingContrast:
    """The contrastive term of phase 2: max(λ (mean V(x) − mean V(x̃)), −β), the mean of x̃ without its highest α.

    Where the gap is above β/λ the term is constant, and V is left to the transport; α keeps single chains that left
    the data from deciding. Source: Energy Matching, §3.3, and its code, whose numbers on CIFAR-10 are the default.

    Args:
        weight: λ, which has 1/ε_max in it. 1/d to 3/d on images of d elements in each of the authors' runs.
        trim: α, the part of the chains' ends of the highest V that is left out, from 0 to below 1.
        floor: β; infinity for no floor.
        from_data: The part of the chains that start from data; the others start from noise.

    Raises:
        UserError: A number is out of its range.
    """

    weight: float = 1e-3
    trim: float = 0.1
    floor: float = 0.02
    from_data: float = 0.5

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.floor >= 0):
            raise UserError(f"model.contrast.weight is {self.weight} and floor {self.floor}; both must be 0 or more")
        if not (0 <= self.trim < 1 and 0 <= self.from_data <= 1):
            raise UserError(
                f"model.contrast.trim is {self.trim} and from_data {self.from_data}; trim must be from 0 to below 1, "
                "from_data from 0 to 1"
            )

    def kept(self, chain: Tensor) -> Tensor:
        """V(x̃), `(B,)`, without the highest ⌊αB⌋ of them."""
        return chain.sort().values[: len(chain) - int(self.trim * len(chain))]

    def __call__(self, data: Tensor, chain: Tensor) -> Tensor:
        """The term, of V(x) and V(x̃), `(B,)` each."""
        return (self.weight * (data.mean() - self.kept(chain).mean())).clamp_min(-self.floor)


@dataclass(frozen=True)
class EnergyMatchingInteraction:
    """Samples in groups of `together` that repel each other (`Repelling`), for variety; σ in units of [-1, 1].

    Raises:
        UserError: A number is out of its range.
    """

    sigma: float
    together: int = 2

    def __post_init__(self) -> None:
        if not self.sigma > 0 or self.together < 2:
            raise UserError(
                f"model.interaction.sigma is {self.sigma} and together {self.together}; they must be above 0 and 2 or "
                "more"
            )
