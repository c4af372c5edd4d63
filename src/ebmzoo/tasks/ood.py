"""Out-of-distribution detection: how well the scores of a model separate its test images from other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.images import shuffled
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import HasStochasticScore, ScoresJointly
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, auroc
from ebmzoo.metrics.bootstrap import intervals
from ebmzoo.metrics.detection import METRICS, Ranked
from ebmzoo.progress import tracked
from ebmzoo.report.histograms import Histogram, histogram, save_histograms
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.joint_score import ChosenWeight
from ebmzoo.tasks.scores import SCORES, Score, available_scores


@dataclass(frozen=True)
class Scored:
    """The scores `(N,)` of a set of images, by name, and those per seed, `(S, N)`, if the score is stochastic."""

    scores: dict[str, Tensor]
    per_seed: Tensor | None = None

    def halves(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The scores of two disjoint halves of the images; the split depends only on their number."""
        n = max(map(len, self.scores.values()), default=0)
        order = shuffled(n, seed=0)
        parts = order[: n // 2], order[n // 2 :]
        first, second = ({name: of[part] for name, of in self.scores.items()} for part in parts)
        return first, second


class OutOfDistributionDetection(Task):
    """AUROC, AUPR and FPR95 of the data module's out-of-distribution sets against its test set, for several scores.

    A row is a set, or `near` or `far`, the mean over the sets of that kind; a column is a metric of a score. All scores
    are higher for images farther from the data (`scores.py`): `energy` E(x); `score`, the method's own (LIEBM, Eq. 15:
    the joint score), which for many methods is E(x); `gradient` |∇E(x)|; `drop`, the decrease of E over a few Langevin
    steps; `reconstruction`, the squared error. `aupr` takes the other set as the positive class, `aupr_in` the test
    set. A set that is unavailable, or a score that is not finite on it, is skipped with a note. The protocol has a
    bootstrap interval for every figure of a set, over the choice of images but not over training runs.

    For a method with a joint score E(x) − β cos(g(f(x)), h(x)), `score` has the paper's β and `<metric>_joint` the β
    with the best mean AUROC on half of the images of each set, by a fixed split, evaluated on the other halves.

    For a method with a stochastic score, `auroc_score` is that of the mean over seeds, and `auroc_score_std` the
    standard deviation (divisor S − 1) of the AUROC over S seeds; the protocol lists them.
    Source: Yang et al. 2022 and Zhang et al. 2023 (OpenOOD).

    Args:
        n: The largest number of images per set.
        batch_size: Images per evaluation.
        scores: The scores to compute, among those that the method has; None for all.
        drop_steps: Langevin steps of `drop`.
        sigma: Noise of `reconstruction` by a denoiser, in units of [-1, 1], above 0.
        near: Names of the near sets, all others being far; None uses the sets' own classification for this data.
        choose: With `auroc`, the score with the best mean AUROC over all sets on half of the images of each, by a fixed
            split, is chosen, and `<metric>_chosen` is that of this score on the other halves. The other columns use all
            images.
        resamples: Bootstrap resamples of the intervals; 0 omits them.
        level: Confidence level of the intervals, in (0, 1).
        bins: Bins of the histograms.

    Raises:
        UserError: A number is out of range, or a name is unknown.
    """

    name = "ood"

    def __init__(
        self,
        n: int = 10_000,
        batch_size: int = 250,
        scores: list[str] | None = None,
        drop_steps: int = 5,
        sigma: float = 0.3,
        near: list[str] | None = None,
        choose: Literal["none", "auroc"] = "none",
        resamples: int = 1000,
        level: float = 0.95,
        bins: int = 40,
    ) -> None:
        least = {"n": n, "batch_size": batch_size, "drop_steps": drop_steps, "bins": bins}
        for key, value in least.items():
            if value < 1:
                raise UserError(f"ood.{key} is {value}; it must be 1 or more")
        if resamples < 0:
            raise UserError(f"ood.resamples is {resamples}; it must be 0 or more")
        if not sigma > 0:
            raise UserError(f"ood.sigma is {sigma}; it must be above 0")
        if not 0 < level < 1:
            raise UserError(f"ood.level is {level}; it must be between 0 and 1")
        if unknown := [name for name in scores or () if name not in SCORES]:
            raise UserError(f"ood.scores has {unknown[0]!r}; it must be one of {', '.join(SCORES)}")
        self.n = n
        self.batch_size = batch_size
        self.scores = scores
        self.drop_steps = drop_steps
        self.sigma = sigma
        self.near = near
        self.choose = choose
        self.resamples = resamples
        self.level = level
        self.bins = bins

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.images_of(self.n)
        self.resamples = budget.share_of(self.resamples, least=min(self.resamples, 100))

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result, near, own = Result(self.name), self._near(data), data.test_set
        outside: dict[str, Scored] = {}
        with method.evaluating(), frozen(method):
            scores = available_scores(method, prepare(own.images[:1].to(method.device)), self.drop_steps, self.sigma)
            scores = {name: score for name, score in scores.items() if self.scores is None or name in self.scores}
            inside = self._scored(method, scores, own.images[: self.n], own.name, result)
            result.protocol = {"in": own.name, "in_images": min(self.n, len(own)), "out_images": {}, "kinds": {}}
            result.protocol["scores"] = {name: str(score) for name, score in scores.items()}
            for source in data.ood:
                if isinstance(loaded := data.ood_sets[source.name], UserError):
                    result.notes.append(f"{source.name}: {loaded}")
                    continue
                images = loaded.images[: self.n]
                outside[source.name] = self._scored(method, scores, images, source.name, result)
                result.protocol["out_images"][source.name] = len(images)
                result.protocol["kinds"][source.name] = "near" if source.name in near else "far"
        if not data.ood:
            result.notes.append("data.ood is empty; list the out-of-distribution sets there")
        for name, found in outside.items():
            for score in [score for score in found.scores if score in inside.scores]:
                self._measure(name, score, inside.scores[score], found.scores[score], result)
            self._spread(name, inside, found, result)
        if self.choose == "auroc":
            self._choose(inside, outside, result)
        if self.scores is None or "score" in self.scores:
            self._choose_weight(method, data, list(outside), result)
        self._group(result)
        self._show(inside, outside, folder, result)
        return result

    def sets(self, data: Any) -> dict[str, Any]:
        """The test images and the out-of-distribution images; no training image is looked at."""
        assert isinstance(data, ImageData)
        out = {
            name: {"error": str(found)} if isinstance(found, UserError) else found.record()
            for name, found in data.ood_sets.items()
        }
        return {"test": data.test_set.record(), "out": out}

    def _near(self, data: ImageData) -> set[str]:
        """The names of the near sets."""
        names = [source.name for source in data.ood]
        if self.near is None:
            return {source.name for source in data.ood if source.is_near(data)}
        if unknown := [name for name in self.near if name not in names]:
            raise UserError(
                f"ood.near has {unknown[0]!r}, which is not a set of data.ood: {', '.join(names) or 'none'}"
            )
        return set(self.near)

    def _scored(self, method: Method, scores: dict[str, Score], images: Tensor, of: str, result: Result) -> Scored:
        """The scores of images; a score whose chain diverges is skipped, with a note."""
        scores, found = dict(scores), dict[str, list[Tensor]]()
        if isinstance(method, HasStochasticScore) and "score" in scores:
            scores["score"] = method.ood_scores  # one row per seed; the score is their mean
        for batch in tracked(torch.split(images, self.batch_size), of, unit="batch"):
            x = prepare(batch.to(method.device))
            for name, score in list(scores.items()):
                try:
                    found.setdefault(name, []).append(score(x).detach().cpu().double())
                except ChainDivergedError as error:
                    result.notes.append(f"{of}/{name}: {error}")
                    del scores[name], found[name]
        of_each = {name: torch.cat(parts, dim=-1) for name, parts in found.items()}
        if not isinstance(method, HasStochasticScore) or "score" not in of_each:
            return Scored(of_each)
        return Scored(of_each | {"score": of_each["score"].mean(0)}, of_each["score"])

    def _measure(self, name: str, score: str, inside: Tensor, outside: Tensor, result: Result) -> None:
        """Compute every metric of one score on one set, with its interval."""
        try:
            ranked = Ranked.of(inside, outside)
        except UserError as error:
            result.notes.append(f"{name}/{score}: {error}")
            return
        result.figures |= {f"{name}/{metric}_{score}": float(of(ranked)) for metric, of in METRICS.items()}
        if self.resamples:
            kept = result.protocol.setdefault("intervals", {"level": self.level, "resamples": self.resamples})
            for metric, ends in intervals(inside, outside, self.resamples, self.level).items():
                kept[f"{name}/{metric}_{score}"] = list(ends)

    def _spread(self, name: str, inside: Scored, outside: Scored, result: Result) -> None:
        """Compute the AUROC of each seed of a stochastic score."""
        if inside.per_seed is None or outside.per_seed is None:
            return
        each = [auroc(a, b) for a, b in zip(inside.per_seed, outside.per_seed, strict=True)]
        result.protocol.setdefault("auroc_score_of_seeds", {})[name] = each
        if len(each) > 1:
            result.figures[f"{name}/auroc_score_std"] = stdev(each)

    def _choose(self, inside: Scored, outside: dict[str, Scored], result: Result) -> None:
        """Add `chosen`, the score with the best mean AUROC on the first halves, evaluated on the second halves."""
        first, second = inside.halves()
        halves = {name: found.halves() for name, found in outside.items()}
        known = [score for score in first if all(f"{name}/auroc_{score}" in result.figures for name in outside)]
        if (
            not known
            or not outside
            or min(len(half[known[0]]) for half in (first, *(a for a, _ in halves.values()))) < 1
        ):
            result.notes.append("ood.choose: the sets cannot be halved, or no score exists for all of them")
            return
        by = {score: mean(auroc(first[score], half[score]) for half, _ in halves.values()) for score in known}
        best = max(by, key=lambda score: by[score])
        result.protocol["chosen"] = {
            "score": best,
            "mean_auroc": by,
            "chosen_on": {"in": len(first[best])} | {name: len(half[best]) for name, (half, _) in halves.items()},
            "reported_on": {"in": len(second[best])} | {name: len(half[best]) for name, (_, half) in halves.items()},
        }
        for name, (_, half) in halves.items():
            self._measure(name, "chosen", second[best], half[best], result)

    def _choose_weight(self, method: Method, data: ImageData, names: list[str], result: Result) -> None:
        """Add `joint`, the joint score whose weight is chosen on half of each set, evaluated on the other halves."""
        if not isinstance(method, ScoresJointly) or method.joint_weight is None:
            return
        sets = {name: found.images for name in names if not isinstance(found := data.ood_sets[name], UserError)}
        with method.evaluating(), frozen(method):
            chosen = ChosenWeight.on(method, data.test_set.images, sets, self.n, self.batch_size)
        result.protocol["joint"] = chosen.protocol
        for name, scores in chosen.outside.items():
            self._measure(name, "joint", chosen.inside, scores, result)

    def _group(self, result: Result) -> None:
        """Add the means over near and over far sets, for the figures that every set of the kind has."""
        columns = dict.fromkeys(name.rpartition("/")[2] for name in result.figures if not name.endswith("_std"))
        means: dict[str, float] = {}
        for kind in ("near", "far"):
            for column in columns:
                each = [
                    result.figures.get(f"{name}/{column}")
                    for name, its in result.protocol["kinds"].items()
                    if its == kind
                ]
                present = [value for value in each if value is not None]
                if present and len(present) == len(each):
                    means[f"{kind}/{column}"] = mean(present)
        result.figures |= means

    def _show(self, inside: Scored, outside: dict[str, Scored], folder: Path | None, result: Result) -> None:
        """Add the histograms of every set's scores beside those of the test set, and draw a picture per set.

        A method's own score that equals its energy is shown once.
        """
        energy, own = inside.scores.get("energy"), inside.scores.get("score")
        same = energy is not None and own is not None and torch.equal(energy, own)
        for name, found in outside.items():
            panels = {}
            for score, scores in found.scores.items():
                if f"{name}/auroc_{score}" not in result.figures or (same and score == "score"):
                    continue
                try:
                    counted = histogram({"in": inside.scores[score], "out": scores}, self.bins)
                except UserError as error:
                    result.notes.append(f"{name}/{score}: {error}")
                    continue
                result.histograms[f"{name}/{score}"] = counted
                panels[f"{score}: AUROC {result.figures[f'{name}/auroc_{score}']:.3f}"] = counted
            if folder is not None and panels:
                self._draw(panels, name, folder, result)

    def _draw(self, panels: Mapping[str, Histogram], name: str, folder: Path, result: Result) -> None:
        path = folder / f"ood_{name.replace('/', '-')}.png"
        try:
            save_histograms(panels, path, {"in": result.protocol["in"], "out": name})
        except UserError as error:
            result.notes.append(f"{path.stem}: {error}")
        else:
            result.pictures.append(str(path))
