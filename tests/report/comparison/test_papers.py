"""The papers' figures that come with the package."""

import re
from itertools import combinations

import pytest

from ebmzoo.methods import baselines
from ebmzoo.report.comparison.papers import papers

SEVEN = {"LIEBM", "Dual-MCMC", "CDRL", "CLEL", "Denoising-EBM", "Energy Matching", "Equilibrium Matching"}
SAME = {"sngan": "SNGAN", "ebmig": "IGEBM", "jointtriangle": "Divergence Triangle"}
"""Rows with another name in a paper."""


def name(row):
    plain = re.sub(r"[^a-z0-9+=.]", "", row.printed.casefold())
    return SAME.get(plain, plain).casefold()


def agree(a, b):
    """Whether two numbers agree to the smaller number of digits."""
    digits = min(len(str(v).partition(".")[2]) if v != int(v) else 0 for v in (a, b))
    return round(a, digits) == round(b, digits)


def test_every_figure_has_its_source():
    printed_papers = papers()
    assert set(printed_papers.titles) == SEVEN
    assert {row.paper for row in printed_papers.rows} == SEVEN
    assert all(row.table and row.data and row.metric and row.printed for row in printed_papers.rows)
    assert {row.role for row in printed_papers.rows} == {"method", "baseline", "other"}
    assert len(printed_papers.rows) == 708


@pytest.mark.parametrize(
    ("paper", "table", "data", "metric", "printed", "value"),
    [
        ("LIEBM", "1", "CIFAR-10", "FID", "LIEBM-EM", 4.26),
        ("CDRL", "1", "CIFAR-10", "FID", "CDRL", 4.31),
        ("CLEL", "3", "CIFAR-10", "FID", "CLEL + more channels (Large)", 8.61),
        ("Dual-MCMC", "1", "CIFAR-10", "IS", "Dual-MCMC", 8.55),
        ("Denoising-EBM", "1", "CIFAR-10", "FID", "Denoising-EBM", 21.24),
        ("Energy Matching", "results", "CIFAR-10", "FID", "Energy Matching", 3.34),
        ("LIEBM", "5", "CIFAR-10 vs CIFAR-100", "AUROC", "LIEBM-EM", 0.82),
    ],
)
def test_figures_as_printed(paper, table, data, metric, printed, value):
    place = (paper, table, printed)
    (row,) = [row for row in papers().of(data, metric) if (row.paper, row.table, row.printed) == place]
    assert row.value == value


def test_disagreements_are_of_figures_that_are_printed_and_differ():
    printed_papers = papers()
    for conflict in printed_papers.conflicts:
        for paper, table, printed, value in conflict.values:
            place = (paper, table, printed)
            rows = [
                r for r in printed_papers.of(conflict.data, conflict.metric) if (r.paper, r.table, r.printed) == place
            ]
            assert value in [getattr(row, conflict.quantity) for row in rows], (str(conflict), place)
        assert len({value for *_, value in conflict.values}) > 1, str(conflict)
        assert len({paper for paper, *_ in conflict.values}) > 1, str(conflict)


def test_no_disagreement_is_left_out():
    """Rows with one name, data and metric in two papers agree, or are listed as a conflict."""
    printed_papers = papers()
    groups = {}
    for row in [row for row in printed_papers.rows if row.value is not None]:
        groups.setdefault((row.data, row.metric, name(row)), []).append(row)
    pairs = [pair for rows in groups.values() for pair in combinations(rows, 2) if pair[0].paper != pair[1].paper]
    assert len(pairs) > 100
    for a, b in pairs:
        shared = set(map(str, printed_papers.disputed(a))) & set(map(str, printed_papers.disputed(b)))
        assert agree(a.value, b.value) or shared, (a, b)


def test_a_disagreement_names_each_value_with_its_places():
    (conflict,) = [c for c in papers().conflicts if (c.name, c.quantity) == ("CDRL", "nfe")]
    assert str(conflict).startswith("CDRL, CIFAR-10, NFE: 96 (LIEBM Table 1); 90 (CDRL Table 2, CDRL Table 9)")


def test_methods_are_mapped_to_names_that_papers_print():
    printed_papers = papers()
    assert set(printed_papers.classes.values()) <= {row.method for row in printed_papers.rows}
    assert set(printed_papers.classes) >= {c for c in baselines.__all__ if c not in ("ClippedAdam", "MDSMCooling")}
