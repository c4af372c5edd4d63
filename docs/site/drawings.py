"""The pictures of docs/concepts.md: an energy on the plane that is known exactly, and chains on it.

python docs/site/drawings.py            # writes docs/pictures/concept_*.png
python docs/site/drawings.py --out DIR
"""

import argparse
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from ebmzoo import Langevin, ReplayBuffer

PICTURES = Path(__file__).resolve().parent.parent / "pictures"
MEANS = torch.tensor([[-1.2, -0.8], [1.2, -0.8], [0.0, 1.3]])
SHARES = torch.tensor([0.25, 0.25, 0.5])
SPREAD = 0.35
REACH = 2.5
"""The half-width of every plot."""
CHAIN, DATA = "#d62728", "#1f77b4"


def energy(x: Tensor) -> Tensor:
    """E(x) = −log p(x) of three Gaussians, `(B, 2)` to `(B,)`: normalised, so that log Z is 0."""
    square = (x[:, None] - MEANS).square().sum(2)
    return -torch.logsumexp(SHARES.log() - square / (2 * SPREAD**2) - math.log(2 * math.pi * SPREAD**2), 1)


def data(n: int) -> Tensor:
    return MEANS[torch.multinomial(SHARES, n, replacement=True)] + SPREAD * torch.randn(n, 2)


def noise(n: int) -> Tensor:
    return REACH * (2 * torch.rand(n, 2) - 1)


def surface(axes: plt.Axes, values, *, filled: bool = True, levels: int | list[float] = 14) -> None:
    """Contours of a function of points."""
    line = torch.linspace(-REACH, REACH, 161)
    x, y = torch.meshgrid(line, line, indexing="xy")
    z = values(torch.stack([x.flatten(), y.flatten()], 1)).view_as(x)
    if filled:
        axes.contourf(x, y, z, levels, cmap="viridis")
    else:
        axes.contour(x, y, z, levels, colors="0.6", linewidths=0.6)
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")


