"""Where a method is published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """The publication of a method.

    Args:
        title: As printed.
        authors: Names, with commas.
        year: Of the venue.
        venue: Conference, journal, or that it is a preprint.
        arxiv: The arXiv number, such as 1903.08689; None where there is none.
    """

    title: str
    authors: str
    year: int
    venue: str
    arxiv: str | None = None

    def __str__(self) -> str:
        arxiv = f", arXiv:{self.arxiv}" if self.arxiv else ""
        stop = "" if self.title.endswith("?") else "."
        return f"{self.authors}: {self.title}{stop} {self.venue} {self.year}{arxiv}"
