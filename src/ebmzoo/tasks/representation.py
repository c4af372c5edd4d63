"""The quality of features: probes of the encoder's and the energy's features, and a t-SNE picture."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import Encodes
from ebmzoo.methods.base.method import Method
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.metrics.probe import encode, knn_accuracy, linear_probe
from ebmzoo.report.plots import save_scatter
from ebmzoo.tasks.base import Result, Task, if_possible
from ebmzoo.tasks.budget import Budget


class Representation(Task):
    """Linear-probe and k-nearest-neighbour accuracy of each of the method's representations.

    Source: the protocol of LIEBM, Fig. 7: a linear classifier and a 5-nearest-neighbours classifier.

    Args:
        n_train: The largest number of training images, in the order of the set.
        n_test: The largest number of test images.
        epochs: Epochs of the linear probe.
        neighbours: The number k of neighbours.
        tsne: Test images in the t-SNE picture; 0 draws none.
        batch_size: Images per forward pass.
    """

    name = "representation"

    def __init__(
        self,
        n_train: int = 50_000,
        n_test: int = 10_000,
        epochs: int = 500,
        neighbours: int = 5,
        tsne: int = 1000,
        batch_size: int = 250,
    ) -> None:
        self.n_train = n_train
        self.n_test = n_test
        self.epochs = epochs
        self.neighbours = neighbours
        self.tsne = tsne
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.n_train, self.n_test = budget.images_of(self.n_train), budget.images_of(self.n_test)

    def supports(self, method: Method) -> bool:
        return isinstance(method, Encodes)

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        assert isinstance(method, Encodes)
        result = Result(self.name)
        train, test = data.train_set.take(slice(self.n_train)), data.test_set.take(slice(self.n_test))
        result.protocol = {
            "train_images": len(train),
            "test_images": len(test),
            "epochs": self.epochs,
            "neighbours": self.neighbours,
        }
        if len(data.classes) < 2:
            result.notes.append(f"{data.name} has no classes: there is nothing to probe")
            return result
        for name in method.representations():
            seen, unseen = self._features(method, name, train), self._features(method, name, test)
            args = (seen, train.labels, unseen, test.labels)
            with if_possible(result, f"{name}/knn"):
                result.figures[f"{name}/knn"] = knn_accuracy(*args, k=self.neighbours)
            result.figures[f"{name}/linear"] = linear_probe(*args, epochs=self.epochs)
            if folder is not None and self.tsne:
                path = folder / f"tsne_{name}.png"
                shown = test.labels[: self.tsne]
                with if_possible(result, f"the t-SNE picture of {name}"):
                    save_scatter(tsne(unseen[: self.tsne]), shown, data.classes, f"{name} features, t-SNE", path)
                    result.pictures.append(str(path))
        return result

    def _features(self, method: Method, name: str, images: ImageSet) -> Tensor:
        assert isinstance(method, Encodes)
        with method.evaluating():
            read = method.representations()[name]
            return encode(method, images.images, self.batch_size, read=read).cpu()


def tsne(features: Tensor) -> Tensor:
    """A projection of `(N, D)` features to the plane, `(N, 2)`, by scikit-learn's t-SNE with a fixed seed.

    Raises:
        UserError: scikit-learn is not installed, or there are fewer than 3 points.
    """
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise UserError("the t-SNE picture needs scikit-learn: pip install 'ebmzoo[all]', or set tsne: 0") from error
    if len(features) < 3:
        raise UserError(f"a projection needs 3 points or more, found {len(features)}")
    perplexity = min(30.0, (len(features) - 1) / 3)
    plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy())
    return torch.from_numpy(plane)
