"""Named feature extractors: a figure of merit is only as good as its features, so it carries their name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.metrics.classifier import ResNetClassifier
from ebmzoo.networks.weights import read_weights, sha256
from ebmzoo.progress import tracked


class FeatureExtractor(nn.Module, ABC):
    """Images to features, loaded on first use and never trained."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What figures measured in these features are called after."""

    @property
    def fd_name(self) -> str:
        """What the Fréchet distance in these features is called; `fid` is Inception's alone."""
        return f"fd_{self.name}"

    @property
    def kd_name(self) -> str:
        """What the kernel distance in these features is called; `kid` is Inception's alone."""
        return f"kd_{self.name}"

    @property
    def is_name(self) -> str:
        """What the Inception Score from these logits is called; `is` is Inception's alone."""
        return f"is_{self.name}"

    @abstractmethod
    def available(self) -> str | None:
        """None when usable, else one sentence that says what to do; asked at the start of a run."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """The first 12 hexadecimal digits of the weight file's SHA-256; None when there is no such file."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`, or None for no logits."""


class ClassifierFeatures(FeatureExtractor):
    """The pooled features and the logits of a `Classifier` trained by `ebmzoo fit`.

    Args:
        checkpoint: the classifier's checkpoint, such as `runs/classifier_digits/last.ckpt`.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.net: nn.Module | None = None
        self.facts: dict[str, Any] = {}

    @property
    def name(self) -> str:
        self._load()
        return str(self.facts["name"])

    def available(self) -> str | None:
        try:
            self._load()
        except UserError as error:
            return str(error)
        return None

    @property
    def fingerprint(self) -> str:
        self._load()
        return sha256(self.checkpoint)[:12]

    def _load(self) -> nn.Module:
        if self.net is None:
            path = Path(self.checkpoint)
            if not path.is_file():
                raise UserError(
                    f"no classifier at {path}: make it with `ebmzoo fit --config configs/classifier_<data>.yaml`."
                )
            how = "make one with `ebmzoo fit --config configs/classifier_<data>.yaml`."
            try:
                saved = read_weights(path)
            except UserError as error:
                raise UserError(f"{error}, so it is not a classifier's checkpoint: {how}") from error
            try:
                self.facts = dict(saved["classifier"])
                net = ResNetClassifier(**{k: self.facts[k] for k in ("in_channels", "num_classes", "width", "blocks")})
                net.load_state_dict(
                    {k.removeprefix("net."): v for k, v in saved["state_dict"].items() if k.startswith("net.")}
                )
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                raise UserError(f"{path} is not a classifier's checkpoint: {how}") from error
            self.net = net.eval().requires_grad_(False)
        return self.net

    def train(self, mode: bool = True) -> ClassifierFeatures:
        """Never leaves evaluation mode: batch normalisation would make an image's features depend on its batch."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        net = self._load().to(images.device)
        needed = (self.facts["in_channels"], self.facts["size"], self.facts["size"])
        if images.shape[1:] != needed:
            raise UserError(
                f"the classifier {self.checkpoint} is for images {needed}, these are {tuple(images.shape[1:])}: "
                "use one trained on this data."
            )
        features, logits = net(images)
        return features, logits


class Pixels(FeatureExtractor):
    """The images themselves, flattened: always available, blind to what an image shows; for demonstrations."""

    @property
    def name(self) -> str:
        return "pixels"

    def available(self) -> str | None:
        return None

    @property
    def fingerprint(self) -> None:
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        features = images.flatten(1)
        if features.shape[1] > 3072:
            raise UserError(
                f"pixel features of {tuple(images.shape[1:])} images have length {features.shape[1]}, the limit is "
                "3072 (3x32x32): use InceptionV3 or ClassifierFeatures."
            )
        return features, None


@torch.no_grad()
def extract(
    extractor: FeatureExtractor,
    images: Tensor | Iterable[Tensor],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """Features `(N, D)` and logits `(N, K)` (or None) of all images, float32 on the CPU, each image seen once.

    Args:
        extractor: what computes them, in float32 even under autocast.
        images: `(N, C, H, W)` in [-1, 1] or uint8, or an iterable of such tensors.
        batch_size: most images the extractor sees at a time.
        device: where it runs.

    Raises:
        UserError: no images, images it is not made for, or the extractor is not available.
    """
    if problem := extractor.available():
        raise UserError(problem)
    device = torch.device(device)
    features: list[Tensor] = []
    logits: list[Tensor] = []
    with torch.autocast(device.type, enabled=False):
        for group in [images] if isinstance(images, Tensor) else images:
            for batch in tracked(group.split(batch_size), "features", unit="batch"):
                batch = to_float(batch) if batch.dtype == torch.uint8 else batch
                if not batch.isfinite().all():
                    raise UserError("the images hold NaN or infinity: the sampler or the model has diverged.")
                f, z = extractor(batch.to(device, torch.float32))
                features.append(f.float().cpu())
                if z is not None:
                    logits.append(z.float().cpu())
    if not features:
        raise UserError("there are no images to take features of.")
    return torch.cat(features), torch.cat(logits) if logits else None
