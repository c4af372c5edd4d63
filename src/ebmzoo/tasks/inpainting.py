"""How well a method fills in masked regions, how diverse its fillings are, and whether known pixels stay unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.image_range import ImageRange
from ebmzoo.data.masks import Half, Mask, masked
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Inpaints
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.metrics import FeatureExtractor, fidelity, ssim_window
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import numbered, save_strips
from ebmzoo.tasks.base import Result, Task, stopwatch
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.conditional import diverging
from ebmzoo.tasks.generation import chain_protocol, compared

RANGE = ImageRange(-1.0, 1.0)


class Inpainting(Task):
    """Images x with a masked region, filled in several times; the method never gets the hidden pixels.

    Figures: one row per mask: `mse`, `psnr` and `ssim` against x over the whole image, `hidden_mse` and `hidden_psnr`
    over the hidden pixels, each as the mean over images and repeats; `perceptual_…`, the mean of |φ(x̂)/|φ(x̂)| −
    φ(x)/|φ(x)||, in [0, 2], in the features φ of each extractor (not LPIPS, which has learned weights); `diversity`,
    the standard deviation over repeats, averaged over hidden values; `known_unchanged`, 1 if all known pixels equal
    those of x bit for bit and 0 otherwise; `nfe`, network evaluations per image. The rows `mean/…` are for filling in
    the mean of the training images. MSE is in units of [-1, 1]. In the picture of a mask each row is an image: x, x
    with the hidden pixels grey, and its fillings.
    Source: CDRL, Appendix C and Fig. 7, which shows pictures only.

    Args:
        masks: The masks; a random mask is drawn anew for each image.
        n: The largest number of images, in the order of the set.
        repeats: Fillings per image, from different noise (the paper's columns 3 to 6).
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        split: The set that the images are taken from, `test` or `train`.
        steps: Langevin steps; None uses the sampler's own number.
        batch_size: Images per batch of chains.
        shown: Images in a picture.

    Raises:
        UserError: A number is out of range, there is no mask, or two masks have one name.
    """

    name = "inpainting"

    def __init__(
        self,
        masks: list[Mask],
        n: int = 64,
        repeats: int = 4,
        extractors: list[FeatureExtractor] | None = None,
        split: Literal["test", "train"] = "test",
        steps: int | None = None,
        batch_size: int = 250,
        shown: int = 8,
    ) -> None:
        for key, value in {"n": n, "repeats": repeats, "batch_size": batch_size, "shown": shown}.items():
            if value < 1:
                raise UserError(f"inpainting.{key} is {value}; it must be 1 or more")
        names = [mask.name for mask in masks]
        if not masks or len(set(names)) < len(names):
            raise UserError(f"inpainting.masks is [{', '.join(names)}]; list one or more with different names")
        self.masks = masks
        self.n = n
        self.repeats = repeats
        self.extractors = extractors or []
        self.split = split
        self.steps = steps
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls([Half()], extractors=extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def missing(self) -> list[str]:
        reasons = [*(mask.available() for mask in self.masks), *(e.available() for e in self.extractors)]
        return [reason for reason in reasons if reason is not None]

    def supports(self, method: Method) -> bool:
        return isinstance(method, Inpaints)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        images = (data.test_set if self.split == "test" else data.train_set).take(slice(self.n))
        counted = "images" if self.split == "test" else "images_of_training"
        result.protocol = {
            counted: len(images),
            "data": images.name,
            "repeats": self.repeats,
            "image_range": [RANGE.low, RANGE.high],
            "ssim_window": ssim_window(data.size, data.size),
            "chains": {},
        }
        x, mean = prepare(images.images), mean_image(data.train_set.images)
        made: dict[str, Tensor] = {}
        seed = int(torch.randint(2**31, ()))  # every mask has the same noise
        for mask in [mask for mask in self.masks if mask.available() is None]:
            hidden = torch.stack([mask(data.size, seed=i) for i in range(len(x))])[:, None]
            row = f"mean/{mask.name}"
            made[row] = torch.where(hidden, mean, x)[None]
            self._measure(row, made[row], x, hidden, result)
            row = mask.name
            with diverging(result, f"{row}/mse"):
                with stopwatch(result.figures, f"{row}/seconds"):
                    found, sampled = self._fill(method, x, hidden, seed)
                unchanged = torch.equal(torch.where(hidden, x, found), x.expand_as(found))
                made[row] = found.clamp(-1, 1)
                self._measure(row, made[row], x, hidden, result)
                if self.repeats > 1:
                    result.figures[f"{row}/diversity"] = diversity(made[row], hidden)
                result.figures |= {f"{row}/known_unchanged": float(unchanged), f"{row}/nfe": sampled.nfe}
                result.protocol["chains"]["full"] = chain_protocol(sampled)
                if folder is not None:
                    strips = torch.stack([x, masked(x, hidden), *made[row]], dim=1)[: self.shown]
                    columns = ["x", "visible", *numbered("filling", self.repeats)]
                    path = folder / f"inpainting_{row}.png"
                    save_strips(strips, path, numbered("image", len(strips)), columns)
                    result.pictures.append(str(path))
        self._perceive(method.device, x, made, result)
        return result

    def _fill(self, method: Method, x: Tensor, hidden: Tensor, seed: int) -> tuple[Tensor, Samples]:
        """Return fillings `(repeats, n, C, H, W)` on the CPU, and the `Samples` of the last batch."""
        assert isinstance(method, Inpaints)
        known, device = masked(x, hidden), method.device
        fillings = []
        for repeat in range(self.repeats):
            parts = []
            for rows in tracked(torch.split(torch.arange(len(x)), self.batch_size), "fillings", unit="batch"):
                random = torch.Generator(device).manual_seed(seed + repeat * len(x) + int(rows[0]))
                batch = known[rows].to(device), hidden[rows].to(device)
                sampled = method.inpaint(*batch, steps=self.steps, generator=random)
                parts.append(sampled.images.float().cpu())
            fillings.append(torch.cat(parts))
        return torch.stack(fillings), sampled

    def _measure(self, row: str, made: Tensor, x: Tensor, hidden: Tensor, result: Result) -> None:
        """Compute the pixel-wise figures: `made` is `(R, n, C, H, W)`, x `(n, C, H, W)` and hidden `(n, 1, H, W)`."""
        whole = [fidelity(filling, x, RANGE) for filling in made]
        for metric in ("mse", "psnr", "ssim"):
            result.figures[f"{row}/{metric}"] = float(torch.stack([part[metric] for part in whole]).double().mean())
        mse = hidden_error(made, x, hidden)
        psnr = 10 * torch.log10((RANGE.high - RANGE.low) ** 2 / mse)
        result.figures |= {f"{row}/hidden_mse": float(mse.mean()), f"{row}/hidden_psnr": float(psnr.mean())}

    def _perceive(self, device: torch.device, x: Tensor, made: dict[str, Tensor], result: Result) -> None:
        """Compute `perceptual_…` of every row for each extractor."""
        result.protocol["extractors"] = {}
        flat = {row: fillings.flatten(0, 1) for row, fillings in made.items()}
        for e in [e for e in self.extractors if e.available() is None]:
            for row, of_real, features, _ in compared(e, device, x, flat, self.batch_size, result):
                pairs = normalize(features, dim=1).view(-1, *of_real.features.shape) - normalize(
                    of_real.features, dim=1
                )
                result.figures[f"{row}/perceptual_{e.name}"] = float(pairs.norm(dim=-1).mean())


def mean_image(images: Tensor) -> Tensor:
    """The mean, `(C, H, W)` in [-1, 1], of uint8 images `(N, C, H, W)`, exact up to its final rounding."""
    total = torch.stack([part.long().sum(0) for part in torch.split(images, 1024)]).sum(0)
    return (total.double() / len(images) / 127.5 - 1).float()


def hidden_error(made: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
    """The mean of (x̂ − x)² over hidden values: `(R, n, C, H, W)`, `(n, C, H, W)` and `(n, 1, H, W)` to `(R, n)`."""
    squares = ((made - x).double().square() * hidden).flatten(2).sum(2)
    return squares / (hidden.flatten(1).sum(1) * x.shape[1])


def diversity(made: Tensor, hidden: Tensor) -> float:
    """The standard deviation over R repeats, averaged over the hidden values of each image and over images.

    `made` is `(R, n, C, H, W)` and `hidden` `(n, 1, H, W)`.
    """
    spread = (made.double().std(0) * hidden).flatten(1).sum(1)
    return float((spread / (hidden.flatten(1).sum(1) * made.shape[2])).mean())
