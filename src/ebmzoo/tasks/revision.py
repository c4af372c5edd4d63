"""What the two chains change: Langevin on the energy from G(z), and on the posterior p(z|x) from inferred latents."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.images import to_uint8
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Reconstructs, StartsFromGenerator
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, frechet_distance, mean_squared_error
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import save_curves, save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol, compared, real_images
from ebmzoo.tasks.reconstruction import latent_chain

MOST_COLUMNS = 11


class Revision(Task):
    """The states of both chains, step by step: x₀ = G(z), z ~ N(0, I), revised by E, and z₀ = μ(x) revised by p(z|x).

    Curves, one value a state: `x/energy`, mean E(x_k); `x/displacement`, the root mean square of x_k − x₀ an element;
    `z/mse`, the MSE of G(z_k) against the test image x, in [-1, 1]. Figures: their values at the start and at the end,
    the Fréchet distances of x₀ and x_K to real images, and nfe, network evaluations an image. A part that the method
    cannot do is left out; of a chain that diverges there is no figure, but a note.
    Source: Dual-MCMC, §5.2 and Fig. 2.

    Args:
        n: how many chains: latents for the energy's, and at most so many test images for the posterior's.
        extractors: the networks whose features are compared; one that is not available is left out, with a note.
        split: the real images, of the training or of the test set.
        real: `all` of the split, as published FIDs do, or the first `n` of it.
        shown: how many chains a picture shows, at most `batch_size`, each a row; the latents' start with the image x.
        every: which states a picture shows: every `every`-th and the last; None takes 11 or fewer (the paper: every 3).
        batch_size: images in one chain.
    """

    name = "revision"

    def __init__(
        self,
        n: int = 1000,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["train", "test"] = "train",
        real: Literal["all", "n"] = "all",
        shown: int = 8,
        every: int | None = None,
        batch_size: int = 250,
    ) -> None:
        if n < (least := 2 if extractors else 1):
            raise UserError(f"revision.n is {n}; it must be {least} or more (a covariance, of extractors, needs 2)")
        for key, value in {"shown": shown, "every": 1 if every is None else every, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"revision.{key} is {value}; it must be 1 or more")
        self.extractors = extractors or []
        self.n, self.split, self.real = n, split, real
        self.shown, self.every, self.batch_size = shown, every, batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def under(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def can_ask(self, method: Method) -> bool:
        return isinstance(method, StartsFromGenerator) or (isinstance(method, Reconstructs) and method.can_infer)

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name)
        if isinstance(method, StartsFromGenerator):
            self._revise_images(method, data, result, folder)
        if isinstance(method, Reconstructs) and method.can_infer:
            self._revise_latents(method, data, result, folder)
        panels = {name: values for name, values in result.curves.items() if name in ("x/energy", "z/mse")}
        if folder is not None and panels:
            try:
                save_curves(panels, "Langevin step", path := folder / "revision.png")
                result.pictures.append(str(path))
            except UserError as error:
                result.notes.append(str(error))
        return result

    def _revise_images(self, method: Method, data: ImageData, result: Result, folder: Path | None) -> None:
        result.notes += self.missing()
        try:
            chains = image_chains(method, self.n, self.batch_size, self.shown)
            sampled = method.sample(1)  # for what it tells of the chain
        except ChainDivergedError as error:
            result.notes.append(f"x: {error}")
            result.figures |= dict.fromkeys(("x/energy_start", "x/energy_end", "x/displacement"), math.nan)
            return
        energy, displacement = chains.means("energy"), [math.sqrt(d) for d in chains.means("square")]
        result.curves |= {"x/energy": energy, "x/displacement": displacement}
        result.figures |= {"x/energy_start": energy[0], "x/energy_end": energy[-1], "x/displacement": displacement[-1]}
        result.protocol["n"] = self.n
        self._compare(chains, method, data, result)
        result.figures |= {"x/nfe_start": 1, "x/nfe_end": len(energy)}
        result.protocol["chains"] = {"full": chain_protocol(sampled)}
        self._draw(chains, folder, "revision_x.png", result)

    def _compare(self, chains: Chains, method: Method, data: ImageData, result: Result) -> None:
        """The Fréchet distances of the chains' starts and ends."""
        usable = [e for e in self.extractors if e.available() is None]
        if not usable:
            return
        real = real_images(data, self.split, None if self.real == "all" else self.n)
        result.protocol |= {"split": self.split, "real_images": len(real), "extractors": {}}
        made = {end: torch.cat(images) for end, images in chains.ends.items()}
        for e in usable:
            sets = compared(e, method.device, real.images, made, self.batch_size, result)
            for end, features_of_real, features, _ in sets:
                result.figures[f"x/{e.fd_name}_{end}"] = frechet_distance(features_of_real, features)

    def _revise_latents(self, method: Method, data: ImageData, result: Result, folder: Path | None) -> None:
        assert isinstance(method, Reconstructs)
        images = data.test_set.images[: self.n]
        try:
            chains = latent_chains(method, images, self.batch_size, self.shown)
        except ChainDivergedError as error:
            result.notes.append(f"z: {error}")
            result.figures |= dict.fromkeys(("z/mse_start", "z/mse_end"), math.nan)
            return
        mse = chains.means("mse")
        steps = len(mse) - 1
        result.curves["z/mse"] = mse
        result.figures |= {"z/mse_start": mse[0], "z/mse_end": mse[-1], "z/nfe_start": 2, "z/nfe_end": 2 + steps}
        result.protocol |= {
            "images": len(images),
            "data": data.test_set.name,
            "image_range": [-1.0, 1.0],
            "latent_chain": latent_chain(posterior_of(method), [steps], method.posterior_sampler is not None),
        }
        self._draw(chains, folder, "revision_z.png", result)

    def _draw(self, chains: Chains, folder: Path | None, file: str, result: Result) -> None:
        if folder is None:
            return
        chosen = torch.stack([chains.shown[k] for k in columns(len(chains.shown) - 1, self.every)], dim=1)
        if chains.real is not None:
            chosen = torch.cat([chains.real[:, None], chosen], dim=1)
        save_strips(chosen, folder / file)
        result.pictures.append(str(folder / file))


