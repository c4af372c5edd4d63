"""Whether samples conditioned on a class have that class, and samples conditioned on an image resemble it."""

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
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.report.plots import save_confusion
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditioning import (
    ConditionEncoder,
    check_guidance,
    condition_encoder,
    conditions_on_latents,
    encoded,
    first_indices,
    has_classes,
    sample_latents,
)
from ebmzoo.tasks.generation import chain_protocol, draw


class Conditional(Task):
    """Accuracy of samples conditioned on a class's mean latent z̄, or on the latent z = h(x)/|h(x)| of a test image.

    A class-conditional method is conditioned on the class itself, and not on test images.

    Figures: one row per class, one for `all` and one for `real` test images: `accuracy`, the share that the classifier
    assigns to the requested class; `entropy` in nats of the predicted classes, ideally log K over all K classes
    together and 0 within one. For `instances` and `unconditional` samples: `agreement`, the mean of cos(h(sample), z).
    `nfe` is network evaluations per image. In the pictures each row is a class, or a test image followed by its
    samples.
    Source: LIEBM, §4.3 and Fig. 4; CLEL, §4.3 and Fig. 3; CDRL, §4.3.

    Args:
        classifier: The classifier of samples, trained apart from the model on the same classes; without it there are
            only pictures and agreement, with a note.
        n: Samples per class, 1 or more.
        n_encode: The largest number of training images of a class that z̄ averages, in the order of the set.
        instances: Test images to condition on, in the order of the set; 0 for none.
        samples: Samples per test image.
        start: Start of class-conditional chains: `method`, the default of `sample_from_latents`; or `class_mean`, the
            mean x̄ of the augmented images of the class, as LIEBM describes, if the method supports it.
        steps: Langevin steps; None uses the sampler's own number.
        batch_size: Images per batch of chains.
        shown: Samples per class in the picture.
        guidance: Weight w of classifier-free guidance, 0 or more, for a class-conditional method.

    Raises:
        UserError: A number is out of range.
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
        self.classifier = classifier
        self.n = n
        self.n_encode = n_encode
        self.guidance = guidance
        self.instances = instances
        self.samples = samples
        self.start = start
        self.steps = steps
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        classifiers = [e for e in extractors if isinstance(e, ClassifierFeatures)]
        return cls(classifiers[0]) if classifiers else None

    def apply_budget(self, budget: Budget) -> None:
        self.n, self.samples = budget.share_of(self.n), budget.share_of(self.samples)

    def missing(self) -> list[str]:
        return [sentence] if (sentence := self.classifier.available()) is not None else []

    def supports(self, method: Method) -> bool:
        return conditions_on_latents(method) or has_classes(method)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        result.protocol = {"steps": self.steps, "chains": {}}
        encoder = condition_encoder(method, data, self.batch_size, self.n_encode, self.guidance)
        if (reason := encoder.no_class_reason()) is not None:
            result.notes.append(reason)
        else:
            with diverging(result, "all/accuracy"):
                self._evaluate_classes(encoder, folder, result)
        if self.instances and conditions_on_latents(method):
            with diverging(result, "instances/agreement"):
                self._evaluate_instances(method, data, folder, result)
        return result

    def _evaluate_classes(self, encoder: ConditionEncoder, folder: Path | None, result: Result) -> None:
        method, data = encoder.method, encoder.data
        labels = torch.arange(len(data.classes)).repeat_interleave(self.n)
        with stopwatch(result.figures, "all/seconds"):
            try:
                conditions = torch.stack([encoder.encode_class(label) for label in range(len(data.classes))])
            except UserError as error:
                raise UserError(f"conditional: {error}") from error
            start, rows = self._class_means(method, data, result), conditions[labels.to(conditions.device)]
            if start is None:
                images, sampled = encoder.draw(rows, self.steps)
            else:
                images, sampled = sample_latents(method, rows, self.batch_size, self.steps, start[labels])
        result.figures["all/nfe"] = sampled.nfe
        result.protocol["chains"]["full"] = chain_protocol(sampled)
        result.protocol |= {"samples_a_class": self.n} | encoder.protocol("class")
        if folder is not None:
            strips = images.view(len(data.classes), self.n, *images.shape[1:])[:, : self.shown]
            columns = numbered("sample", strips.shape[1])
            save_strips(to_float(strips), path := folder / "conditional.png", data.classes, columns)
            result.pictures.append(str(path))
        if self.classifier.available() is None:
            self._score(images, labels, data, method.device, result, folder)

    def _class_means(self, method: Method, data: ImageData, result: Result) -> Tensor | None:
        """x̄ of each class, `(K, C, H, W)`; None if chains do not start from it."""
        if self.start == "method":
            return None
        if not (isinstance(method, StartsFromImages) and method.can_start_from_images):
            result.notes.append(
                f"start: {type(method).__name__} cannot start from class means, so its own start is used"
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
        self, images: Tensor, labels: Tensor, data: ImageData, device: torch.device, result: Result, folder: Path | None
    ) -> None:
        classes, test = data.classes, data.test_set
        predicted = predict_classes(self.classifier, images, classes, self.batch_size, device, "conditional.classifier")
        confusion = confusion_matrix(labels, predicted, len(classes))
        result.figures["all/accuracy"] = float((predicted == labels).double().mean())
        result.figures["all/entropy"] = entropy(confusion.sum(0))
        for name, row, right in zip(classes, confusion, confusion.diagonal(), strict=True):
            result.figures |= {f"{name}/accuracy": float(right / row.sum()), f"{name}/entropy": entropy(row)}
        of_test = predict_classes(
            self.classifier, test.images, classes, self.batch_size, device, "conditional.classifier"
        )
        result.figures["real/accuracy"] = float((of_test == test.labels).double().mean())
        result.figures["real/entropy"] = entropy(of_test.bincount(minlength=len(classes)))
        result.protocol["classifiers"] = {self.classifier.name: self.classifier.fingerprint}
        if folder is not None:
            try:
                share = confusion / confusion.sum(1, keepdim=True)
                save_confusion(share, classes, "class-conditional samples", path := folder / "confusion.png")
                result.pictures.append(str(path))
            except UserError as error:
                result.notes.append(str(error))

    def _evaluate_instances(self, method: Method, data: ImageData, folder: Path | None, result: Result) -> None:
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
            columns = ["x", *numbered("sample", self.samples)]
            save_strips(to_float(strips), path := folder / "instances.png", numbered("image", len(x)), columns)
            result.pictures.append(str(path))


@contextmanager
def diverging(result: Result, figure: str) -> Iterator[None]:
    """Within the block, a chain that diverges adds a note and sets `figure` to NaN."""
    try:
        yield
    except ChainDivergedError as error:
        result.notes.append(f"{figure}: {error}")
        result.figures[figure] = math.nan


def predict_classes(
    classifier: FeatureExtractor,
    images: Tensor,
    classes: Sequence[str],
    batch_size: int,
    device: torch.device,
    key: str,
) -> Tensor:
    """Predict the class of each image, `(N,)` int64, an index into `classes`; raises as `classifier_outputs`."""
    return classifier_outputs(classifier, images, classes, batch_size, device, key)[1].argmax(1)


def classifier_outputs(
    classifier: FeatureExtractor,
    images: Tensor,
    classes: Sequence[str],
    batch_size: int,
    device: torch.device,
    key: str,
) -> tuple[Tensor, Tensor]:
    """The features `(N, D)` and logits `(N, K)` of `classifier` for images, with one logit for each of `classes`.

    A classifier that knows the names of its classes has its logits put into the order of `classes`.

    Raises:
        UserError: The classifier has no logits, or not one per class, or was trained with other classes.
    """
    features, logits = extract(classifier.to(device), images, batch_size, device)
    if logits is None or logits.shape[1] != len(classes):
        found = "no classes" if logits is None else f"{logits.shape[1]} classes"
        raise UserError(
            f"{key}: {classifier.name} predicts {found}, but {len(classes)} are needed ({', '.join(classes[:10])}"
            f"{', …' if len(classes) > 10 else ''}): use one trained on this data"
        )
    if (own := classifier.classes) is None or own == tuple(classes):
        return features, logits
    if set(own) != set(classes):
        raise UserError(
            f"{key}: {classifier.name} was trained with the classes {', '.join(own[:10])}, but "
            f"{', '.join(classes[:10])} are needed: use one trained on this data, or give its folders the same names"
        )
    return features, logits[:, [own.index(name) for name in classes]]


def confusion_matrix(labels: Tensor, predicted: Tensor, k: int) -> Tensor:
    """The confusion matrix, `(K, K)` double: how often class j was predicted for label i; both inputs are `(N,)`."""
    return (labels * k + predicted).bincount(minlength=k * k).view(k, k).double()


def entropy(counts: Tensor) -> float:
    """H = −Σ p log p in nats of the relative frequencies p of `counts`, `(K,)`; 0 log 0 is 0."""
    p = counts.double() / counts.sum()
    return -float(torch.special.xlogy(p, p).sum())
