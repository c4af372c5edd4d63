"""Named feature extractors: a metric depends on the features it is computed from, so its key carries their name."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.metrics.classifier import ResNetClassifier
from ebmzoo.networks.integrity import check_finite
from ebmzoo.networks.weights import read_weights, sha256
from ebmzoo.progress import tracked


class FeatureExtractor(nn.Module, ABC):
    """A frozen network that maps images to features, loaded on first use.

    >>> class Means(FeatureExtractor):
    ...     name, fingerprint = "means", None
    ...     def available(self):
    ...         return None
    ...     def forward(self, images):
    ...         return images.mean((2, 3)), None
    >>> Means().fd_name, Means()(torch.ones(2, 3, 8, 8))[0].shape
    ('fd_means', torch.Size([2, 3]))
    """

    reuse: bool = False
    """Whether the features of real images are kept for later tests: only where a class sets it, whose `name` and
    `fingerprint` then say all that features depend on. A class derived from it sets it anew."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that metrics computed from these features carry."""

    @property
    def fd_name(self) -> str:
        """The key of the Fréchet distance in these features; `fid` is reserved for Inception."""
        return f"fd_{self.name}"

    @property
    def kd_name(self) -> str:
        """The key of the kernel distance in these features; `kid` is reserved for Inception."""
        return f"kd_{self.name}"

    @property
    def is_name(self) -> str:
        """The key of the Inception Score from these logits; `is` is reserved for Inception."""
        return f"is_{self.name}"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes that the logits are of, in their order; None if they are not known."""
        return None

    @abstractmethod
    def available(self) -> str | None:
        """Return None if the extractor can be used, else one sentence that says what to do."""

    @property
    @abstractmethod
    def fingerprint(self) -> str | None:
        """The first 12 hexadecimal digits of the weight file's SHA-256; None if the extractor has no weights."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map images `(B, C, H, W)` in [-1, 1] to features `(B, D)` and logits `(B, K)`, or None without logits."""


class ClassifierFeatures(FeatureExtractor):
    """The pooled features and the logits of a `Classifier` trained by `ebmzoo fit`.

    >>> print(ClassifierFeatures("nowhere/last.ckpt").available())  # doctest: +ELLIPSIS
    no classifier at nowhere/last.ckpt: `ebmzoo fit --prepare` first trains what its config needs, and ...

    Args:
        checkpoint: The classifier's checkpoint, such as `runs/classifier_digits/last.ckpt`.

    Raises:
        UserError: On first use, if the file is missing or is not a classifier's checkpoint.
    """

    reuse = True

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.net: nn.Module | None = None
        self.facts: dict[str, Any] = {}
        self._fingerprint = ""

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
        return self._fingerprint

    @property
    def classes(self) -> tuple[str, ...] | None:
        self._load()
        names = self.facts.get("classes")
        return None if names is None else tuple(names)

    def _load(self) -> nn.Module:
        if self.net is None:
            path = Path(self.checkpoint)
            if not path.is_file():
                raise UserError(f"no classifier at {path}: {_how_to_train(path)}")
            how = _how_to_train(path)
            try:
                self._fingerprint = sha256(path)[:12]  # of what is read now: the file may be replaced later
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
            check_finite(net.state_dict(), path)
            self.net = net.eval().requires_grad_(False)
        return self.net

    def train(self, mode: bool = True) -> ClassifierFeatures:
        """Stay in evaluation mode: batch normalization in training mode would make features depend on the batch."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        net = self._load().to(images.device)
        needed = (self.facts["in_channels"], self.facts["size"], self.facts["size"])
        if images.shape[1:] != needed:
            raise UserError(
                f"the classifier {self.checkpoint} takes images {needed}, but these are {tuple(images.shape[1:])}: "
                "use one trained on this data"
            )
        features, logits = net(images)
        return features, logits


def _how_to_train(path: Path) -> str:
    """The commands that make a classifier's checkpoint at `path`."""
    run_dir = f" --run_dir {shlex.quote(str(path.parent))}" if path.name == "last.ckpt" else ""
    own = "--data ebmzoo.data.ImageFolder --data.path DIR --data.size 32 --model.num_classes K"
    return (
        "`ebmzoo fit --prepare` first trains what its config needs, and "
        f"`ebmzoo fit --config classifier_cifar {own}{run_dir}` one of images of your own"
    )


class Pixels(FeatureExtractor):
    """The flattened images themselves: always available, but unrelated to what an image shows; for demonstrations.

    >>> Pixels()(torch.zeros(2, 1, 8, 8))[0].shape
    torch.Size([2, 64])
    """

    reuse = True

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
                "3072 (3x32x32): use InceptionV3 or ClassifierFeatures"
            )
        return features, None


@torch.no_grad()
def extract(
    extractor: FeatureExtractor,
    images: Tensor | Iterable[Tensor],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """Return features `(N, D)` and logits `(N, K)` (or None) of all images, float32 on the CPU.

    >>> features, logits = extract(Pixels(), torch.full((3, 1, 2, 2), 255, dtype=torch.uint8))
    >>> features.shape, features.unique(), logits
    (torch.Size([3, 4]), tensor([1.]), None)

    Args:
        extractor: The feature extractor; it runs in float32 even under autocast.
        images: Images `(N, C, H, W)`, float in [-1, 1] or uint8, or an iterable of such tensors.
        batch_size: The largest number of images in one pass.
        device: The device that the extractor runs on.

    Raises:
        UserError: If there are no images, the extractor cannot take them, or it is not available.
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
                    raise UserError("the images contain NaN or infinity: the sampler or the model has diverged")
                f, z = extractor(batch.to(device, torch.float32))
                features.append(f.float().cpu())
                if z is not None:
                    logits.append(z.float().cpu())
    if not features:
        raise UserError("there are no images to extract features from")
    return torch.cat(features), torch.cat(logits) if logits else None
