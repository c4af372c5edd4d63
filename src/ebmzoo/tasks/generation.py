"""The quality of samples, with and without the chain, and their cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet, to_float, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import StartsFromProposal
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import ChainInfo, Samples
from ebmzoo.metrics import FeatureExtractor, extract, inception_score, kernel_distance
from ebmzoo.metrics import precision_recall as manifold_precision_recall
from ebmzoo.metrics.reference import ReferenceFeatures
from ebmzoo.progress import tracked
from ebmzoo.report.pictures import save_grid
from ebmzoo.tasks.base import Result, Task, if_possible, stopwatch
from ebmzoo.tasks.budget import Budget


class Generation(Task):
    """Fréchet distance, kernel distance, Inception Score, precision and recall of n samples.

    A method whose chain starts from the proposal of a network is measured twice: with the chain, and without it
    (`no_mcmc/…`). `real/…` is the Fréchet distance of real images of the other split, n or all if these are fewer: what
    a sampler as good as the data has.

    Args:
        extractors: The feature extractors; one that is unavailable is skipped, with a note.
        n: Samples, 2 or more, compared with as many real images, or with all of the split if `real` is `all`.
        split: The set that the real images are taken from, `train` or `test`.
        real: `all` images of the split, as for published FIDs, or its first `n`.
        batch_size: Images per batch of chains.
        steps: Langevin steps; None uses the sampler's own number.

    Raises:
        UserError: `n` is below 2.
    """

    name = "generation"

    def __init__(
        self,
        extractors: list[FeatureExtractor],
        n: int = 1000,
        split: Literal["train", "test"] = "train",
        real: Literal["all", "n"] = "all",
        batch_size: int = 250,
        steps: int | None = None,
    ) -> None:
        if n < 2:
            raise UserError(f"generation.n is {n}; a covariance needs 2 samples or more")
        self.extractors = extractors
        self.n = n
        self.split = split
        self.real = real
        self.batch_size = batch_size
        self.steps = steps

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls(extractors)

    def apply_budget(self, budget: Budget) -> None:
        self.n = budget.samples_of(self.n)

    def missing(self) -> list[str]:
        return [sentence for e in self.extractors if (sentence := e.available()) is not None]

    def __call__(self, method: Method, data: ImageData, folder: Path | None = None) -> Result:
        result = Result(self.name, notes=self.missing())
        real = real_images(data, self.split, None if self.real == "all" else self.n)
        runs: dict[str, int | None] = {"": self.steps}
        if isinstance(method, StartsFromProposal) and method.can_propose:
            runs["no_mcmc/"] = 0
        result.protocol = {"n": self.n, "split": self.split, "real_images": len(real), "extractors": {}, "chains": {}}
        made = {}
        seed = int(torch.randint(2**31, ()))  # the chains start alike with and without their steps
        for prefix, steps in runs.items():
            with stopwatch(result.figures, f"{prefix}seconds"):
                images, sampled = draw(method, self.n, self.batch_size, steps, seed)
            made[prefix] = images
            result.figures[f"{prefix}nfe"] = sampled.nfe
            result.protocol["chains"][prefix.rstrip("/") or "full"] = chain_protocol(sampled)
            if folder is not None:
                path = folder / f"samples{'_no_mcmc' if prefix else ''}.png"
                save_grid(to_float(images[:64]), path)
                result.pictures.append(str(path))
        if folder is not None:
            save_grid(real.float(slice(64)), folder / "real.png")
        others = real_images(data, "test" if self.split == "train" else "train", self.n).images
        for extractor in self.extractors:
            if extractor.available() is None:
                self._measure(extractor, method.device, real.images, others, made, result)
        return result

    def _measure(
        self,
        e: FeatureExtractor,
        device: torch.device,
        real: Tensor,
        others: Tensor,
        made: dict[str, Tensor],
        result: Result,
    ) -> None:
        for prefix, of_real, features, logits in compared(e, device, real, made, self.batch_size, result):
            figures, real_features = result.figures, of_real.features
            both = min(len(real_features), len(features))
            with if_possible(result, f"{prefix}{e.fd_name}"):
                figures[f"{prefix}{e.fd_name}"] = of_real.frechet_distance(features)
            with if_possible(result, f"{prefix}{e.kd_name}"):
                subset = min(1000, both)
                figures[f"{prefix}{e.kd_name}"], _ = kernel_distance(real_features, features, subset_size=subset)
            with if_possible(result, f"{prefix}precision_{e.name} and recall_{e.name}"):
                precision, recall = manifold_precision_recall(real_features[:both], features[:both])
                figures |= {f"{prefix}precision_{e.name}": precision, f"{prefix}recall_{e.name}": recall}
            if logits is not None:
                with if_possible(result, f"{prefix}{e.is_name}"):
                    figures[f"{prefix}{e.is_name}"], _ = inception_score(logits)
        if len(others) > 1:
            with if_possible(result, f"real/{e.fd_name}"):
                of_others = ReferenceFeatures(e, others, self.batch_size, device)
                result.figures[f"real/{e.fd_name}"] = of_real.statistics.distance(of_others.statistics)


def real_images(data: ImageData, split: Literal["train", "test"], first: int | None) -> ImageSet:
    """The real images that samples are compared with: the `first` images of a split, or all if None."""
    return (data.train_set if split == "train" else data.test_set).take(slice(first))


def chain_protocol(chain: ChainInfo | Samples) -> dict[str, Any]:
    """The entries of a protocol that describe the chain of samples."""
    temperature = chain.temperature if chain.steps else None
    return {"start": chain.start, "steps": chain.steps, "temperature": temperature}


def compared(
    e: FeatureExtractor, device: torch.device, real: Tensor, made: dict[str, Tensor], batch_size: int, result: Result
) -> Iterator[tuple[str, ReferenceFeatures, Tensor, Tensor | None]]:
    """Yield for each set of `made` images its name, the real features, its features and its logits.

    Images are uint8 `(N, C, H, W)`; the features of the real ones are computed once, or kept from an earlier test. `e`
    is added to the protocol.
    """
    e = e.to(device)
    of_real = ReferenceFeatures(e, real, batch_size, device)
    result.protocol["extractors"][e.name] = {"sha256": e.fingerprint, "features": of_real.features.shape[1]}
    for name, images in made.items():
        features, logits = extract(e, images, batch_size, device)
        yield name, of_real, features, logits


def draw(
    method: Method, n: int, batch_size: int, steps: int | None = None, seed: int | None = None
) -> tuple[Tensor, Samples]:
    """Draw `n` samples as uint8 `(n, C, H, W)` on the CPU, as an image file stores them; also return the last batch.

    With a `seed` every batch has its own random generator, so that equal seeds give chains with equal starts.

    Raises:
        UserError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be 1 or more")
    images: list[Tensor] = []
    starts = range(0, n, batch_size)
    for start in tracked(starts, "samples", unit="batch"):
        random = None if seed is None else torch.Generator(method.device).manual_seed(seed + len(images))
        sampled = method.sample(min(batch_size, n - start), steps=steps, generator=random)
        images.append(to_uint8(sampled.images).cpu())
    return torch.cat(images), sampled
