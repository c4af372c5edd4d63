"""How well a model classifies: accuracy, likelihood of the labels, calibration, and robustness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Classifies
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import Classifier, FeatureExtractor
from ebmzoo.metrics.calibration import Reliability
from ebmzoo.metrics.robustness import ProjectedGradientAttack
from ebmzoo.progress import tracked
from ebmzoo.report.plots import Panel, save_lines
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget

Logits = Callable[[Tensor], Tensor]
NORMS: dict[Literal["linf", "l2"], tuple[str, float]] = {
    "linf": ("ℓ∞, levels of 255", 2 / 255),
    "l2": ("ℓ₂ on [0, 1]", 2),
}
"""The name of a norm with the unit of its radii, and this unit on [-1, 1]."""


class Classification(Task):
    """Accuracy, likelihood and calibration of p(y|x) on test images, clean and with noise, and under perturbations.

    Rows `clean` and `noised`, for x + σε that are not clamped: `accuracy`; `nll`, −mean log p(y|x) in nats; `ece`, the
    expected calibration error Σ_b n_b/N |accuracy − confidence| over equal bins (l, u] of max_y p(y|x). Rows `linf=…`
    and `l2=…`: the `accuracy` of images that withstand the perturbations of at most that radius which projected
    gradient descent on the model's own cross-entropy finds: an upper bound of what the strongest would leave. Radii are
    in the units of the literature, 1/255 for ℓ∞ and images in [0, 1] for ℓ₂. The pictures are the reliability diagram,
    and the accuracy over the radius.
    Source: Grathwohl et al. 2020 (JEM), which measures the same four; Madry et al. 2018 for the attack.

    Args:
        n: The largest number of test images, in the order of the set.
        sigma: Noise σ of `noised`, in units of [-1, 1].
        bins: Bins of the calibration error.
        attacked: The largest number of images that are attacked; 0 attacks none.
        linf: Radii of ℓ∞ balls, in units of 1/255.
        l2: Radii of ℓ₂ balls, in units of images in [0, 1].
        steps: Gradient steps of an attack, together 2.5 radii long.
        batch_size: Images per pass.

    Raises:
        UserError: A number is out of range, or a radius is listed twice.
    """

    name = "classification"
    models = (Method, Classifier)

    def __init__(
        self,
        n: int = 10_000,
        sigma: float = 0.03,
        bins: int = 20,
        attacked: int = 1000,
        linf: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0),
        l2: tuple[float, ...] = (0.1, 0.25, 0.5),
        steps: int = 20,
        batch_size: int = 250,
    ) -> None:
        least = {"n": (n, 1), "bins": (bins, 1), "attacked": (attacked, 0), "steps": (steps, 1)}
        for key, (value, needed) in (least | {"batch_size": (batch_size, 1)}).items():
            if value < needed:
                raise UserError(f"classification.{key} is {value}; it must be {needed} or more")
        if not (sigma >= 0 and math.isfinite(sigma)):
            raise UserError(f"classification.sigma is {sigma}; it must be a finite number, 0 or more")
        for key, radii in {"linf": linf, "l2": l2}.items():
            if not all(r > 0 and math.isfinite(r) for r in radii) or len({f"{r:g}" for r in radii}) < len(radii):
                raise UserError(f"classification.{key} is {list(radii)}; it must be different finite numbers above 0")
        self.n = n
        self.sigma = sigma
        self.bins = bins
        self.attacked = attacked
        self.linf = linf
        self.l2 = l2
        self.steps = steps
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.images_of(self.n)
        self.attacked = self.attacked and budget.share_of(self.attacked)

    def supports(self, method: Method | Classifier) -> bool:
        return isinstance(method, Classifier) or (isinstance(method, Classifies) and method.classes > 1)

    def sets(self, data: Any) -> dict[str, Any]:
        """The test images alone; no training image is looked at."""
        return {"test": data.test_set.record()}

    def __call__(self, method: Method | Classifier, data: ImageData, folder: Path | None = None) -> Result:
        result, test = Result(self.name), data.test_set.take(slice(self.n))
        result.protocol = {"images": len(test), "data": test.name, "input_noise": self.sigma, "bins": self.bins}
        if (reason := _other_classes(method, data.classes)) is not None:
            result.notes.append(f"{data.name} {reason}")
            return result
        with _logits_of(method) as logits:
            batches = list(
                zip(*(torch.split(each, self.batch_size) for each in (test.images, test.labels)), strict=True)
            )
            found: dict[str, list[Tensor]] = {"clean": [], "noised": []}
            with torch.no_grad():
                for images, _ in tracked(batches, "images", unit="batch"):
                    x = prepare(images.to(method.device))
                    found["clean"].append(logits(x).double().cpu())
                    found["noised"].append(logits(x + self.sigma * torch.randn_like(x)).double().cpu())
            of_sets = {row: torch.cat(parts) for row, parts in found.items()}
            reliability = {row: self._measure(row, each, test.labels, result) for row, each in of_sets.items()}
            self._attack(logits, batches, method.device, result)
        if folder is not None:
            self._draw(reliability, folder, result)
        return result

    def _measure(self, row: str, logits: Tensor, labels: Tensor, result: Result) -> Reliability:
        log_p = logits.log_softmax(1)
        confidence, predicted = log_p.max(1)
        reliability = Reliability.of(confidence.exp(), predicted == labels, self.bins)
        result.figures |= {
            f"{row}/accuracy": float((predicted == labels).double().mean()),
            f"{row}/nll": float(F.nll_loss(log_p, labels)),
            f"{row}/ece": reliability.error,
        }
        return reliability

    def _attack(
        self, logits: Logits, batches: list[tuple[Tensor, Tensor]], device: torch.device, result: Result
    ) -> None:
        images, labels = (torch.cat(parts)[: self.attacked] for parts in zip(*batches, strict=True))
        attacks = {
            row: ProjectedGradientAttack(norm, radius * NORMS[norm][1], self.steps)
            for norm, radii in self._radii().items()
            for radius, row in radii.items()
        }
        if not len(images) or not attacks:
            return
        for row, attack in tracked(list(attacks.items()), "attacks", unit="radius"):
            withstood = [
                attack(logits, prepare(part.to(device)), of_part.to(device)).cpu()
                for part, of_part in zip(
                    *(torch.split(each, self.batch_size) for each in (images, labels)), strict=True
                )
            ]
            result.figures[f"{row}/accuracy"] = float(torch.cat(withstood).double().mean())
        result.protocol["attack"] = {
            "images": len(images),
            "steps": self.steps,
            "step": "2.5 radii/steps",
            "start": "uniform in the ball",
            "restarts": 1,
            "units": {norm: NORMS[norm][0] for norm, radii in self._radii().items() if radii},
        }

    def _radii(self) -> dict[Literal["linf", "l2"], dict[float, str]]:
        """The radii of each norm, with the names of their rows."""
        return {"linf": {r: f"linf={r:g}_of_255" for r in self.linf}, "l2": {r: f"l2={r:g}" for r in self.l2}}

    def _draw(self, reliability: Mapping[str, Reliability], folder: Path, result: Result) -> None:
        lines = {
            row: (each.confidence[each.counts > 0].tolist(), each.accuracy[each.counts > 0].tolist())
            for row, each in reliability.items()
        }
        diagonal = {"calibrated": ([0.0, 1.0], [0.0, 1.0])}
        pictures = {"reliability": ([Panel("accuracy", lines | diagonal)], "confidence max p(y|x)")}
        panels = []
        for norm, radii in self._radii().items():
            rows = {0.0: "clean"} | radii
            kept = {
                r: result.figures[key]
                for r, row in sorted(rows.items())
                if (key := f"{row}/accuracy") in result.figures
            }
            if len(kept) > 1:
                panels.append(Panel("accuracy", {"withstand": (list(kept), list(kept.values()))}, title=NORMS[norm][0]))
        if panels:
            pictures["robustness"] = (panels, "radius")
        for name, (drawn, xlabel) in pictures.items():
            try:
                save_lines(drawn, xlabel, path := folder / f"{name}.png")
                result.pictures.append(str(path))
            except UserError as error:
                result.notes.append(f"{name}: {error}")


def _other_classes(model: Method | Classifier, classes: Sequence[str]) -> str | None:
    """Why images of these classes cannot be classified, after the name of their set; None if they can."""
    if len(classes) < 2:
        return "has no classes: there is nothing to classify"
    if isinstance(model, Classifier):
        own = model.classes
        known = model.architecture["num_classes"]
        if own is not None and own != tuple(classes):
            return (
                f"has the classes {', '.join(classes[:10])}, but the classifier was trained with {', '.join(own[:10])}"
            )
    else:
        assert isinstance(model, Classifies)
        known = model.classes
    return None if known == len(classes) else f"has {len(classes)} classes, but the model has {known}"


@contextmanager
def _logits_of(model: Method | Classifier) -> Iterator[Logits]:
    """Within it the logits of a model in eval mode, whose parameters take no gradients."""
    if isinstance(model, Method):
        assert isinstance(model, Classifies)
        with model.evaluating(), frozen(model):
            yield model.class_logits
        return
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), frozen(model):
            yield lambda x: model(x)[1]
    finally:
        model.train(training)
