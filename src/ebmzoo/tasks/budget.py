"""The cost of a test: the numbers of samples, images and seeds that its figures are computed from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The numbers of samples, images and seeds of a test.

    Args:
        name: The name, `quick`, `standard` or `paper`.
        samples: Samples of a distance between sets of images; None keeps the task's own number.
        images: Images of a test set; None keeps the task's own number.
        share: The fraction of other counts, such as samples per class, that is kept; above 0.
        seeds: Random seeds; figures are means over them, with their standard deviation.
    """

    name: str
    samples: int | None = None
    images: int | None = None
    share: float = 1.0
    seeds: int = 1

    def samples_of(self, own: int) -> int:
        """The number of samples for a task whose own number is `own`."""
        return own if self.samples is None else self.samples

    def images_of(self, own: int) -> int:
        """The number of test images for a task whose own number is `own`."""
        return own if self.images is None else self.images

    def share_of(self, own: int, least: int = 2) -> int:
        """The share of another count `own` of a task, at least `least`."""
        return own if self.share == 1 else max(least, round(own * self.share))


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("quick", samples=250, images=250, share=0.25),
        Budget("standard"),
        Budget("paper", samples=50_000, images=10_000, seeds=3),
    )
}
"""`quick` is a smoke test; `standard` uses the config's counts; `paper` those of published tables, with three seeds."""
