"""How many dimensions the data have near an image, by the curvature of the energy there."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import to_float
from ebmzoo.energy import Energy, frozen, trainable_gradient
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import HasFlatDirections
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import save_strips
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget


class IntrinsicDimension(Task):
    """The local intrinsic dimension (LID) of test images: the eigenvalues of ∇²E(x) with |λ| below a threshold.

    Figures:

        lid/mean, lid/std        over the images
        lid/share                the mean over the images' number of elements
        negative                 mean number of eigenvalues below minus the threshold: 0 where E is a well
        spearman_png             rank correlation of the LID with the size of the image's PNG; NaN if one is constant

    Along the data the energy of a Boltzmann density is flat, and across them curved; complex images have more
    directions in which they can vary, and longer files. The picture has the images of the least and largest LID.
    A column of a Hessian is one second backward pass; the columns of all images of a batch are computed together.
    Source: Energy Matching, §5 and its code, with thresholds of 2 (CIFAR-10) and 3 (MNIST) for V = ε_max E, and
    correlations of 0.90 and 0.88 with the PNG's size.

    Args:
        n: Test images, in the order of the set, 2 or more.
        threshold: The largest |λ| that counts, in units of E; None is the method's own, `flat_curvature`.
        limit: The largest number of columns of Hessians, images times elements; the protocol has the number of images
            that this leaves, at least 2. None is no limit.
        batch_size: Images per batch.
        shown: Images at either end in the picture.

    Raises:
        UserError: A number is out of range.
    """

    name = "intrinsic_dimension"

    def __init__(
        self,
        n: int = 100,
        threshold: float | None = None,
        limit: int | None = 50_000,
        batch_size: int = 50,
        shown: int = 8,
    ) -> None:
        for key, value in {"batch_size": batch_size, "shown": shown, "limit": 1 if limit is None else limit}.items():
            if value < 1:
                raise UserError(f"intrinsic_dimension.{key} is {value}; it must be 1 or more")
        if n < 2:
            raise UserError(f"intrinsic_dimension.n is {n}; it must be 2 or more")
        if threshold is not None and not (0 < threshold < math.inf):
            raise UserError(f"intrinsic_dimension.threshold is {threshold}; it must be a positive number")
        self.n = n
        self.threshold = threshold
        self.limit = limit
        self.batch_size = batch_size
        self.shown = shown

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.share_of(self.n)

    def supports(self, method: Method) -> bool:
        return isinstance(method, HasFlatDirections)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, HasFlatDirections)
        elements = data.test_set.images[0].numel()
        n = self.n if self.limit is None else min(self.n, max(2, self.limit // elements))
        images = data.test_set.images[:n]
        threshold = method.flat_curvature if self.threshold is None else self.threshold
        with method.evaluating(), frozen(method):
            batches = torch.split(images, self.batch_size)
            spectra = [curvatures(method.energy, to_float(batch).to(method.device)) for batch in batches]
        eigenvalues = torch.cat(spectra)
        lid = (eigenvalues.abs() < threshold).sum(1).double()
        sizes = torch.tensor([png_size(image) for image in images], dtype=torch.float64)
        result = Result(self.name)
        result.protocol = {"images": len(images), "data": data.test_set.name, "threshold": threshold}
        result.figures = {
            "lid/mean": float(lid.mean()),
            "lid/std": float(lid.std()),
            "lid/share": float(lid.mean()) / elements,
            "negative": float((eigenvalues < -threshold).sum(1).double().mean()),
            "spearman_png": rank_correlation(lid, sizes),
        }
        result.curves = {"eigenvalue": eigenvalues.mean(0).tolist()}
        if folder is not None:
            order = lid.argsort(stable=True)
            ends = [order[: self.shown], order[-self.shown :]]
            columns = [f"{k + 1}" for k in range(len(ends[0]))]
            picture = torch.stack([to_float(images[end]) for end in ends])
            save_strips(picture, path := folder / "intrinsic_dimension.png", ["least LID", "largest LID"], columns)
            result.pictures.append(str(path))
        return result


def curvatures(energy: Energy, x: Tensor) -> Tensor:
    """The eigenvalues of ∇²E(x) of each image, in increasing order: `(B, *)` to `(B, d)` on the CPU, float64.

    >>> curvatures(lambda x: x[:, 0].square() - x[:, 1].square() / 2, torch.zeros(1, 3))
    tensor([[-1.,  0.,  2.]], dtype=torch.float64)
    """
    columns = []
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x.detach().requires_grad_()
        _, grad = trainable_gradient(energy, x)
        flat = grad.flatten(1)
        for k in tracked(range(flat.shape[1]), "Hessian", unit="column"):
            (column,) = torch.autograd.grad(flat[:, k].sum(), x, retain_graph=True)
            columns.append(column.flatten(1).cpu().double())
    hessian = torch.stack(columns, 2)
    eigenvalues: Tensor = torch.linalg.eigvalsh((hessian + hessian.mT) / 2)
    return eigenvalues


def png_size(image: Tensor) -> int:
    """The bytes of the PNG file of a uint8 image `(C, H, W)` of one or three channels."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", optimize=True)
    return file.tell()


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two series `(n,)`, ties at their mean rank; NaN if one of them is constant."""
    from scipy.stats import rankdata

    ranks = torch.stack([torch.as_tensor(rankdata(v.numpy())) for v in (a, b)])
    if (ranks.std(1) == 0).any():
        return math.nan
    return float(torch.corrcoef(ranks)[0, 1])
