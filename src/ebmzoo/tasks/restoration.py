"""How well a method restores degraded images: by a linear operator, with or without noise."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.degradations import Downsample, GaussianBlur, Grayscale, Identity, Masking, Operator
from ebmzoo.data.image_range import ImageRange
from ebmzoo.data.masks import Half
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import RestorationSettings, Restores, SampleStage
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor, fidelity, ssim_window
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging

RANGE = ImageRange(-1.0, 1.0)
STANDARD = (Downsample(4), Downsample(8), Grayscale(), GaussianBlur(), Identity(), Masking(Half()))


class Restoration(Task):
    """Test images x degraded to y = A x + σε and restored from y alone, without training for the task.

    Rows: `<operator>/start`, A⁺y, and `<operator>/<stage>`, the end of each of the method's stages. Columns, for images
    clamped to [-1, 1]: `psnr` and `ssim` against x, as means over images; `consistency`, the root mean square of A x̂ −
    y over all measurements, which for a perfect x̂ is the noise σ; `nfe`, network evaluations per image up to there. In
    the picture of an operator the rows are x, A⁺y and the stages.
    Source: LIEBM, §4.4, Table 7 and Fig. 5, whose rows G(m⁰), G(m) and G(m) + Y are `inferred`, `latent`, `residual`.

    Args:
        operators: The operators A with their σ; None uses 4× and 8× super-resolution, colorization, deblurring,
            denoising and inpainting, those of them that the images allow.
        restoring: The settings of the chains.
        n: The largest number of test images, in the order of the set.
        batch_size: Images per batch of chains.
        shown: Images in a picture.

    Raises:
        UserError: A number is out of range, or two operators have one name.
    """

    name = "restoration"

    def __init__(
        self,
        operators: list[Operator] | None = None,
        restoring: RestorationSettings = RestorationSettings(),  # noqa: B008  (frozen)
        n: int = 64,
        batch_size: int = 64,
        shown: int = 8,
    ) -> None:
        for key, value in {"n": n, "batch_size": batch_size, "shown": shown}.items():
            if value < 1:
                raise UserError(f"restoration.{key} is {value}; it must be 1 or more")
        names = [operator.name for operator in operators or ()]
        if len(set(names)) < len(names):
            raise UserError(f"restoration.operators is [{', '.join(names)}]; their names must differ")
        self.operators = operators
        self.restoring = restoring
        self.n = n
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, Restores) and method.can_restore

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        images = data.test_set.images[: self.n]
        channels, size = images.shape[1], images.shape[2]
        result = Result(self.name)
        result.protocol = {
            "images": len(images),
            "data": data.test_set.name,
            "ssim_window": ssim_window(size, size),
            "restoring": asdict(self.restoring),
        }
        x, seed = prepare(images), int(torch.randint(2**31, ()))  # every operator has the same noise
        applied = []
        for operator in self.operators or STANDARD:
            lacking = operator.lacks(channels, size)
            if lacking is None:
                applied.append(operator)
            elif self.operators is not None:
                result.notes.append(f"{operator.name}: skipped, it needs {lacking}")
        result.protocol["degraded_by"] = {operator.name: repr(operator) for operator in applied}
        for operator in tracked(applied, "operators", total=len(applied)):
            y = operator.degraded(x, torch.Generator().manual_seed(seed))
            start = operator.pinv(y)
            self._measure(operator, "start", start, x, y, 0, result)
            with diverging(result, f"{operator.name}/psnr"):
                stages = self._restore(method, y, operator, seed)
                for stage in stages:
                    self._measure(operator, stage.name, stage.states[-1], x, y, stage.nfe[-1], result)
                if folder is not None:
                    strips = {"x": x, "A⁺y": start} | {stage.name: stage.states[-1] for stage in stages}
                    shown = torch.stack([strip[: self.shown].clamp(-1, 1) for strip in strips.values()])
                    path = folder / f"restoration_{operator.name}.png"
                    save_strips(shown, path, list(strips), numbered("image", shown.shape[1]))
                    result.pictures.append(str(path))
        return result

    def _restore(self, method: Method, y: Tensor, operator: Operator, seed: int) -> list[SampleStage]:
        """The ends of the stages of all images, on the CPU."""
        assert isinstance(method, Restores)
        parts: list[list[SampleStage]] = []
        for at, batch in enumerate(torch.split(y, self.batch_size)):
            random = torch.Generator(method.device).manual_seed(seed + at)
            parts.append(method.restored(batch.to(method.device), operator, self.restoring, generator=random))
        return [
            SampleStage(
                alike[0].name, [torch.cat([stage.states[-1].float().cpu() for stage in alike])], [alike[0].nfe[-1]]
            )
            for alike in zip(*parts, strict=True)
        ]

    def _measure(
        self, operator: Operator, stage: str, made: Tensor, x: Tensor, y: Tensor, nfe: int, result: Result
    ) -> None:
        found, row = fidelity(made, x, RANGE), f"{operator.name}/{stage}"
        for metric in ("psnr", "ssim"):
            result.figures[f"{row}/{metric}"] = float(found[metric].double().mean())
        result.figures[f"{row}/consistency"] = consistency(made, y, operator)
        result.figures[f"{row}/nfe"] = nfe


def consistency(made: Tensor, y: Tensor, operator: Operator) -> float:
    """The root mean square of A x̂ − y, for images clamped to [-1, 1]."""
    return math.sqrt((operator(made.clamp(-1, 1)) - y).double().square().mean())
