"""Whether samples given a class, or the latent of a class or an image, are of that class, or like that image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.families.conditional_chain import StartsFromImages
from ebmzoo.metrics import ClassifierFeatures, FeatureExtractor, extract
from ebmzoo.report.pictures import save_confusion, save_strips
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol, draw
from ebmzoo.tasks.latents import (
    ConditionEncoder,
    check_guidance,
    condition_encoder,
    conditions_on_latents,
    encoded,
    first_indices,
    has_classes,
    sample_latents,
)


class Conditional(Task):
    """Samples given a class's mean latent z̄, and given the latent z = h(x)/|h(x)| of a test image.

    A method that follows classes is given the class itself, and no test image.

    Figures, a row for each class, one for `all` and one for `real` test images: `accuracy`, the share that the
    classifier tells to be of their class; `entropy` in nats of the classes told, at best log K for all K classes
    together and 0 for one. Of `instances` and of `unconditional` samples: `agreement`, the mean of cos(h(sample), z).
    `nfe` is network evaluations an image. In the pictures a row is a class, or a test image followed by its samples.
    Source: LIEBM, §4.3 and Fig. 4; CLEL, §4.3 and Fig. 3; CDRL, §4.3.

    Args:
        classifier: what tells the class of a sample, trained apart from the model on the same classes; without it only
            pictures and agreement are made, with a note.
        n: how many samples of each class.
        n_encode: z̄ is of at most so many training images of a class, in the set's order.
        instances: how many test images, in the set's order; 0 for none.
        samples: how many samples of each of those images.
        start: where the chains of a class start: `method`, as `sample_from_latents` does by default; `class_mean`,
            from the mean x̄ of the class's augmented images, as LIEBM prints, for a method that can.
        steps: Langevin steps instead of the sampler's own.
        batch_size: images in one chain.
        shown: how many samples of a class the picture shows.
        guidance: w of classifier-free guidance, for a method that follows classes.
    """

    name = "conditional"

    def __init__(
        self,
        classifier: FeatureExtractor,
        n: int = 100,
        n_encode: int = 5000,
        instances: int = 8,
        samples: int = 8,
        start: Literal["method", "class_mean"] = "method",
        steps: int | None = None,
        batch_size: int = 250,
        shown: int = 10,
        guidance: float = 0.0,
    ) -> None:
        least = {"n": (n, 1), "n_encode": (n_encode, 1), "instances": (instances, 0), "samples": (samples, 1)}
        for key, (value, needed) in (least | {"batch_size": (batch_size, 1), "shown": (shown, 1)}).items():
            if value < needed:
                raise UserError(f"conditional.{key} is {value}; it must be {needed} or more")
        if start not in ("method", "class_mean"):
            raise UserError(f"conditional.start is {start}; it must be method or class_mean")
        check_guidance("conditional.guidance", guidance)
        self.classifier, self.n, self.n_encode, self.guidance = classifier, n, n_encode, guidance
        self.instances, self.samples, self.start = instances, samples, start
        self.steps, self.batch_size, self.shown = steps, batch_size, shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        judges = [e for e in extractors if isinstance(e, ClassifierFeatures)]
        return cls(judges[0]) if judges else None

    def under(self, budget: Budget) -> None:
        self.n, self.samples = budget.share_of(self.n), budget.share_of(self.samples)

    def missing(self) -> list[str]:
        return [sentence] if (sentence := self.classifier.available()) is not None else []

    def can_ask(self, method: Method) -> bool:
        return conditions_on_latents(method) or has_classes(method)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        result.protocol = {"steps": self.steps, "chains": {}}
        given = condition_encoder(method, data, self.batch_size, self.n_encode, self.guidance)
        if (told := given.without_classes()) is not None:
            result.notes.append(told)
        else:
            with diverging(result, "all/accuracy"):
                self._ask_classes(given, folder, result)
        if self.instances and conditions_on_latents(method):
            with diverging(result, "instances/agreement"):
                self._ask_instances(method, data, folder, result)
        return result

    def _ask_classes(self, given: ConditionEncoder, folder: Path | None, result: Result) -> None:
        method, data = given.method, given.data
        labels = torch.arange(len(data.classes)).repeat_interleave(self.n)
        with stopwatch(result.figures, "all/seconds"):
            try:
                told = torch.stack([given.of_class(label) for label in range(len(data.classes))])
            except UserError as error:
                raise UserError(f"conditional: {error}") from error
            start, rows = self._class_means(method, data, result), told[labels.to(told.device)]
            if start is None:
                images, sampled = given.draw(rows, self.steps)
            else:
                images, sampled = sample_latents(method, rows, self.batch_size, self.steps, start[labels])
        result.figures["all/nfe"] = sampled.nfe
        result.protocol["chains"]["full"] = chain_protocol(sampled)
        result.protocol |= {"samples_a_class": self.n} | given.protocol("class")
        if folder is not None:
            strips = images.view(len(data.classes), self.n, *images.shape[1:])[:, : self.shown]
            save_strips(to_float(strips), path := folder / "conditional.png")
            result.pictures.append(str(path))
        if self.classifier.available() is None:
            self._score(images, labels, data, method.device, result, folder)

    def _class_means(self, method: Method, data: ImageData, result: Result) -> Tensor | None:
        """x̄ of each class, `(K, C, H, W)`, where chains start from it."""
        if self.start == "method":
            return None
        if not (isinstance(method, StartsFromImages) and method.can_start_from_images):
            result.notes.append(
                f"start: class_mean is not for this {type(method).__name__}: it starts as it does alone"
            )
            return None
        means = []
        with method.evaluating():
            for label in range(len(data.classes)):
                group = data.train_set.images[first_indices(data.train_set.labels == label, self.n_encode)]
                batches = [method.augmented(prepare(b.to(method.device))) for b in torch.split(group, self.batch_size)]
                means.append(torch.cat(batches).mean(0).cpu())
        return torch.stack(means)

    def _score(
        self, images: Tensor, given: Tensor, data: ImageData, device: torch.device, result: Result, folder: Path | None
    ) -> None:
        classes, test = data.classes, data.test_set
        told = tell(self.classifier, images, classes, self.batch_size, device, "conditional.classifier")
        confusion = confusions(given, told, len(classes))
        result.figures["all/accuracy"] = float((told == given).double().mean())
        result.figures["all/entropy"] = entropy(confusion.sum(0))
        for name, row, right in zip(classes, confusion, confusion.diagonal(), strict=True):
            result.figures |= {f"{name}/accuracy": float(right / row.sum()), f"{name}/entropy": entropy(row)}
        shown = tell(self.classifier, test.images, classes, self.batch_size, device, "conditional.classifier")
        result.figures["real/accuracy"] = float((shown == test.labels).double().mean())
        result.figures["real/entropy"] = entropy(shown.bincount(minlength=len(classes)))
        result.protocol["classifiers"] = {self.classifier.name: self.classifier.fingerprint}
        if folder is not None:
            try:
                share = confusion / confusion.sum(1, keepdim=True)
                save_confusion(share, classes, "samples given a class", path := folder / "confusion.png")
                result.pictures.append(str(path))
            except UserError as error:
                result.notes.append(str(error))

    def _ask_instances(self, method: Method, data: ImageData, folder: Path | None, result: Result) -> None:
        x = data.test_set.take(slice(self.instances))
        z = encoded(method, x.images, self.batch_size)
        rows = z.repeat_interleave(self.samples, dim=0)
        images, sampled = sample_latents(method, rows, self.batch_size, self.steps)
        plain, unconditional = draw(method, len(rows), self.batch_size, self.steps)
        result.figures |= {
            "instances/agreement": float((encoded(method, images, self.batch_size) * rows).sum(1).mean()),
            "instances/nfe": sampled.nfe,
            "unconditional/agreement": float((encoded(method, plain, self.batch_size) @ z.mT).mean()),
            "unconditional/nfe": unconditional.nfe,
        }
        result.protocol |= {"images": len(x), "data": x.name, "samples_an_image": self.samples}
        result.protocol["chains"].setdefault("full", chain_protocol(sampled))
        result.protocol["chains"]["unconditional"] = chain_protocol(unconditional)
        if folder is not None:
            strips = torch.cat([x.images[:, None], images.view(len(x), -1, *images.shape[1:])], dim=1)
            save_strips(to_float(strips), path := folder / "instances.png")
            result.pictures.append(str(path))


@contextmanager
def diverging(result: Result, figure: str) -> Iterator[None]:
    """Within it a chain that diverges leaves a note, and no number for `figure`."""
    try:
        yield
    except ChainDivergedError as error:
        result.notes.append(f"{figure}: {error}")
        result.figures[figure] = math.nan


def tell(
    classifier: FeatureExtractor,
    images: Tensor,
    classes: Sequence[str],
    batch_size: int,
    device: torch.device,
    key: str,
) -> Tensor:
    """The class that `classifier` tells of each image, `(N,)` int64, an index into `classes`; errors as of `read`."""
    return read(classifier, images, classes, batch_size, device, key)[1].argmax(1)


def read(
    classifier: FeatureExtractor,
    images: Tensor,
    classes: Sequence[str],
    batch_size: int,
    device: torch.device,
    key: str,
) -> tuple[Tensor, Tensor]:
    """The features `(N, D)` and the logits `(N, K)` that `classifier` has of images, a logit for each of `classes`.

    Raises:
        UserError: the classifier has no logits, or not one for each class.
    """
    features, logits = extract(classifier.to(device), images, batch_size, device)
    if logits is None or logits.shape[1] != len(classes):
        found = "no classes" if logits is None else f"{logits.shape[1]} classes"
        raise UserError(
            f"{key}: {classifier.name} tells {found}, but {len(classes)} are needed ({', '.join(classes[:10])}"
            f"{', …' if len(classes) > 10 else ''}): use one trained on this data"
        )
    return features, logits


def confusions(given: Tensor, told: Tensor, k: int) -> Tensor:
    """How often class j was told where i was given, `(K, K)` double; `given` and `told` are `(N,)`."""
    return (given * k + told).bincount(minlength=k * k).view(k, k).double()


def entropy(counts: Tensor) -> float:
    """H = −Σ p log p in nats of the frequencies p of `counts`, `(K,)`; 0 log 0 is 0."""
    p = counts.double() / counts.sum()
    return -float(torch.special.xlogy(p, p).sum())
