"""How well the model tells its own test images from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import stdev

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods.base import Method
from ebmzoo.methods.capabilities import ScoresByChance
from ebmzoo.metrics import auroc, fpr95
from ebmzoo.tasks.base import Result, Task


class OutOfDistributionDetection(Task):
    """AUROC and FPR95 of the data module's out-of-distribution sets against its test set.

    Two scores, both higher for what is farther out: the marginal energy E(x), and the method's own (LIEBM, Eq. 15:
    the joint score). A set that cannot be had is left out, with a note. Of a method whose score has noise in it,
    `auroc_score` is of the mean over its seeds, `auroc_score_std` the standard deviation over S seeds (divisor S − 1)
    of the AUROC of each seed's scores alone, which the protocol lists.

    Args:
        n: at most so many images of each set.
        batch_size: images in one evaluation.
    """

    name = "ood"

    def __init__(self, n: int = 10_000, batch_size: int = 250) -> None:
        if n < 1:
            raise UserError(f"ood.n is {n}; it must be 1 or more")
        self.n, self.batch_size = n, batch_size

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name)
        inside = self._scores(method, data.test_set.images[: self.n])
        result.protocol = {"in": data.test_set.name, "in_images": len(inside["energy"]), "out_images": {}}
        for source in data.ood:
            try:
                images = source.load(data).images[: self.n]
            except UserError as error:
                result.notes.append(f"{source.name}: {error}")
                continue
            outside = self._scores(method, images)
            result.protocol["out_images"][source.name] = len(images)
            for score in ("energy", "score"):
                result.figures[f"{source.name}/auroc_{score}"] = auroc(inside[score], outside[score])
                result.figures[f"{source.name}/fpr95_{score}"] = fpr95(inside[score], outside[score])
            if isinstance(method, ScoresByChance):
                each = [auroc(a, b) for a, b in zip(inside["of_seeds"], outside["of_seeds"], strict=True)]
                result.protocol.setdefault("auroc_score_of_seeds", {})[source.name] = each
                if len(each) > 1:
                    result.figures[f"{source.name}/auroc_score_std"] = stdev(each)
        if not data.ood:
            result.notes.append("data.ood is empty: name the sets to hold against the test set there")
        return result

    def _scores(self, method: Method, images: Tensor) -> dict[str, Tensor]:
        """`energy` and `score`, `(N,)`; of a method whose score has noise in it also `of_seeds`, `(S, N)`."""
        scores: dict[str, Callable[[Tensor], Tensor]] = {"energy": method.energy, "score": method.ood_score}
        if isinstance(method, ScoresByChance):
            del scores["score"]  # the mean over seeds, which need not be computed twice
            scores["of_seeds"] = method.ood_scores
        found: dict[str, list[Tensor]] = {name: [] for name in scores}
        with method.evaluating():
            for batch in torch.split(images, self.batch_size):
                x = to_float(batch.to(method.device)).contiguous(memory_format=torch.channels_last)
                for name, score in scores.items():
                    found[name].append(score(x).cpu().double())
        of_each = {name: torch.cat(parts, dim=-1) for name, parts in found.items()}
        if "of_seeds" in of_each:
            of_each["score"] = of_each["of_seeds"].mean(0)
        return of_each
