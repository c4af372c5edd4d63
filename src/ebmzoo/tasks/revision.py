"""The states of the two chains: Langevin on the energy from G(z), and on the posterior p(z|x) from inferred latents."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Reconstructs, StartsFromGenerator
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, mean_squared_error
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.report.plots import Panel, save_lines
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol, compared, real_images
from ebmzoo.tasks.paths import PathRecorder, mean_square
from ebmzoo.tasks.reconstruction import latent_chain

MOST_COLUMNS = 11
PLOTTED = {
    "x/energy": ("mean energy E(x)", "chain on E from G(z)"),
    "z/mse": ("MSE of G(z) against x in [-1, 1]", "chain on p(z|x) from μ(x)"),
}
"""The curves in the plot, with the labels of their axes and of their lines."""


class Revision(Task):
    """The states of both chains, step by step: x₀ = G(z), z ~ N(0, I), revised by E, and z₀ = μ(x) revised by p(z|x).

    Curves, one value per state: `x/energy`, mean E(x_k); `x/displacement`, the root mean square of the elements of x_k
    − x₀; `z/mse`, the MSE of G(z_k) against the test image x, in [-1, 1]. Figures: their values at the start and at the
    end, the Fréchet distances of x₀ and x_K to real images, and nfe, network evaluations per image. A part that the
    method does not support is skipped; a chain that diverges has no figures, but a note.
    Source: Dual-MCMC, §5.2 and Fig. 2.

    Args:
        n: Chains: latents for the energy's, and the largest number of test images for the posterior's.
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the real images are taken from, `train` or `test`.
        real: `all` images of the split, as for published FIDs, or its first `n`.
        shown: Chains in a picture, one per row, at most `batch_size`; rows of latents begin with the image x.
        every: The stride of the states in a picture, which always has the last; None chooses the smallest with at most
            11 columns (the paper: 3).
        batch_size: Images per batch of chains.

    Raises:
        UserError: A number is out of range.
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
        self.n = n
        self.split = split
        self.real = real
        self.shown = shown
        self.every = every
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, StartsFromGenerator) or (isinstance(method, Reconstructs) and method.can_infer)

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name)
        if isinstance(method, StartsFromGenerator):
            self._revise_images(method, data, result, folder)
        if isinstance(method, Reconstructs) and method.can_infer:
            self._revise_latents(method, data, result, folder)
        panels = [
            Panel(label, {line: (range(len(result.curves[name])), result.curves[name])})
            for name, (label, line) in PLOTTED.items()
            if name in result.curves
        ]
        if folder is not None and panels:
            try:
                save_lines(panels, "Langevin step", path := folder / "revision.png")
                result.pictures.append(str(path))
            except UserError as error:
                result.notes.append(str(error))
        return result

    def _revise_images(self, method: Method, data: ImageData, result: Result, folder: Path | None) -> None:
        result.notes += self.missing()
        try:
            paths = image_paths(method, self.n, self.batch_size, self.shown)
        except ChainDivergedError as error:
            result.notes.append(f"x: {error}")
            result.figures |= dict.fromkeys(("x/energy_start", "x/energy_end", "x/displacement"), math.nan)
            return
        energy, displacement = paths.means("energy"), [math.sqrt(d) for d in paths.means("square")]
        result.curves |= {"x/energy": energy, "x/displacement": displacement}
        result.figures |= {"x/energy_start": energy[0], "x/energy_end": energy[-1], "x/displacement": displacement[-1]}
        result.protocol["n"] = self.n
        self._compare(paths, method, data, result)
        result.figures |= {"x/nfe_start": 1, "x/nfe_end": len(energy)}
        result.protocol["chains"] = {"full": chain_protocol(method.chain_info())}
        self._draw(paths.strips, None, folder, "revision_x.png", result)

    def _compare(self, paths: PathRecorder, method: Method, data: ImageData, result: Result) -> None:
        """Compute the Fréchet distances of the starts and ends of the chains."""
        usable = [e for e in self.extractors if e.available() is None]
        if not usable:
            return
        real = real_images(data, self.split, None if self.real == "all" else self.n)
        result.protocol |= {"split": self.split, "real_images": len(real), "extractors": {}}
        made = {"start": torch.cat(paths.images[0]), "end": torch.cat(paths.ends)}
        for e in usable:
            sets = compared(e, method.device, real.images, made, self.batch_size, result)
            for end, of_real, features, _ in sets:
                result.figures[f"x/{e.fd_name}_{end}"] = of_real.frechet_distance(features)

    def _revise_latents(self, method: Method, data: ImageData, result: Result, folder: Path | None) -> None:
        assert isinstance(method, Reconstructs)
        images = data.test_set.images[: self.n]
        try:
            paths = latent_paths(method, images, self.batch_size, self.shown)
        except ChainDivergedError as error:
            result.notes.append(f"z: {error}")
            result.figures |= dict.fromkeys(("z/mse_start", "z/mse_end"), math.nan)
            return
        mse = paths.means("mse")
        steps = len(mse) - 1
        result.curves["z/mse"] = mse
        result.figures |= {"z/mse_start": mse[0], "z/mse_end": mse[-1], "z/nfe_start": 2, "z/nfe_end": 2 + steps}
        result.protocol |= {
            "images": len(images),
            "data": data.test_set.name,
            "image_range": [-1.0, 1.0],
            "latent_chain": latent_chain(posterior_of(method), [steps], method.posterior_sampler is not None),
        }
        real = prepare(images[: len(paths.strips[0])])
        self._draw(paths.strips, real, folder, "revision_z.png", result)

    def _draw(self, strips: list[Tensor], real: Tensor | None, folder: Path | None, file: str, result: Result) -> None:
        """Draw selected states of the shown chains, after the images that they reconstruct."""
        if folder is None:
            return
        states = columns(len(strips) - 1, self.every)
        chosen, labels = torch.stack([strips[k] for k in states], dim=1), [f"step {k}" for k in states]
        if real is not None:
            chosen, labels = torch.cat([real[:, None], chosen], dim=1), ["x", *labels]
        save_strips(chosen, folder / file, numbered("chain" if real is None else "image", len(chosen)), labels)
        result.pictures.append(str(folder / file))


