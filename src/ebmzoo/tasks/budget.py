"""How much a test may cost: the counts of samples, images and seeds that its figures rest on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The counts of a test.

    Args:
        name: quick, standard or paper.
        samples: of a distance between sets of images; None leaves each task's own.
        images: of a set of test images; None leaves each task's own.
        share: of what a task counts otherwise, such as samples a class, the part that is kept.
        seeds: how often each task is asked, with other random numbers; its figures are means, with their spread.
    """

    name: str
    samples: int | None = None
    images: int | None = None
    share: float = 1.0
    seeds: int = 1

    def samples_of(self, own: int) -> int:
        """The samples of a task that would take `own`."""
        return own if self.samples is None else self.samples

    def images_of(self, own: int) -> int:
        """The test images of a task that would take `own`."""
        return own if self.images is None else self.images

    def share_of(self, own: int, least: int = 2) -> int:
        """The part of another count of a task, at least `least`."""
        return own if self.share == 1 else max(least, round(own * self.share))


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget("quick", samples=250, images=250, share=0.25),
        Budget("standard"),
        Budget("paper", samples=50_000, images=10_000, seeds=3),
    )
}
"""quick looks whether all is well; standard takes the config's counts; paper those of published tables, three times."""
