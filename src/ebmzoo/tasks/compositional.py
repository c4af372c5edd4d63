"""Whether samples given several attributes at once have them all."""

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
from ebmzoo.report.pictures import save_strips
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging, tell
from ebmzoo.tasks.generation import chain_protocol, draw
from ebmzoo.tasks.latents import ConditionEncoder, check_guidance, condition_encoder, conditions_on_latents, has_classes

HELD_OUT = " (held out)"


class Compositional(Task):
    """Samples given a combination of attributes' values, E(x) − γ Σₐ cos(g(f(x)), z̄ₐ), z̄ₐ the mean latent of a value.

    A method that follows classes is given those that the values are, log p(x|c₁) + … + log p(x|c_M) − (M−1) log p(x).

    Figures, a row for each combination, marked `(held out)` where no training image has all its values: of each
    attribute, and of `all` at once, the share of samples whose value the attribute's classifier tells to be the wanted
    one; `…_unconditional` is that share of samples given nothing, the model's chance. `seen` and `held_out` are means
    over combinations, `real` is the share of test images whose own value is told. `nfe` is network evaluations an
    image. In the picture a row is a combination.
    Source: CLEL, §4.4, Eq. 15 and Fig. 4; CDRL, §3.6, Eq. 13 and 14, and §4.5.

    Args:
        combinations: such as `[{shape: star, colour: red}, {shape: cross, colour: blue, size: large}]`.
        classifiers: for each attribute what tells its values, trained apart from the model with that attribute as
            label; of one that is not available there are no figures, but a note. (For `Shapes`, whose pictures
            `ebmzoo.data.shapes.render` draws, nearness to these would tell too; a classifier bears what is not exact.)
        n: how many samples of each combination.
        n_encode: z̄ₐ is of at most so many training images with the value, in the set's order.
        steps: Langevin steps instead of the sampler's own.
        batch_size: images in one chain.
        shown: how many samples of a combination the picture shows.
        guidance: w of classifier-free guidance, for a method that follows classes.
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
                f"compositional.combinations is {combinations}; give such as [{{shape: star, colour: red}}]"
            )
        if absent := {name for wanted in combinations for name in wanted} - set(classifiers):
            raise UserError(f"compositional.classifiers has none for {', '.join(sorted(absent))}")
        check_guidance("compositional.guidance", guidance)
        self.combinations, self.classifiers, self.n, self.n_encode = combinations, classifiers, n, n_encode
        self.guidance = guidance
        self.steps, self.batch_size, self.shown = steps, batch_size, shown

    def missing(self) -> list[str]:
        return [f"{a}: {told}" for a, c in self.classifiers.items() if (told := c.available()) is not None]

    def under(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def can_ask(self, method: Method) -> bool:
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
        judges = {a: c for a, c in self.classifiers.items() if c.available() is None}
        given = condition_encoder(method, data, self.batch_size, self.n_encode, self.guidance)
        told = self._told(given)
        result.protocol = {"steps": self.steps, "chains": {}, "samples_a_combination": self.n}
        result.protocol |= given.protocol("value")
        result.protocol["classifiers"] = {c.name: c.fingerprint for c in judges.values()}
        for attribute, found in self._tell(judges, data.test_set.images, known, method).items():
            result.figures[f"real/{attribute}"] = float((found == tested.column(attribute)).double().mean())
        plain, sampled = draw(method, self.n, self.batch_size, self.steps)
        chance = self._tell(judges, plain, known, method)
        result.protocol["chains"]["unconditional"] = chain_protocol(sampled)
        strips: list[Tensor] = []
        for wanted in self.combinations:
            row = "+".join(wanted.values()) + ("" if known.where(wanted).any() else HELD_OUT)
            with diverging(result, f"{row}/all"):
                several = torch.stack([told[pair] for pair in wanted.items()])
                with stopwatch(result.figures, f"{row}/seconds"):
                    images, sampled = given.draw(several.expand(self.n, *several.shape), self.steps)
                result.figures[f"{row}/nfe"] = sampled.nfe
                result.protocol["chains"]["full"] = chain_protocol(sampled)
                strips.append(to_float(images[: self.shown]))
                of_row = {a: judge for a, judge in judges.items() if a in wanted}
                shares = agreements(self._tell(of_row, images, known, method), known, wanted)
                by_chance = agreements({a: chance[a] for a in of_row}, known, wanted)
                result.figures |= {f"{row}/{key}": share for key, share in shares.items()}
                result.figures |= {f"{row}/{key}_unconditional": share for key, share in by_chance.items()}
        _summarise(result.figures)
        if folder is not None and strips:
            save_strips(torch.stack(strips), path := folder / "compositional.png")
            result.pictures.append(str(path))
        return result

    def _told(self, given: ConditionEncoder) -> dict[tuple[str, str], Tensor]:
        """What tells the method of every value that a combination names."""
        pairs = dict.fromkeys(pair for wanted in self.combinations for pair in wanted.items())
        try:
            return {(name, value): given.of_value(name, value) for name, value in pairs}
        except UserError as error:
            raise UserError(f"compositional.combinations: {error}") from error

    def _tell(
        self, judges: Mapping[str, FeatureExtractor], images: Tensor, known: Attributes, method: Method
    ) -> dict[str, Tensor]:
        """By attribute, the index of the value told of each image, `(N,)`."""
        told = {}
        for attribute, judge in judges.items():
            values, key = known.values[known.names.index(attribute)], f"compositional.classifiers.{attribute}"
            told[attribute] = tell(judge, images, values, self.batch_size, method.device, key)
        return told


def agreements(told: Mapping[str, Tensor], known: Attributes, wanted: Mapping[str, str]) -> dict[str, float]:
    """The share of images whose value told is the one wanted, of each attribute told, and of `all` if all are told."""
    right = {a: t == known.values[known.names.index(a)].index(wanted[a]) for a, t in told.items()}
    shares = {a: float(hits.double().mean()) for a, hits in right.items()}
    if set(right) == set(wanted):
        shares["all"] = float(torch.stack(list(right.values())).all(0).double().mean())
    return shares


def _summarise(figures: dict[str, float]) -> None:
    """The rows `seen` and `held_out`: means over combinations of what is right all at once."""
    for key in ("all", "all_unconditional"):
        parts: dict[str, list[float]] = {"seen": [], "held_out": []}
        for name, value in figures.items():
            row, _, column = name.rpartition("/")
            if column == key:
                parts["held_out" if row.endswith(HELD_OUT) else "seen"].append(value)
        figures |= {f"{part}/{key}": sum(values) / len(values) for part, values in parts.items() if values}