def panels(n: int) -> tuple[plt.Figure, list[plt.Axes]]:
    figure, axes = plt.subplots(1, n, figsize=(3.1 * n, 3.5), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def dots(axes: plt.Axes, x: Tensor, colour: str, size: float = 3) -> None:
    axes.plot(*x.T, ".", color=colour, markersize=size, markeredgewidth=0)


def draw_energy() -> plt.Figure:
    figure, (points, density, low) = panels(3)
    surface(points, energy, filled=False, levels=[1, 2, 4, 8])
    dots(points, data(800), DATA)
    points.set_title("data x")
    surface(density, lambda x: torch.exp(-energy(x)))
    density.set_title("density p(x) = exp(−E(x))/Z")
    surface(low, lambda x: energy(x).clamp_max(12))
    low.set_title("energy E(x): low where data is likely")
    return figure


def draw_chain() -> plt.Figure:
    figure, (descent, walk, ends) = panels(3)
    start = torch.tensor([[-2.2, 2.2], [2.2, 2.2], [2.3, -2.3], [-0.2, 0.1]])
    both = ((descent, 0.0, "τ = 0: gradient descent"), (walk, None, "τ = √(2η): Langevin, T = 1"))
    for axes, tau, title in both:
        surface(axes, energy, filled=False, levels=[1, 2, 4, 8, 16, 24])
        path = torch.stack(list(Langevin(steps=150, step_size=0.005, noise=tau).path(energy, start)))
        for states in path.unbind(1):
            axes.plot(*states.T, "-", color=CHAIN, linewidth=0.8)
        dots(axes, start, "black", 7)
        axes.set_title(title)
    surface(ends, energy, filled=False, levels=[1, 2, 4, 8])
    dots(ends, Langevin(steps=400, step_size=0.005)(energy, noise(800)), CHAIN)
    ends.set_title("ends of 800 chains of 400 steps")
    return figure


def draw_temperature() -> plt.Figure:
    figure, axes = panels(3)
    for panel, temperature in zip(axes, (1.0, 0.1, 0.001), strict=True):
        chain = Langevin(steps=1000, step_size=0.005, noise=math.sqrt(2 * 0.005 * temperature))
        surface(panel, energy, filled=False, levels=[1, 2, 4, 8])
        dots(panel, chain(energy, noise(800)), CHAIN)
        panel.set_title(f"T = τ²/2η = {temperature:g}")
    return figure


def distance(x: Tensor) -> float:
    """Total variation between points and p, over 16 × 16 cells: 0 to 1."""
    edges = torch.linspace(-REACH, REACH, 17)
    cumulative = torch.special.ndtr((edges[:, None, None] - MEANS) / SPREAD).diff(dim=0)
    exact = torch.einsum("ik,jk,k->ij", cumulative[:, :, 0], cumulative[:, :, 1], SHARES)
    found = torch.histogramdd(x, [edges, edges]).hist / len(x)
    return float((found - exact).abs().sum() + (1 - found.sum()) + (1 - exact.sum())) / 2


def draw_evaluations() -> plt.Figure:
    figure, axes = plt.subplots(figsize=(5.4, 3.3), layout="constrained")
    n, start = 20_000, noise(20_000)
    for eta, colour in ((0.002, "0.6"), (0.01, DATA), (0.05, CHAIN)):
        path = Langevin(steps=300, step_size=eta).path(energy, start)
        kept = {k: distance(x) for k, x in enumerate(path) if k % 10 == 0}
        axes.plot(list(kept), list(kept.values()), color=colour, label=f"η = {eta}")
    axes.axhline(distance(data(n)), color="black", linestyle=":", label="as many true points")
    axes.set(xlabel="network evaluations per image (NFE)", ylabel="total variation to p", ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def draw_replay() -> plt.Figure:
    figure, axes = panels(4)
    chain = Langevin(steps=10, step_size=0.005)
    surface(axes[0], energy, filled=False, levels=[1, 2, 4, 8])
    dots(axes[0], chain(energy, noise(800)), CHAIN)
    axes[0].set_title("10 steps from noise, always")
    replay = ReplayBuffer(800, (2, 1, 1), reinit_prob=0.05)
    replay.states.mul_(REACH)
    at = 0
    for panel, iterations in zip(axes[1:], (1, 10, 100), strict=True):
        for _ in range(iterations - at):
            states, slots = replay.draw(800)
            replay.store(chain(lambda x: energy(x.flatten(1)), states), slots)
        at = iterations
        surface(panel, energy, filled=False, levels=[1, 2, 4, 8])
        dots(panel, replay.states.flatten(1), CHAIN)
        panel.set_title(f"buffer, iteration {iterations}")
    return figure


def draw_recovery() -> plt.Figure:
    figure, axes = panels(4)
    noisy = torch.tensor([[0.3, 0.4]])
    surface(axes[0], lambda y: energy(y).clamp_max(12))
    axes[0].set_title("E(y): several modes")
    for panel, sigma in zip(axes[1:], (1.0, 0.4, 0.15), strict=True):

        def given(y: Tensor, sigma: float = sigma) -> Tensor:
            return energy(y) + (y - noisy).square().sum(1) / (2 * sigma**2)

        surface(panel, lambda y, given=given: given(y).clamp_max(float(given(data(4000)).min()) + 10))
        dots(panel, Langevin(steps=300, step_size=0.002)(given, noisy.repeat(200, 1)), "white", 3)
        panel.plot(*noisy.T, "x", color=CHAIN, markersize=9, markeredgewidth=2)
        panel.set_title(f"E(y) + |y − x|²/2σ², σ = {sigma:g}")
    return figure


DRAWINGS = {
    "energy": draw_energy,
    "chain": draw_chain,
    "temperature": draw_temperature,
    "nfe": draw_evaluations,
    "replay": draw_replay,
    "recovery": draw_recovery,
}


def draw(folder: Path) -> list[Path]:
    """Write every picture, each from the same random numbers."""
    paths = []
    for name, drawing in DRAWINGS.items():
        torch.manual_seed(0)
        figure = drawing()
        paths.append(folder / f"concept_{name}.png")
        figure.savefig(paths[-1], dpi=100, bbox_inches="tight")
        plt.close(figure)
    return paths


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=PICTURES)
    print(*draw(arguments.parse_args().out), sep="\n")