@dataclass
class Chains:
    """What many chains of one length left behind: sums over images, state by state, and the states of a few.

    `sums` holds a tensor `(K + 1,)` for each quantity; `shown` is K + 1 tensors `(shown, C, H, W)`; `ends` are the
    first and the last states of all chains as uint8 batches; `real` is what the shown chains are meant to restore.
    """

    n: int
    sums: dict[str, Tensor] = field(default_factory=dict)
    shown: list[Tensor] = field(default_factory=list)
    ends: dict[str, list[Tensor]] = field(default_factory=lambda: {"start": [], "end": []})
    real: Tensor | None = None

    def add(self, quantity: str, values: list[Tensor]) -> None:
        """Count one batch: for each state its values, `(B,)` each."""
        sums = torch.stack([v.cpu().double().sum() for v in values])
        self.sums[quantity] = self.sums.get(quantity, torch.zeros(())) + sums

    def means(self, quantity: str) -> list[float]:
        """The mean over chains at each state, K + 1 of them."""
        return (self.sums[quantity] / self.n).tolist()


def image_chains(method: Method, n: int, batch_size: int, shown: int) -> Chains:
    """`n` chains x₀ = G(z), x₁, …, x_K on the energy, with `energy` E(x_k) and `square` |x_k − x₀|²/CHW.

    Raises:
        ChainDivergedError: a chain diverged.
    """
    assert isinstance(method, StartsFromGenerator)
    chains = Chains(n)
    with method.evaluating():
        for first in range(0, n, batch_size):
            z = torch.randn(min(batch_size, n - first), method.latent, device=method.device)
            energy: list[Tensor] = []
            square: list[Tensor] = []
            states = method.revise(method.decode(z))
            x0 = next(states)
            for x in chain([x0], states):
                energy.append(method.energy(x))
                square.append((x - x0).square().flatten(1).mean(1))
                if first == 0:
                    chains.shown.append(x[:shown].float().cpu())
            chains.add("energy", energy)
            chains.add("square", square)
            chains.ends["start"].append(to_uint8(x0).cpu())
            chains.ends["end"].append(to_uint8(x).cpu())
    return chains


def latent_chains(method: Method, images: Tensor, batch_size: int, shown: int) -> Chains:
    """Chains z₀ = μ(x), z₁, …, z_K on p(z|x) for uint8 images x, with `mse` that of G(z_k) against x in [-1, 1].

    Raises:
        ChainDivergedError: a chain diverged.
    """
    assert isinstance(method, Reconstructs)
    chains = Chains(len(images))
    chains.real = prepare(images[: min(shown, batch_size)])
    with method.evaluating(), frozen(method):
        for batch in tracked(torch.split(images, batch_size), "images", unit="batch"):
            x = prepare(batch.to(method.device))
            mse = []
            first = not chains.shown
            for z in posterior_of(method).path(method.decode_inferred, x, method.infer(x)):
                made = method.decode_inferred(z)
                mse.append(mean_squared_error(made, x))
                if first:
                    chains.shown.append(made[:shown].float().cpu())
            chains.add("mse", mse)
    return chains


def posterior_of(method: Reconstructs) -> PosteriorSampler:
    """The method's own chain on latents, or `PosteriorSampler`'s numbers for one without."""
    return method.posterior_sampler or PosteriorSampler()


def columns(steps: int, every: int | None) -> list[int]:
    """Which of the states 0, …, `steps` a picture shows: every `every`-th and the last; None: as fit in 11 columns."""
    every = every or max(1, math.ceil(steps / (MOST_COLUMNS - 1)))
    return [*range(0, steps, every), steps]
