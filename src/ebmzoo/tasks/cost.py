"""The cost of samples: quality, network evaluations and seconds for shorter and shorter chains."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Literal, Self

import torch

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.families.generator_chain import GeneratorAlone
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging
from ebmzoo.tasks.generation import chain_protocol, compared, draw, real_images


class Cost(Task):
    """NFE, seconds for `timed` samples and Fréchet distance for each number of Langevin steps.

    Rows: `steps_K`, `sample(n, steps=K)`; for CDRL and DRL K is the number of steps at each level, with the step size
    that belongs to it. All rows start from the same noise. `seconds` is the median over `repeats` batches of `timed`
    samples, after one warm-up batch.
    Source: CDRL, Table 2 and Table 9, which use 100 samples.

    Args:
        steps: The numbers of steps, 0 or more.
        timed: Samples in a timed batch.
        repeats: Timed batches.
        n: Samples of the Fréchet distance, 2 or more; 0 skips it.
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the real images are taken from, `train` or `test`.
        batch_size: Images per batch of chains of those n.

    Raises:
        UserError: A number is out of range.
    """

    name = "cost"

    def __init__(
        self,
        steps: tuple[int, ...] = (15, 8, 5, 3),
        timed: int = 100,
        repeats: int = 3,
        n: int = 0,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["train", "test"] = "train",
        batch_size: int = 250,
    ) -> None:
        if not steps or any(k < 0 for k in steps) or len(set(steps)) < len(steps):
            raise UserError(f"cost.steps is {list(steps)}; it must be different numbers, 0 or more")
        for key, value in {"timed": timed, "repeats": repeats, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"cost.{key} is {value}; it must be 1 or more")
        if n < 0 or n == 1:
            raise UserError(f"cost.n is {n}; it must be 2 or more, or 0 for no Fréchet distance")
        self.steps = steps
        self.timed = timed
        self.repeats = repeats
        self.n = n
        self.extractors = extractors or []
        self.split = split
        self.batch_size = batch_size

    def supports(self, method: Method) -> bool:
        return not isinstance(method, GeneratorAlone)  # which samples without steps

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.timed, self.repeats = budget.share_of(self.timed), budget.share_of(self.repeats, least=1)
        self.n = budget.samples_of(self.n) if self.n else 0

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        result.protocol = {"timed": self.timed, "repeats": self.repeats}
        result.protocol |= {"extractors": {}, "chains": {}}
        seed, made = int(torch.randint(2**31, ())), {}
        for k in self.steps:
            row = f"steps_{k}"
            with diverging(result, f"{row}/seconds"):
                seconds = []
                for _ in range(1 + self.repeats):
                    clock: dict[str, float] = {}
                    with stopwatch(clock, "seconds"):
                        _, sampled = draw(method, self.timed, self.timed, k, seed)
                    seconds.append(clock["seconds"])
                result.figures[f"{row}/nfe"] = sampled.nfe
                result.figures[f"{row}/seconds"] = median(seconds[1:])
                result.protocol["chains"][row] = chain_protocol(sampled)
                if self.n:
                    made[f"{row}/"], _ = draw(method, self.n, self.batch_size, k, seed)
        if self.n:
            real = real_images(data, self.split, None).images
            result.protocol |= {"n": self.n, "split": self.split, "real_images": len(real)}
        for extractor in self.extractors if self.n else ():
            if extractor.available() is None:
                for prefix, of_real, features, _ in compared(
                    extractor, method.device, real, made, self.batch_size, result
                ):
                    result.figures[f"{prefix}{extractor.fd_name}"] = of_real.frechet_distance(features)
        if folder is not None and made:
            shown = to_float(torch.stack([images[:8] for images in made.values()]))
            rows = [f"K = {row.removeprefix('steps_').rstrip('/')}" for row in made]
            save_strips(shown, path := folder / "cost.png", rows, numbered("sample", shown.shape[1]))
            result.pictures.append(str(path))
        return result
