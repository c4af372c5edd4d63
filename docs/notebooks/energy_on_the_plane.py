# ---
# jupyter:
#   jupytext: {formats: "py:percent,ipynb"}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # An energy on the plane, from scratch
#
# An energy-based model in a page: a network that gives each point a number, `Langevin` to draw samples from it, a
# replay buffer for its chains, and the loss that makes it the density of the data. Points of the plane take the place
# of images, so that everything can be drawn. It takes seconds on a CPU.

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from ebmzoo import EnergyNet, Langevin, ReplayBuffer

QUICK = "EBMZOO_QUICK" in os.environ  # a few iterations, to see that it runs
torch.manual_seed(0)

# %% [markdown]
# The data are points of a ring, as images of two channels and one pixel: `(B, 2, 1, 1)`.

# %%
angle, radius = 2 * math.pi * torch.rand(20_000), 0.7 + 0.08 * torch.randn(20_000)
data = torch.stack([radius * angle.cos(), radius * angle.sin()], 1).view(-1, 2, 1, 1)

# %% [markdown]
# ## The energy
#
# $p(x) \propto \exp(-E(x))$: low where data is likely. `EnergyNet` fixes this sign.


# %%
class Energy(EnergyNet):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        hidden = [nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), *hidden, nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x.flatten(1))[:, 0]


energy = Energy()

# %% [markdown]
# ## The chain
#
# $x \leftarrow x - \eta \nabla E(x) + \tau \xi$ with `step_size` η and `noise` τ. Without `noise` it is $\sqrt{2\eta}$:
# temperature one, so that long chains draw from $\exp(-E)$ itself, here within `bounds`. The buffer keeps the ends of
# the chains, from which the next iteration goes on; one state in twenty is renewed by noise.

# %%
chain = Langevin(steps=10, step_size=0.002, bounds=(-1.25, 1.25))
replay = ReplayBuffer(5000, (2, 1, 1), reinit_prob=0.05)
print("temperature", chain.temperature)

# %% [markdown]
# ## Maximum likelihood
#
# The gradient of $-\log p(x)$ is that of mean $E(x)$ over data minus mean $E(x^-)$ over samples. The gap between the
# two is the first curve to look at: it stays near 0 while the energy can hardly tell chains from data. The squared
# energies keep the constant, which no gradient of a gap determines, from drifting.

# %%
iterations, batch = (30 if QUICK else 1500), 200
optimizer = torch.optim.Adam(energy.parameters(), lr=1e-3, betas=(0.0, 0.999))
gaps = []
for _ in range(iterations):
    x = data[torch.randint(len(data), (batch,))]
    start, slots = replay.draw(batch)
    samples = chain(energy, start)
    replay.store(samples, slots)
    of_data, of_chains = energy(x), energy(samples)
    gap = of_chains.mean() - of_data.mean()
    loss = -gap + 0.001 * (of_data.square() + of_chains.square()).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    gaps.append(float(gap.detach()))
print(f"mean gap over the last tenth: {sum(gaps[-iterations // 10 :]) / (iterations // 10):.3f}")

# %% [markdown]
# ## What it learnt
#
# The density $\exp(-E)/Z$ on a grid, where Z is a sum, and the ends of long chains from noise.

# %%
line = torch.linspace(-1.25, 1.25, 50 if QUICK else 150)
u, v = torch.meshgrid(line, line, indexing="xy")
with torch.no_grad():
    surface = energy(torch.stack([u.flatten(), v.flatten()], 1)).view_as(u)
density = torch.exp(-surface) / torch.exp(-surface).sum()
on_ring = ((u.square() + v.square()).sqrt() - 0.7).abs() < 0.2
print(f"mass of the fitted density on the ring: {float(density[on_ring].sum()):.3f}, of the data 0.988")
long = Langevin(steps=20 if QUICK else 500, step_size=0.002, bounds=(-1.25, 1.25))(
    energy, 2.5 * torch.rand(2000, 2, 1, 1) - 1.25
)

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
axes[0].plot(*data[:2000].flatten(1).T, ".", markersize=2)
axes[0].set_title("data")
axes[1].pcolormesh(u, v, density)
axes[1].set_title("exp(−E)/Z")
axes[2].plot(*long.flatten(1).T, ".", markersize=2, color="tab:red")
axes[2].set_title("ends of long chains")
for axis in axes:
    axis.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), xticks=[], yticks=[], aspect="equal")
figure.savefig("plane.png")

# %% [markdown]
# ![data, the fitted density, and samples](../pictures/notebook_plane.png)
#
# **To try:** `noise=0.001` in the chain, `reinit_prob=0`, a buffer of 200, or chains from noise at each iteration. The
# same method on images is `ebmzoo.methods.baselines.IGEBM`; a method of one's own, with checkpoints, tests and the
# command line, is in `docs/extending.md`.
