"""The contribution of each chain of a sampler in stages, which draws a semantic image first and its texture after."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import SamplesInStages, SampleStage
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.report.plots import Panel, save_lines
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging
from ebmzoo.tasks.generation import chain_protocol, compared, real_images
from ebmzoo.tasks.paths import PathRecorder


class Stages(Task):
    """Samples at the start and at the end of every stage, for several numbers of steps, all from the same noise.

    Rows, named after the method's stages: `K+T/semantic_start`, `K+T/semantic_end`, `K+T/texture_end` and, if a final
    denoising follows, `K+T/denoised_end`, for K latent and T image steps; K = 0 is texture from noise, `texture_start`.
    A start that equals the end of the previous stage has no row. Figures: `nfe`, network evaluations per image up to
    there; `seconds` for all n, including the decoding of the recorded states; the Fréchet distance of each extractor.
    Seconds are measured for the last stage and, by running the same chains again without image steps, for the first.
    Curves, one value per recorded state: `K+T/stage/energy`, the mean of E(x), and `K+T/stage/nfe`. There is a picture
    for each K+T, in which each row is a sample from its first state to its last.
    Source: Denoising-EBM, §5 and Fig. 5; 20+90 are the steps of training, 35+100 those of the CIFAR-10 samples.

    Args:
        steps: The pairs (K, T), 0 or more each and not both 0.
        n: Samples per pair.
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the real images are taken from, `train` or `test`.
        real: `all` images of the split, as for published FIDs, or its first `n`.
        keep: Recorded states of each stage, evenly spaced, both ends included, 2 or more.
        shown: Samples in a picture, at most `batch_size`.
        batch_size: Images per batch of chains.

    Raises:
        UserError: A number is out of range.
    """

    name = "stages"

    def __init__(
        self,
        steps: tuple[tuple[int, int], ...] = ((20, 90), (35, 100), (0, 100)),
        n: int = 1000,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["train", "test"] = "train",
        real: Literal["all", "n"] = "all",
        keep: int = 6,
        shown: int = 8,
        batch_size: int = 250,
    ) -> None:
        pairs = [tuple(pair) for pair in steps]
        if not pairs or len(set(pairs)) < len(pairs) or any(min(pair) < 0 or max(pair) == 0 for pair in pairs):
            raise UserError(
                f"stages.steps is {[list(pair) for pair in pairs]}; it must be different pairs of latent and image "
                "steps, 0 or more each and not both 0"
            )
        if n < (least := 2 if extractors else 1):
            raise UserError(f"stages.n is {n}; it must be {least} or more (a covariance, of extractors, needs 2)")
        for key, (value, needed) in {"keep": (keep, 2), "shown": (shown, 1), "batch_size": (batch_size, 1)}.items():
            if value < needed:
                raise UserError(f"stages.{key} is {value}; it must be {needed} or more")
        self.steps = steps
        self.n = n
        self.extractors = extractors or []
        self.split = split
        self.real = real
        self.keep = keep
        self.shown = shown
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors=extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, SamplesInStages)

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        result.protocol = {"n": self.n, "chains": {}}
        seed = int(torch.randint(2**31, ()))  # every row has the same noise
        made: dict[str, Tensor] = {}
        for latent_steps, image_steps in self.steps:
            row = f"{latent_steps}+{image_steps}"
            try:
                with diverging(result, f"{row}/nfe"):
                    made |= self._sample(method, latent_steps, image_steps, seed, folder, result)
            except UserError as error:  # a model without one of the two chains
                result.notes.append(f"{row}: {error}")
        self._compare(made, method, data, result)
        return result

    def _sample(
        self, method: Method, latent_steps: int, image_steps: int, seed: int, folder: Path | None, result: Result
    ) -> dict[str, Tensor]:
        """The images of one K+T as uint8, by row; everything but the Fréchet distances is added to the result."""
        name = f"{latent_steps}+{image_steps}"
        record = self._follow(method, latent_steps, image_steps, seed)
        start = {} if latent_steps else {"start": "noise"}
        result.protocol["chains"][name] = chain_protocol(method.chain_info(image_steps)) | start
        for point, nfe in record.nfe.items():
            result.figures[f"{name}/{point}/nfe"] = nfe
            if point in record.seconds:
                result.figures[f"{name}/{point}/seconds"] = record.seconds[point]
        for stage, path in record.paths.items():
            result.curves[f"{name}/{stage}/energy"] = path.means("energy")
            result.curves[f"{name}/{stage}/nfe"] = [float(nfe) for nfe in record.nfe_of_states[stage]]
        if folder is not None:
            _draw(record, name, folder, result)
        return {f"{name}/{point}": torch.cat(images) for point, images in record.images.items()}

    def _follow(self, method: Method, latent_steps: int, image_steps: int, seed: int) -> StageRecord:
        """Sample all batches and record them.

        Raises:
            ChainDivergedError: A chain diverged.
        """
        assert isinstance(method, SamplesInStages)
        record, clock = StageRecord(self.shown), dict[str, float]()
        starts = range(0, self.n, self.batch_size)
        for first in tracked(starts, f"{latent_steps}+{image_steps} steps", unit="batch"):
            n, at = min(self.batch_size, self.n - first), seed + first
            with stopwatch(clock, "all"):
                stages = method.stages(
                    n,
                    latent_steps=latent_steps,
                    image_steps=image_steps,
                    keep=self.keep,
                    generator=_random(method, at),
                )
            record.add(stages, method)
            record.add_seconds(list(record.nfe)[-1], clock["all"])
            if latent_steps and image_steps and len(stages) > 1:
                with stopwatch(clock, "first"):
                    method.stages(
                        n, latent_steps=latent_steps, image_steps=0, keep=self.keep, generator=_random(method, at)
                    )
                record.add_seconds(f"{stages[0].name}_end", clock["first"])
        return record

    def _compare(self, made: dict[str, Tensor], method: Method, data: ImageData, result: Result) -> None:
        """Compute the Fréchet distances of the samples of every row."""
        usable = [e for e in self.extractors if e.available() is None]
        if not usable or not made:
            return
        real = real_images(data, self.split, None if self.real == "all" else self.n)
        result.protocol |= {"split": self.split, "real_images": len(real), "extractors": {}}
        for e in usable:
            for row, of_real, features, _ in compared(e, method.device, real.images, made, self.batch_size, result):
                result.figures[f"{row}/{e.fd_name}"] = of_real.frechet_distance(features)


@dataclass
class StageRecord:
    """The recorded states of the chains of one pair, over all batches.

    By point, as in `points`: `images`, uint8 batches; `nfe`; `seconds`, where they were measured. By stage: `paths`,
    with the `energy` of the recorded states; `nfe_of_states`. `shown` samples appear in the picture.
    """

    shown: int
    images: dict[str, list[Tensor]] = field(default_factory=dict)
    nfe: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    paths: dict[str, PathRecorder] = field(default_factory=dict)
    nfe_of_states: dict[str, list[int]] = field(default_factory=dict)
    repeats: set[str] = field(default_factory=set)
    """The stages that start where the stage before them ended."""

    def add(self, stages: list[SampleStage], method: Method) -> None:
        """Add one batch."""
        for point, (x, nfe) in points(stages).items():
            self.images.setdefault(point, []).append(to_uint8(x).cpu())
            self.nfe[point] = nfe
        before: Tensor | None = None
        for stage in stages:
            path = self.paths.setdefault(stage.name, PathRecorder(shown=self.shown))
            with method.evaluating():
                path.follow(stage.states, energy=lambda x, x0: method.energy(x.to(method.device)))
            self.nfe_of_states[stage.name] = stage.nfe
            if before is not None and torch.equal(before, stage.states[0]):
                self.repeats.add(stage.name)
            before = stage.states[-1]

    @property
    def strips(self) -> dict[str, Tensor]:
        """The shown samples at each state of each stage, one `(shown, C, H, W)` per label of a column."""
        return {
            f"{stage}, NFE {nfe}": x
            for stage, path in self.paths.items()
            for nfe, x in list(zip(self.nfe_of_states[stage], path.strips, strict=True))[int(stage in self.repeats) :]
        }

    def add_seconds(self, point: str, seconds: float) -> None:
        """Add the seconds of one batch up to a point."""
        self.seconds[point] = self.seconds.get(point, 0.0) + seconds


def points(stages: list[SampleStage]) -> dict[str, tuple[Tensor, int]]:
    """`<stage>_start` and `<stage>_end` of each stage, with the images and the NFE there.

    A start is omitted if it is the end of the previous stage, or the only state of its stage.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    before: Tensor | None = None
    for stage in stages:
        again = before is not None and torch.equal(before, stage.states[0])
        if len(stage.states) > 1 and not again:
            found[f"{stage.name}_start"] = stage.states[0], stage.nfe[0]
        if len(stage.states) > 1 or not again:
            found[f"{stage.name}_end"] = stage.states[-1], stage.nfe[-1]
        before = stage.states[-1]
    return found


def _draw(record: StageRecord, row: str, folder: Path, result: Result) -> None:
    file = row.replace("+", "_")
    strips = torch.stack(list(record.strips.values()), dim=1)
    save_strips(strips, path := folder / f"stages_{file}.png", numbered("sample", len(strips)), list(record.strips))
    result.pictures.append(str(path))
    lines = {stage: (record.nfe_of_states[stage], path.means("energy")) for stage, path in record.paths.items()}
    panel = Panel("mean energy E(x)", lines, title="{} latent and {} image steps".format(*row.split("+")))
    try:
        save_lines([panel], "network evaluations per image", path := folder / f"stages_{file}_energy.png")
        result.pictures.append(str(path))
    except UserError as error:
        result.notes.append(str(error))


def _random(method: Method, seed: int) -> torch.Generator:
    return torch.Generator(method.device).manual_seed(seed)