def image_paths(method: Method, n: int, batch_size: int, shown: int) -> PathRecorder:
    """`n` paths x₀ = G(z), x₁, …, x_K on the energy, with `energy` E(x_k) and `square` |x_k − x₀|²/CHW.

    Raises:
        ChainDivergedError: A chain diverged.
    """
    assert isinstance(method, StartsFromGenerator)
    recorder = PathRecorder(kept=(0,), shown=shown)
    with method.evaluating():
        for first in range(0, n, batch_size):
            z = torch.randn(min(batch_size, n - first), method.latent, device=method.device)
            recorder.follow(method.revise(method.decode(z)), energy=lambda x, x0: method.energy(x), square=mean_square)
    return recorder


def latent_paths(method: Method, images: Tensor, batch_size: int, shown: int) -> PathRecorder:
    """Images G(z₀), …, G(z_K) of paths from z₀ = μ(x) on p(z|x) for uint8 images x, with `mse` against x in [-1, 1].

    Raises:
        ChainDivergedError: A chain diverged.
    """
    assert isinstance(method, Reconstructs)
    recorder = PathRecorder(shown=shown)
    with method.evaluating(), frozen(method):
        for batch in tracked(torch.split(images, batch_size), "images", unit="batch"):
            x = prepare(batch.to(method.device))
            states = posterior_of(method).path(method.decode_inferred, x, method.infer(x))

            def mse(made: Tensor, _: Tensor, x: Tensor = x) -> Tensor:
                return mean_squared_error(made, x)

            recorder.follow(map(method.decode_inferred, states), mse=mse)
    return recorder


def posterior_of(method: Reconstructs) -> PosteriorSampler:
    """The method's own chain on latents, or `PosteriorSampler` with its defaults if it has none."""
    return method.posterior_sampler or PosteriorSampler()


def columns(steps: int, every: int | None) -> list[int]:
    """The states among 0, …, `steps` in a picture: every `every`-th and the last; None: at most 11 columns."""
    every = every or max(1, math.ceil(steps / (MOST_COLUMNS - 1)))
    return [*range(0, steps, every), steps]
