"""How well the generator reconstructs test images, from inferred latents and after a chain that revises them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.image_range import ImageRange
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Generates, Reconstructs
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, fidelity, ssim_window
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget


class Reconstruction(Task):
    """MSE, PSNR and SSIM of G(z) against the test image x, as means over images.

    Rows: `inference`, z = μ(x); `inference+L`, z after L Langevin steps on p(z|x) from μ(x); `noise+L`, the same from z
    ~ N(0, I). The nfe of a row counts each inference, latent step and decoding as 1. The rows of one start are states
    of one chain; if it diverges, its later rows are NaN.
    Source: Dual-MCMC, §5.3, Fig. 3 and Table 3 (Inf, Inf+L=10).

    Args:
        n: The largest number of test images, in the order of the set.
        steps: The L of `inference+L`, 1 or more each.
        noise_steps: The L of `noise+L`, 1 or more each.
        posterior: The latent chain; None uses the method's own, or the defaults of `PosteriorSampler` if it has none.
        image_range: The units of the MSE; in [-1, 1], the default and the papers' choice, it is 4 times that in [0, 1].
        batch_size: Images per batch of chains.
        shown: Images in the picture, at most `batch_size`; its rows are the images and the rows of the table.

    Raises:
        UserError: A number is out of range.
    """

    name = "reconstruction"

    def __init__(
        self,
        n: int = 1000,
        steps: tuple[int, ...] = (10,),
        noise_steps: tuple[int, ...] = (),
        posterior: PosteriorSampler | None = None,
        image_range: tuple[float, float] = (-1.0, 1.0),
        batch_size: int = 250,
        shown: int = 8,
    ) -> None:
        for key, value in {"n": n, "batch_size": batch_size, "shown": shown}.items():
            if value < 1:
                raise UserError(f"reconstruction.{key} is {value}; it must be 1 or more")
        for key, chosen in {"steps": steps, "noise_steps": noise_steps}.items():
            if any(length < 1 for length in chosen):
                raise UserError(f"reconstruction.{key} is {list(chosen)}; each must be 1 or more")
        self.n = n
        self.steps = steps
        self.noise_steps = noise_steps
        self.posterior = posterior
        self.range = ImageRange(*image_range)
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.images_of(self.n)

    def supports(self, method: Method) -> bool:
        infers = isinstance(method, Reconstructs) and method.can_infer
        return infers or (isinstance(method, Generates) and len(self.noise_steps) > 0)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, Generates)
        infers = isinstance(method, Reconstructs) and method.can_infer
        own = method.posterior_sampler if isinstance(method, Reconstructs) else None
        sampler, of_method = self.posterior or own or PosteriorSampler(), self.posterior is None and own is not None
        images = data.test_set.images[: self.n]
        result = Result(self.name)
        result.protocol = {
            "images": len(images),
            "data": data.test_set.name,
            "image_range": [self.range.low, self.range.high],
            "ssim_window": ssim_window(*images.shape[-2:]),
            "latent_chain": latent_chain(sampler, {*(self.steps if infers else ()), *self.noise_steps}, of_method),
        }
        strips = {"x": prepare(images[: min(self.shown, self.batch_size)])}
        with method.evaluating(), frozen(method):
            if isinstance(method, Reconstructs) and method.can_infer:
                rows = {0: "inference"} | {length: f"inference+{length}" for length in sorted(self.steps)}
                strips |= self._follow(method, sampler, images, method.infer, rows, 1, result)
            if self.noise_steps:
                rows = {length: f"noise+{length}" for length in sorted(self.noise_steps)}
                strips |= self._follow(method, sampler, images, partial(prior, method.latent), rows, 0, result)
        if folder is not None:
            path = folder / "reconstruction.png"
            save_strips(torch.stack(list(strips.values())), path, list(strips), numbered("image", len(strips["x"])))
            result.pictures.append(str(path))
        return result

    def _follow(
        self,
        method: Method,
        sampler: PosteriorSampler,
        images: Tensor,
        start: Callable[[Tensor], Tensor],
        rows: dict[int, str],
        nfe: int,
        result: Result,
    ) -> dict[str, Tensor]:
        """Compute the figures of the rows of one start; returns the picture's images for each, by its name.

        `start` maps images to the latents that the chain starts from, in `nfe` network evaluations.
        """
        assert isinstance(method, Generates)
        found: dict[int, list[dict[str, Tensor]]] = {length: [] for length in rows}
        strips: dict[int, Tensor] = {}
        seconds = dict.fromkeys(rows, 0.0)
        for batch in tracked(torch.split(images, self.batch_size), "images", unit="batch"):
            x, reached = prepare(batch.to(method.device)), -1
            try:
                for length, made, took in _along(method.decode_inferred, sampler, x, start, list(found)):
                    found[length].append(fidelity(made, x, self.range))
                    strips.setdefault(length, made[: self.shown].float().cpu())
                    seconds[length] += took
                    reached = length
            except ChainDivergedError as error:
                found = {length: values for length, values in found.items() if length <= reached}
                lost = [row for length, row in rows.items() if length not in found]
                result.notes.append(f"{', '.join(lost)}: {error}")
            if not found:
                break
        for length, row in rows.items():
            for metric in ("mse", "psnr", "ssim"):
                values = [parts[metric] for parts in found.get(length, [])]
                result.figures[f"{row}/{metric}"] = float(torch.cat(values).double().mean()) if values else math.nan
            result.figures[f"{row}/nfe"] = nfe + length + 1
            result.figures[f"{row}/seconds"] = seconds[length] if length in found else math.nan
        return {rows[length]: strips[length] for length in found}


def _along(
    decode: Callable[[Tensor], Tensor],
    sampler: PosteriorSampler,
    x: Tensor,
    start: Callable[[Tensor], Tensor],
    lengths: list[int],
) -> Iterator[tuple[int, Tensor, float]]:
    """At each of the increasing `lengths` of one chain: the length, G(z), and the seconds of a chain of that length."""

    def chain() -> Iterator[Tensor]:
        yield from sampler.path(decode, x, start(x), steps=lengths[-1])

    states, took, spent = chain(), dict[str, float](), 0.0
    for k in range(lengths[-1] + 1):
        with stopwatch(took, "state"):
            z = next(states)
        spent += took["state"]
        if k in lengths:
            with stopwatch(took, "decode"):
                made = decode(z)
            yield k, made, spent + took["decode"]


def prior(latent: int, x: Tensor) -> Tensor:
    """z ~ N(0, I), `(B, latent)`, one per image of `x`."""
    return torch.randn(len(x), latent, device=x.device)


def latent_chain(sampler: PosteriorSampler, lengths: Collection[int], of_method: bool) -> dict[str, Any]:
    """The entries of a protocol for chains on p(z|x), with the σ of their energy and the `lengths` that were evaluated.

    `of_method` says whether the chain is the method's own.
    """
    return {
        "steps": sorted(lengths),
        "sigma": sampler.posterior(torch.nn.Identity(), torch.empty(0)).sigma,
        "step_size": sampler.sampler.step_size,
        "noise": sampler.sampler.tau,
        "temperature": sampler.sampler.temperature,
        "of_method": of_method,
    }
