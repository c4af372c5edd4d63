"""Whether samples follow the law of the energy: how chains change when they run far beyond their usual length."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import RunsChain, RunsLevels
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, effective_sample_size, rank_normalised, split_rhat
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.report.plots import Panel, save_lines
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol, compared, real_images
from ebmzoo.tasks.paths import PathRecorder, mean_square

RECORDED = 1000
"""The largest number of states of a chain, evenly spaced, whose energies are in the trace."""


class Stability(Task):
    """The method's chains at `times` times their length: one path, with the sampler's η and τ and the method's start.

    Figures, for each k in `times`, where 1 is the chain of `sample`:

        times_k/fd_<extractor>   Fréchet distance of the states to real images
        times_k/energy           mean E(x), beside real/energy of as many real images
        times_k/displacement     root mean square of the elements of x − x₀
        times_k/nfe              network evaluations per image
        r_hat                    rank-normalised split-R̂ of E over the second half of the longest path; 1 is agreement
        ess                      effective sample size of the same traces, over all chains together, out of `states`

    A chain that has converged to exp(−E/T) stays there: its figures at 1, 10 and 100 agree, and a small r_hat says that
    chains from different starts agree. Those of a short-run sampler do not (Nijkamp et al. 2020, On the anatomy of
    MCMC-based maximum likelihood learning, §3). An r_hat near 1 is necessary, not sufficient: modes that no chain has
    visited leave no trace.

    A method with noise levels runs k times its steps at each level, with the step size of training, again from the same
    noise for each k; the chains of a level are conditioned on different noisier images and so have different laws,
    which is why there is no displacement, r_hat or ess.

    Args:
        times: Multiples of the chain's length, increasing, 1 or more.
        n: Chains, 2 or more.
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the real images are taken from, `train` or `test`.
        shown: Chains in the picture, one per row: the start and the states at `times`.
        limit: The largest number of Langevin steps of all chains together; larger multiples are skipped, which the
            protocol records. None skips none.
        batch_size: Images per batch of chains.

    Raises:
        UserError: A number is out of range.
    """

    name = "stability"

    def __init__(
        self,
        times: tuple[int, ...] = (1, 10, 100),
        n: int = 100,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["train", "test"] = "train",
        shown: int = 8,
        limit: int | None = 200_000,
        batch_size: int = 250,
    ) -> None:
        if not times or any(k < 1 for k in times) or list(times) != sorted(set(times)):
            raise UserError(f"stability.times is {list(times)}; it must be increasing numbers, 1 or more")
        if n < 2:
            raise UserError(f"stability.n is {n}; it must be 2 or more")
        for key, value in {"shown": shown, "batch_size": batch_size, "limit": 1 if limit is None else limit}.items():
            if value < 1:
                raise UserError(f"stability.{key} is {value}; it must be 1 or more")
        self.times = times
        self.n = n
        self.extractors = extractors or []
        self.split = split
        self.shown = shown
        self.limit = limit
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, RunsLevels) or (isinstance(method, RunsChain) and method.chain_steps > 0)

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        real = real_images(data, self.split, None).images
        result.protocol = {"n": self.n, "split": self.split, "real_images": len(real), "extractors": {}, "chains": {}}
        states = self._by_levels(method, result) if isinstance(method, RunsLevels) else self._along(method, result)
        with method.evaluating():
            batches = torch.split(to_float(real[: self.n]).to(method.device), self.batch_size)
            result.figures["real/energy"] = float(torch.cat([method.energy(batch) for batch in batches]).mean())
        made = {f"times_{k}/": images for k, images in states.items() if k > 0}
        for e in self.extractors if made else ():
            if e.available() is None:
                for row, of_real, features, _ in compared(e, method.device, real, made, self.batch_size, result):
                    result.figures[f"{row}{e.fd_name}"] = of_real.frechet_distance(features)
        if folder is not None and states:
            self._draw(states, result, folder)
        return result

    def _affordable(self, steps: int, sums: bool, result: Result) -> list[int]:
        """The multiples of `steps` within the limit, along one path or run separately; the protocol lists the rest."""
        kept: list[int] = []
        for k in self.times:
            whole = (sum(kept) if sums else 0) + k
            if self.limit is None or self.n * steps * whole <= self.limit:
                kept.append(k)
        if left := [k for k in self.times if k not in kept]:
            omitted = ", ".join(f"{k}" for k in left)
            result.protocol["left_out"] = f"times {omitted} skipped: over {self.limit} steps of all chains together"
        return kept

    # ── one path ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _along(self, method: Method, result: Result) -> dict[int, Tensor]:
        """The states at 0 and at each multiple, uint8 `(n, C, H, W)`, up to the first divergence."""
        assert isinstance(method, RunsChain)
        steps = method.chain_steps
        kept = self._affordable(steps, sums=False, result=result)
        if not kept:
            return {}
        marks = {k * steps: k for k in (0, *kept)}
        last, info = max(marks), method.chain_info()
        every = max(1, math.ceil(last / RECORDED))
        measured = sorted({*range(0, last + 1, every), *marks})
        paths, diverged = PathRecorder(frozenset(measured), frozenset(marks)), False
        with method.evaluating():
            for first in range(0, self.n, self.batch_size):
                start, states = method.long_chain(min(self.batch_size, self.n - first), last)
                try:
                    paths.follow(
                        tracked(states, "chain", total=last + 1, unit="step"),
                        energy=lambda x, x0: method.energy(x).float(),
                        square=mean_square,
                    )
                except ChainDivergedError as error:
                    if not diverged:
                        result.notes.append(f"times_{max(kept)}: {error}")
                    diverged = True
        reached, trace, square = min(paths.reached), paths.values("energy"), paths.values("square")
        result.curves |= {"energy": trace.mean(0).tolist(), "step": [float(k) for k in measured[: trace.shape[1]]]}
        for step, k in marks.items():
            if k > 0:
                alive, column = step <= reached, measured.index(step)
                energy = float(trace[:, column].mean()) if alive else math.nan
                displacement = math.sqrt(square[:, column].mean()) if alive else math.nan
                result.figures |= {f"times_{k}/energy": energy, f"times_{k}/displacement": displacement}
                result.figures[f"times_{k}/nfe"] = info.nfe - info.steps + step
                result.protocol["chains"][f"times_{k}"] = chain_protocol(info) | {"start": start, "steps": step}
        kept_late = [i for i, k in enumerate(measured) if k > last // 2 and k % every == 0]
        if not diverged and len(kept_late) >= 4 and (late := trace[:, kept_late]).isfinite().all():
            ranks = rank_normalised(late)
            result.figures |= {"r_hat": split_rhat(ranks), "ess": effective_sample_size(ranks), "states": late.numel()}
            result.protocol["trace"] = (
                f"{late.shape[1]} energies per chain, every {every} steps of the second half of {last}"
            )
        return {k: torch.cat(paths.images[step]) for step, k in marks.items() if step <= reached}

    # ── levels ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _by_levels(self, method: Method, result: Result) -> dict[int, Tensor]:
        """The samples of each multiple, uint8 `(n, C, H, W)`, except where a chain diverged."""
        assert isinstance(method, RunsLevels)
        steps, seed = method.chain_info().steps, int(torch.randint(2**31, ()))
        found: dict[int, Tensor] = {}
        for k in self._affordable(steps, sums=True, result=result):
            images, energies = [], []
            try:
                for first in tracked(range(0, self.n, self.batch_size), f"{k} times the steps", unit="batch"):
                    random = torch.Generator(method.device).manual_seed(seed + first)
                    sampled = method.sample_longer(min(self.batch_size, self.n - first), k, generator=random)
                    with method.evaluating():
                        energies.append(method.energy(sampled.images).cpu())
                    images.append(to_uint8(sampled.images).cpu())
            except ChainDivergedError as error:
                result.notes.append(f"times_{k}: {error}")
                result.figures[f"times_{k}/energy"] = math.nan
                continue
            result.figures |= {f"times_{k}/energy": float(torch.cat(energies).mean()), f"times_{k}/nfe": sampled.nfe}
            result.protocol["chains"][f"times_{k}"] = chain_protocol(sampled)
            found[k] = torch.cat(images)
        return found

    def _draw(self, states: dict[int, Tensor], result: Result, folder: Path) -> None:
        shown = torch.stack([to_float(images[: self.shown]) for images in states.values()], dim=1)
        columns = ["start" if k == 0 else f"times {k}" for k in states]
        save_strips(shown, path := folder / "stability.png", numbered("chain", len(shown)), columns)
        result.pictures.append(str(path))
        if "energy" not in result.curves:
            return
        try:
            chains = {f"{self.n} chains": (result.curves["step"], result.curves["energy"])}
            panel = Panel("mean energy E(x)", chains, {"real images": result.figures["real/energy"]})
            save_lines([panel], "Langevin step", path := folder / "stability_energy.png", log=True)
            result.pictures.append(str(path))
        except UserError as error:
            result.notes.append(str(error))
