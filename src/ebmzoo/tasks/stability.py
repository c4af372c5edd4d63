"""Whether samples are those of the energy: what becomes of the chains that made them when they go on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import RunsChain, RunsLevels
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, effective_sample_size, frechet_distance, rank_normalised, split_rhat
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import save_against, save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol, compared, real_images

RECORDED = 1000
"""So many states of a chain, evenly spaced, have their energies in the trace, or all if they are fewer."""


class Stability(Task):
    """The method's chains at `times` times their length: one path, with the sampler's η and τ, from its own start.

    Figures, of k in `times`, where 1 is the chain that `sample` runs:

        times_k/fd_<extractor>   Fréchet distance of the states to real images
        times_k/energy           mean E(x), beside real/energy of as many real images
        times_k/displacement     root mean square of x − x₀ an element
        times_k/nfe              network evaluations an image
        r_hat                    rank-normalised split-R̂ of E over the second half of the longest path; 1 is agreement
        ess                      effective sample size of the same traces, of all chains together, out of `states`

    A chain whose law is exp(−E/T) once it has forgotten its start stays there: its figures at 1, 10 and 100 agree, and
    a small r_hat says that chains from different starts do. A short-run sampler's do not (Nijkamp et al. 2020, On the
    anatomy of MCMC-based maximum likelihood learning, §3). r_hat near 1 is necessary, not sufficient: modes that no
    chain ever saw leave no trace.

    A method with noise levels runs k times its steps at each level, with the step size of training, anew for each k
    from the same noise; the chains of a level have different laws, each given its own noisier image, so there is no
    displacement, no r_hat and no ess.

    Args:
        times: multiples of the chain's length.
        n: chains.
        extractors: the networks whose features are compared; one that is not available is left out, with a note.
        split: the real images.
        shown: chains that the picture shows, a row each: the start and the states at `times`.
        limit: Langevin steps of all chains together; multiples that would take more are left out, which the protocol
            tells. None leaves out nothing.
        batch_size: images in one chain.

    Raises:
        UserError: a number is out of its range.
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
            raise UserError(f"stability.times is {list(times)}; it must be rising numbers, 1 or more")
        if n < 2:
            raise UserError(f"stability.n is {n}; it must be 2 or more")
        for key, value in {"shown": shown, "batch_size": batch_size, "limit": 1 if limit is None else limit}.items():
            if value < 1:
                raise UserError(f"stability.{key} is {value}; it must be 1 or more")
        self.times, self.n, self.extractors, self.split = times, n, extractors or [], split
        self.shown, self.limit, self.batch_size = shown, limit, batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def under(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def can_ask(self, method: Method) -> bool:
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
                    result.figures[f"{row}{e.fd_name}"] = frechet_distance(of_real, features)
        if folder is not None and states:
            self._draw(states, result, folder)
        return result

    def _affordable(self, steps: int, sums: bool, result: Result) -> list[int]:
        """The multiples of `steps` that the limit allows, of one path or each on its own; those left out are told."""
        kept: list[int] = []
        for k in self.times:
            whole = (sum(kept) if sums else 0) + k
            if self.limit is None or self.n * steps * whole <= self.limit:
                kept.append(k)
        if left := [k for k in self.times if k not in kept]:
            told = ", ".join(f"{k}" for k in left)
            result.protocol["left_out"] = f"times {told} left out: over {self.limit} steps of all chains together"
        return kept

    # ── one path ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _along(self, method: Method, result: Result) -> dict[int, Tensor]:
        """The states at 0 and at each multiple, uint8 `(n, C, H, W)`, as far as no chain diverged before."""
        assert isinstance(method, RunsChain)
        steps = method.chain_steps
        kept = self._affordable(steps, sums=False, result=result)
        if not kept:
            return {}
        marks = {k * steps: k for k in (0, *kept)}
        path, sampled = PathRecord(last=max(marks), marks=marks), method.sample(1)  # for what it tells of the chain
        with method.evaluating():
            for first in range(0, self.n, self.batch_size):
                start, states = method.long_chain(min(self.batch_size, self.n - first), path.last)
                path.follow(tracked(states, "chain", total=path.last + 1, unit="step"), method)
        if path.diverged:
            result.notes.append(f"times_{max(kept)}: {path.diverged}")
        trace, recorded = path.trace(), path.recorded
        result.curves |= {"energy": trace.mean(0).tolist(), "step": [float(k) for k in recorded[: trace.shape[1]]]}
        for at, k in marks.items():
            if k > 0:
                alive = at <= path.reached
                energy = float(trace[:, recorded.index(at)].mean()) if alive else math.nan
                displacement = math.sqrt(path.square[k] / self.n) if alive else math.nan
                result.figures |= {f"times_{k}/energy": energy, f"times_{k}/displacement": displacement}
                result.figures[f"times_{k}/nfe"] = sampled.nfe - sampled.steps + at
                result.protocol["chains"][f"times_{k}"] = chain_protocol(sampled) | {"start": start, "steps": at}
        kept_late = [i for i, k in enumerate(recorded) if k > path.last // 2 and k % path.every == 0]
        if not path.diverged and len(kept_late) >= 4 and (late := trace[:, kept_late]).isfinite().all():
            ranks = rank_normalised(late)
            result.figures |= {"r_hat": split_rhat(ranks), "ess": effective_sample_size(ranks), "states": late.numel()}
            told = f"{late.shape[1]} energies a chain, every {path.every} steps of the second half of {path.last}"
            result.protocol["trace"] = told
        return {k: torch.cat(path.images[k]) for at, k in marks.items() if at <= path.reached}

    # ── levels ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _by_levels(self, method: Method, result: Result) -> dict[int, Tensor]:
        """The samples of each multiple, uint8 `(n, C, H, W)`, as far as no chain diverged."""
        assert isinstance(method, RunsLevels)
        steps, seed = method.sample(1).steps, int(torch.randint(2**31, ()))
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
        save_strips(shown, path := folder / "stability.png")
        result.pictures.append(str(path))
        if "energy" not in result.curves:
            return
        try:
            curve = {"mean E(x)": result.curves["energy"]}
            path = folder / "stability_energy.png"
            save_against(result.curves["step"], curve, "Langevin step", path, log=True)
            result.pictures.append(str(path))
        except UserError as error:
            result.notes.append(str(error))


@dataclass
class PathRecord:
    """What paths of `last` steps leave behind: the energies of some states, and the states at `marks`.

    `marks` maps a step to its multiple; `square` has the sums over chains of |x − x₀|²/CHW; `reached` is the last step
    before the first divergence, which `diverged` tells of.
    """

    last: int
    marks: dict[int, int]
    images: dict[int, list[Tensor]] = field(default_factory=dict)
    square: dict[int, float] = field(default_factory=dict)
    energies: list[Tensor] = field(default_factory=list)
    diverged: str | None = None
    reached: int = -1

    def __post_init__(self) -> None:
        self.reached = self.last

    @property
    def every(self) -> int:
        """Between the states that make the trace."""
        return max(1, math.ceil(self.last / RECORDED))

    @property
    def recorded(self) -> list[int]:
        """The steps whose energies are kept."""
        return sorted({*range(0, self.last + 1, self.every), *self.marks})

    def follow(self, states: Iterable[Tensor], method: Method) -> None:
        """Go along one batch of paths, to where one diverges."""
        wanted, energies, x0, at = set(self.recorded), list[Tensor](), None, -1
        try:
            for at, x in enumerate(states):
                if x0 is None:
                    x0 = x.clone()
                if at in wanted:
                    energies.append(method.energy(x).float().cpu())
                if at in self.marks:
                    k = self.marks[at]
                    self.images.setdefault(k, []).append(to_uint8(x).cpu())
                    square = float((x - x0).double().square().flatten(1).mean(1).sum())
                    self.square[k] = self.square.get(k, 0.0) + square
        except ChainDivergedError as error:
            self.diverged, self.reached = str(error), min(self.reached, at)
        self.energies.append(torch.stack(energies, dim=1))

    def trace(self) -> Tensor:
        """The energies of all paths, `(n, recorded)`, as far as the first that diverged."""
        shortest = min(batch.shape[1] for batch in self.energies)
        return torch.cat([batch[:, :shortest] for batch in self.energies])
