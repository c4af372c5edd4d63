"""The features of real images and their statistics, which are kept so that a later test need not compute them again."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmzoo.data.array_cache import caches, code_digest, find, keep
from ebmzoo.data.images import digest_of
from ebmzoo.metrics.extractors import FeatureExtractor, extract
from ebmzoo.metrics.frechet import FeatureStatistics

PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity")
"""The packages whose code computes features."""
CODE = tuple(f"ebmzoo.metrics.{name}" for name in ("extractors", "classifier", "inception", "frechet", "reference"))
CODE += ("ebmzoo.data.images",)
"""Our own modules that features and statistics depend on."""
_PRECISIONS = (torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn, torch.backends)


class ReferenceFeatures:
    """The features `(N, D)` of real images, float32 on the CPU, and their statistics, those of an earlier test if kept.

    They are kept in the user's cache (`ebmzoo.data.array_cache.caches`) for an extractor whose class has `reuse`. They
    belong to the bytes of the images in their order, whatever data, split, number and seed these come from; to the
    extractor's class, name and fingerprint; and to all else that can change a rounding: the number of images in a pass,
    the device, the threads and the versions. So figures are the same, to the last bit, as without them.

    >>> from ebmzoo.metrics import Pixels
    >>> images = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 1, 1, 2)
    >>> ReferenceFeatures(Pixels(), images).features
    tensor([[-1.,  1.]])

    Args:
        extractor: The feature extractor, on `device`.
        images: Real images `(N, C, H, W)`, uint8, or float in [-1, 1].
        batch_size: The largest number of images in one pass.
        device: The device that the extractor runs on.

    Raises:
        UserError: On first use, as of `extract` and `FeatureStatistics.of`.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        images: Tensor,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
    ) -> None:
        self.extractor = extractor
        self.images = images
        self.batch_size = batch_size
        self.device = torch.device(device)

    @cached_property
    def features(self) -> Tensor:
        """The features."""
        kept = self._kept("features", {"features": (None, None)}, np.float32)
        if kept is not None and len(kept["features"]) == len(self.images):
            return torch.from_numpy(kept["features"])
        found, _ = extract(self.extractor, self.images, self.batch_size, self.device)
        self._keep("features", {"features": found})
        return found

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Their mean and covariance."""
        n, dim = self.features.shape
        kept = self._kept("statistics", {"mean": (dim,), "scatter": (dim, dim)}, np.float64)
        if kept is not None:
            return FeatureStatistics.of_moments(n, torch.from_numpy(kept["mean"]), torch.from_numpy(kept["scatter"]))
        found = FeatureStatistics.of(self.features)
        self._keep("statistics", {"mean": found.mean, "scatter": found.scatter})
        return found

    def frechet_distance(self, features: Tensor) -> float:
        """Return the Fréchet distance to features `(M, D)`: `frechet_distance(self.features, features)`.

        Raises:
            UserError: As of `ebmzoo.metrics.frechet_distance`.
        """
        return self.statistics.distance(FeatureStatistics.of(features))

    @cached_property
    def _key(self) -> dict[str, Any] | None:
        """What the features depend on; None if they are not kept."""
        e = self.extractor
        kind = type(e)
        if not e.reuse or "reuse" not in vars(kind) or self.images.dtype not in (torch.uint8, torch.float32):
            return None
        if not caches("features"):
            return None
        return {
            "extractor": {"class": f"{kind.__module__}.{kind.__qualname__}", "name": e.name, "sha256": e.fingerprint},
            "images": {"digest": digest_of([self.images.cpu()]), "shape": list(self.images.shape)},
            "batch_size": self.batch_size,
            **_conditions(self.device),
            "code": code_digest(*CODE, *sorted({c.__module__ for c in kind.__mro__ if _is_of_extractor(c)})),
        }

    def _kept(self, what: str, shapes: Mapping[str, tuple[int | None, ...]], dtype: type) -> dict[str, Any] | None:
        """Copies of the arrays that are kept; None if there are none of this form."""
        if self._key is None or (found := find(caches("features"), {"of": what, **self._key})) is None:
            return None
        if found.arrays.keys() != shapes.keys():
            return None
        right = all(_fits(found.arrays[name], shape, dtype) for name, shape in shapes.items())
        return {name: np.array(found.arrays[name]) for name in shapes} if right else None

    def _keep(self, what: str, tensors: Mapping[str, Tensor]) -> None:
        if self._key is not None:
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            keep(caches("features"), {"of": what, **self._key}, arrays, {"n": len(self.images)})


def _is_of_extractor(kind: type) -> bool:
    """Whether a class is a feature extractor, whose module's code features depend on."""
    return issubclass(kind, FeatureExtractor) and inspect.getmodule(kind) is not None


def _fits(array: NDArray[Any], shape: tuple[int | None, ...], dtype: type) -> bool:
    same = [wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=False)]
    return array.dtype == dtype and array.ndim == len(shape) and all(same)


def _conditions(device: torch.device) -> dict[str, Any]:
    """The versions, the machine and the settings of torch that can change how features are rounded."""
    cuda = device.type == "cuda"
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} {device.type}",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "float32": [str(getattr(part, "fp32_precision", None)) for part in _PRECISIONS],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic],
        "backends": [torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
