"""Whether samples conditioned on several attributes at once have all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import Attributes, to_float
from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging, predict_classes
from ebmzoo.tasks.conditioning import (
    ConditionEncoder,
    check_guidance,
    condition_encoder,
    conditions_on_latents,
    has_classes,
)
from ebmzoo.tasks.generation import chain_protocol, draw

HELD_OUT = " (held out)"


class Compositional(Task):
    """Accuracy of samples conditioned on combinations of attribute values, E(x) − γ Σₐ cos(g(f(x)), z̄ₐ).

    z̄ₐ is the mean latent of a value. A class-conditional method is conditioned on the classes of the values,
    log p(x|c₁) + … + log p(x|c_M) − (M−1) log p(x).

    Figures: one row per combination, marked `(held out)` if no training image has all its values. For each attribute,
    and for `all` at once, the share of samples that the attribute's classifier assigns the requested value;
    `…_unconditional` is that share among unconditional samples, the chance level of the model. `seen` and `held_out`
    are means over combinations, `real` is the classifier's accuracy on test images. `nfe` is network evaluations per
    image. In the picture each row is a combination.
    Source: CLEL, §4.4, Eq. 15 and Fig. 4; CDRL, §3.6, Eq. 13 and 14, and §4.5.

    Args:
        combinations: Attribute values, such as `[{shape: star, colour: red}, {shape: cross, size: large}]`.
        classifiers: A classifier for each attribute, trained apart from the model with that attribute as label; if one
            is unavailable its figures are missing, with a note. (For `Shapes`, which `ebmzoo.data.shapes.render` draws,
            the nearest rendered image would do as well; a classifier tolerates inexact samples.)
        n: Samples per combination, 1 or more.
        n_encode: The largest number of training images with the value that z̄ₐ averages, in the order of the set.
        steps: Langevin steps; None uses the sampler's own number.
        batch_size: Images per batch of chains.
        shown: Samples per combination in the picture.
        guidance: Weight w of classifier-free guidance, 0 or more, for a class-conditional method.

    Raises:
        UserError: A number is out of range, a combination is empty, or an attribute has no classifier.
    """

    name = "compositional"

    def __init__(
        self,
        combinations: list[dict[str, str]],
        classifiers: dict[str, FeatureExtractor],
        n: int = 100,
        n_encode: int = 5000,
        steps: int | None = None,
        batch_size: int = 250,
        shown: int = 10,
        guidance: float = 0.0,
    ) -> None:
        for key, value in {"n": n, "n_encode": n_encode, "batch_size": batch_size, "shown": shown}.items():
            if value < 1:
                raise UserError(f"compositional.{key} is {value}; it must be 1 or more")
        if not combinations or not all(combinations):
            raise UserError(
                f"compositional.combinations is {combinations}; an example is [{{shape: star, colour: red}}]"
            )
        if absent := {name for wanted in combinations for name in wanted} - set(classifiers):
            raise UserError(f"compositional.classifiers has none for {', '.join(sorted(absent))}")
        check_guidance("compositional.guidance", guidance)
        self.combinations = combinations
        self.classifiers = classifiers
        self.n = n
        self.n_encode = n_encode
        self.guidance = guidance
        self.steps = steps
        self.batch_size = batch_size
        self.shown = shown

    def missing(self) -> list[str]:
        return [f"{a}: {reason}" for a, c in self.classifiers.items() if (reason := c.available()) is not None]

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def supports(self, method: Method) -> bool:
        return conditions_on_latents(method) or has_classes(method)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        known, tested = data.train_set.attributes, data.test_set.attributes
        if known is None or tested is None:
            result.notes.append(f"{data.name} has no attributes: there is nothing to compose")
            return result
        if absent := set(self.classifiers) - set(known.names):
            names = ", ".join(sorted(absent))
            raise UserError(f"compositional.classifiers: {names} is not among the attributes of {data.name}")
        classifiers = {a: c for a, c in self.classifiers.items() if c.available() is None}
        encoder = condition_encoder(method, data, self.batch_size, self.n_encode, self.guidance)
        conditions = self._conditions(encoder)
        result.protocol = {"steps": self.steps, "chains": {}, "samples_a_combination": self.n}
        result.protocol |= encoder.protocol("value")
        result.protocol["classifiers"] = {c.name: c.fingerprint for c in classifiers.values()}
        for attribute, found in self._predict(classifiers, data.test_set.images, known, method).items():
            result.figures[f"real/{attribute}"] = float((found == tested.column(attribute)).double().mean())
        plain, sampled = draw(method, self.n, self.batch_size, self.steps)
        chance = self._predict(classifiers, plain, known, method)
        result.protocol["chains"]["unconditional"] = chain_protocol(sampled)
        strips: dict[str, Tensor] = {}
        for wanted in self.combinations:
            row = "+".join(wanted.values()) + ("" if known.where(wanted).any() else HELD_OUT)
            with diverging(result, f"{row}/all"):
                several = torch.stack([conditions[pair] for pair in wanted.items()])
                with stopwatch(result.figures, f"{row}/seconds"):
                    images, sampled = encoder.draw(several.expand(self.n, *several.shape), self.steps)
                result.figures[f"{row}/nfe"] = sampled.nfe
                result.protocol["chains"]["full"] = chain_protocol(sampled)
                strips[row] = to_float(images[: self.shown])
                of_row = {a: classifier for a, classifier in classifiers.items() if a in wanted}
                shares = agreements(self._predict(of_row, images, known, method), known, wanted)
                by_chance = agreements({a: chance[a] for a in of_row}, known, wanted)
                result.figures |= {f"{row}/{key}": share for key, share in shares.items()}
                result.figures |= {f"{row}/{key}_unconditional": share for key, share in by_chance.items()}
        _summarise(result.figures)
        if folder is not None and strips:
            shown, path = torch.stack(list(strips.values())), folder / "compositional.png"
            save_strips(shown, path, list(strips), numbered("sample", shown.shape[1]))
            result.pictures.append(str(path))
        return result

    def _conditions(self, encoder: ConditionEncoder) -> dict[tuple[str, str], Tensor]:
        """The condition for every value that a combination contains."""
        pairs = dict.fromkeys(pair for wanted in self.combinations for pair in wanted.items())
        try:
            return {(name, value): encoder.encode_value(name, value) for name, value in pairs}
        except UserError as error:
            raise UserError(f"compositional.combinations: {error}") from error

    def _predict(
        self, classifiers: Mapping[str, FeatureExtractor], images: Tensor, known: Attributes, method: Method
    ) -> dict[str, Tensor]:
        """By attribute, the index of the predicted value of each image, `(N,)`."""
        predicted = {}
        for attribute, classifier in classifiers.items():
            values, key = known.values[known.names.index(attribute)], f"compositional.classifiers.{attribute}"
            predicted[attribute] = predict_classes(classifier, images, values, self.batch_size, method.device, key)
        return predicted


def agreements(predicted: Mapping[str, Tensor], known: Attributes, wanted: Mapping[str, str]) -> dict[str, float]:
    """The share of images with the requested value, per predicted attribute, and for `all` if all are predicted."""
    right = {a: t == known.values[known.names.index(a)].index(wanted[a]) for a, t in predicted.items()}
    shares = {a: float(hits.double().mean()) for a, hits in right.items()}
    if set(right) == set(wanted):
        shares["all"] = float(torch.stack(list(right.values())).all(0).double().mean())
    return shares


def _summarise(figures: dict[str, float]) -> None:
    """Add the rows `seen` and `held_out`, the means over combinations of the share with all values right."""
    for key in ("all", "all_unconditional"):
        parts: dict[str, list[float]] = {"seen": [], "held_out": []}
        for name, value in figures.items():
            row, _, column = name.rpartition("/")
            if column == key:
                parts["held_out" if row.endswith(HELD_OUT) else "seen"].append(value)
        figures |= {f"{part}/{key}": sum(values) / len(values) for part, values in parts.items() if values}
