"""What classifier-free guidance gains in accuracy and quality, and loses in diversity, for each weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import ClassifierFeatures, FeatureExtractor, inception_score, precision_recall
from ebmzoo.report.comparison.figures import known
from ebmzoo.report.pictures import save_strips
from ebmzoo.report.plots import Panel, save_lines
from ebmzoo.tasks.base import Result, Task, if_possible, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import classifier_outputs, diverging
from ebmzoo.tasks.conditioning import ByClass, check_guidance, first_indices, has_classes, sample_classes
from ebmzoo.tasks.generation import chain_protocol, compared, real_images


class Guidance(Task):
    """Samples under log p(x|c) + w log p(c|x) for several w, all from the same noise and with the same classes.

    Figures: one row per w: `accuracy`, the share of samples that the classifier assigns to the requested class;
    `diversity` (see the function) in the classifier's features; the Fréchet distance and the recall in those of each
    extractor; the Inception Score of every network with logits, the classifier included; `nfe`, network evaluations per
    image. The row `real` is for as many test images, or all if there are fewer. In the picture each row is a w, and
    each column one noise and class.
    Source: CDRL, §3.5, Eq. 11, §4.3 and Fig. 3; the diversity is our own.

    Args:
        classifier: The classifier of samples, trained apart from the model on the same classes; without it there is
            neither accuracy nor diversity, but a note.
        weights: The weights w, 0 for no guidance; the paper's best Fréchet distance on ImageNet 32×32 is at 0.7.
        n: Samples per w, 4 or more; the classes have equally many, or one more.
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the real images are taken from, `train` or `test`.
        real: `all` images of the split, as for published FIDs, or its first `n`.
        steps: Langevin steps; None uses the sampler's own number.
        batch_size: Images per batch of chains.
        shown: Samples per w in the picture.

    Raises:
        UserError: A number is out of range, or a weight is listed twice.
    """

    name = "guidance"

    def __init__(
        self,
        classifier: FeatureExtractor,
        weights: tuple[float, ...] = (0.0, 0.7, 2.0),
        n: int = 1000,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["train", "test"] = "train",
        real: Literal["all", "n"] = "all",
        steps: int | None = None,
        batch_size: int = 250,
        shown: int = 10,
    ) -> None:
        for key, (value, needed) in {"n": (n, 4), "batch_size": (batch_size, 1), "shown": (shown, 1)}.items():
            if value < needed:
                raise UserError(f"guidance.{key} is {value}; it must be {needed} or more")
        for w in weights:
            check_guidance("guidance.weights", w)
        if not weights or len({_row(w) for w in weights}) < len(weights):
            raise UserError(f"guidance.weights is {list(weights)}; list one or more different weights")
        self.classifier = classifier
        self.weights = weights
        self.n = n
        self.extractors = extractors or []
        self.split = split
        self.real = real
        self.steps = steps
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        classifiers = [e for e in extractors if isinstance(e, ClassifierFeatures)]
        return cls(classifiers[0], extractors=extractors) if classifiers else None

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def missing(self) -> list[str]:
        every = [self.classifier, *self.extractors]
        return list(dict.fromkeys(sentence for e in every if (sentence := e.available()) is not None))

    def supports(self, method: Method) -> bool:
        return has_classes(method)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        encoder = ByClass(method, data, self.batch_size)
        if (reason := encoder.no_class_reason()) is not None:
            result.notes.append(reason)
            return result
        result.protocol = {"n": self.n, "weights_of_guidance": list(self.weights), "chains": {}, "classifiers": {}}
        labels = torch.arange(self.n) % len(data.classes)
        rows = torch.stack([encoder.encode_class(label) for label in range(len(data.classes))])[labels]
        made: dict[str, Tensor] = {}
        seed = int(torch.randint(2**31, ()))  # every w has the same noise
        for w in self.weights:
            with diverging(result, f"{_row(w)}/accuracy"):
                with stopwatch(result.figures, f"{_row(w)}/seconds"):
                    images, sampled = sample_classes(method, rows, self.batch_size, self.steps, w, seed)
                made[_row(w)] = images
                result.figures[f"{_row(w)}/nfe"] = sampled.nfe
                result.protocol["chains"]["full"] = chain_protocol(sampled)
        self._compare(made, method, data, result)
        if self.classifier.available() is None:
            self._classify(made, labels, method, data, result)
        if folder is not None and made:
            self._draw(made, [data.classes[label] for label in labels[: self.shown].tolist()], result, folder)
        return result

    def _compare(self, made: dict[str, Tensor], method: Method, data: ImageData, result: Result) -> None:
        """Compute the figures of each extractor."""
        usable = [e for e in self.extractors if e.available() is None]
        if not usable or not made:
            return
        real = real_images(data, self.split, None if self.real == "all" else self.n)
        result.protocol |= {"split": self.split, "real_images": len(real), "extractors": {}}
        for e in usable:
            sets = compared(e, method.device, real.images, made, self.batch_size, result)
            for row, of_real, features, logits in sets:
                k = min(len(of_real.features), len(features))
                with if_possible(result, f"{row}/{e.fd_name}"):
                    result.figures[f"{row}/{e.fd_name}"] = of_real.frechet_distance(features)
                with if_possible(result, f"{row}/recall_{e.name}"):
                    _, result.figures[f"{row}/recall_{e.name}"] = precision_recall(of_real.features[:k], features[:k])
                if logits is not None:
                    result.figures[f"{row}/{e.is_name}"] = _score(logits)

    def _classify(
        self, made: Mapping[str, Tensor], labels: Tensor, method: Method, data: ImageData, result: Result
    ) -> None:
        """Compute the figures of the classifier for the samples and for test images."""
        test, k = data.test_set, len(data.classes)
        chosen = torch.cat([first_indices(test.labels == label, math.ceil(self.n / k)) for label in range(k)])
        sets = {row: (images, labels) for row, images in made.items()}
        for row, (images, requested) in (sets | {"real": (test.images[chosen], test.labels[chosen])}).items():
            key = "guidance.classifier"
            features, logits = classifier_outputs(
                self.classifier, images, data.classes, self.batch_size, method.device, key
            )
            result.figures[f"{row}/accuracy"] = float((logits.argmax(1) == requested).double().mean())
            result.figures[f"{row}/diversity"] = diversity(features, requested)
            result.figures[f"{row}/{self.classifier.is_name}"] = _score(logits)
        result.protocol["classifiers"] = {self.classifier.name: self.classifier.fingerprint}

    def _draw(self, made: Mapping[str, Tensor], classes: Sequence[str], result: Result, folder: Path) -> None:
        """Draw the first samples of every weight, which are of these `classes`, and the figures over the weights."""
        strips = torch.stack([images[: self.shown] for images in made.values()])
        rows = [row.replace("=", " = ") for row in made]
        save_strips(to_float(strips), path := folder / "guidance.png", rows, classes)
        result.pictures.append(str(path))
        weights = [w for w in self.weights if _row(w) in made]
        prefix = f"{_row(weights[0])}/"
        columns = [name.removeprefix(prefix) for name in result.figures if name.startswith(prefix)]
        panels = []
        for column in [column for column in columns if column not in ("nfe", "seconds")]:
            line = weights, [result.figures[f"{_row(w)}/{column}"] for w in weights]
            of_real = {"test images": result.figures[key]} if (key := f"real/{column}") in result.figures else {}
            panels.append(Panel(known(f"generation/{column}")[0], {"samples": line}, of_real))
        if len(weights) < 2 or not panels:
            return
        try:
            save_lines(panels, "guidance weight w", path := folder / "guidance_curves.png")
            result.pictures.append(str(path))
        except UserError as error:
            result.notes.append(str(error))


def diversity(features: Tensor, labels: Tensor) -> float:
    """D = 1/|C| Σ_c mean_{i<j} |φ(xᵢ) − φ(xⱼ)|, i and j of class c, for features `(N, D)` and their labels `(N,)`.

    C are the classes with 2 images or more; NaN if there are none. More images make D more exact, not larger.
    """
    groups = [features[labels == label].double() for label in set(labels.tolist())]
    means = [torch.nn.functional.pdist(group).mean() for group in groups if len(group) > 1]
    return float(torch.stack(means).mean()) if means else math.nan


def _row(w: float) -> str:
    return f"w={w:g}"


def _score(logits: Tensor) -> float:
    return inception_score(logits, splits=min(10, len(logits)))[0]
