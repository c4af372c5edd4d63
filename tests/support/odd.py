"""Odd values, and contents of files with odd values in them, for the tests of what is read from anyone."""

import copy
import math
import os

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1000"))
"""The number of examples of all tests together."""

NUMBERS = (0, -1, 0.5, 2**31, 2**63, -(2**70), 10**30, 1e308, math.nan, math.inf, -math.inf)
WORDS = ("", " ", "null", "~", "1e400", "../x", "s3://b/x", "a\0b", "é\x1b[2J", "\u202egnp", "a=b", "[", "{a: 1}", "0x")
WORDS += (
    "os.system",
    "ebmzoo.methods.VAE",
    "ebmzoo.Langevin",
    "torch.optim.Adam",
    "nan",
    "99999999999999999999",
    "*",
    "&",
)

TEXTS = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="/~", exclude_categories=["Cs"]), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(NUMBERS) | st.floats() | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2))
"""Values as JSON and YAML have them."""


def examples(share):
    """The settings of a test with a share of `EXAMPLES`: always the same ones, unless there are more than usual."""
    set_hypothesis_home_dir(os.environ.get("TMPDIR", "/tmp"))
    return settings(max_examples=int(share * EXAMPLES), derandomize=EXAMPLES <= 1000, database=None, deadline=None)


def keys(content):
    """The keys or indices of the values in a content; none of a single value."""
    return (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )


@st.composite
def changed(draw, content, values=VALUES, most=2):
    """A copy of a content with some values replaced, left out or added; and the paths with their new values."""
    content, done = copy.deepcopy(content), []
    for _ in range(draw(st.sampled_from((1, 1, most)))):
        parent, path = content, (draw(st.sampled_from(keys(content))),)
        while keys(parent[path[-1]]) and draw(st.integers(0, 2)):
            parent = parent[path[-1]]
            path = (*path, draw(st.sampled_from(keys(parent))))
        how = draw(st.sampled_from(("replaced", "replaced", "left out", "added")))
        value = None if how == "left out" else draw(values)
        if how == "replaced":
            parent[path[-1]] = value
        elif how == "left out":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            path = (*path[:-1], draw(TEXTS))
            parent[path[-1]] = value
        else:
            parent.append(value)
        done.append((path, how, value))
        if not keys(content):
            break
    return content, done


def numbers(content, path=()):
    """The paths of the numbers in a content."""
    if not keys(content):
        return [path] if isinstance(content, int | float) and not isinstance(content, bool) else []
    return [place for key in keys(content) for place in numbers(content[key], (*path, key))]


@st.composite
def with_another_number(draw, content):
    """A copy of a content with one of its numbers replaced by one of `NUMBERS`; and its path with the new value."""
    content = copy.deepcopy(content)
    path, value = draw(st.sampled_from(numbers(content))), draw(st.sampled_from(NUMBERS))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return content, [(path, "replaced", value)]


def is_impossible(value, unlimited=()):
    """Whether a value has a number in it that no config may have, but at the keys `unlimited`, or a null character."""
    if isinstance(value, dict):
        return any(is_impossible(child, unlimited) for key, child in value.items() if key not in unlimited)
    if isinstance(value, list):
        return any(is_impossible(child, unlimited) for child in value)
    if isinstance(value, str):
        return "\0" in value
    return isinstance(value, float) and not math.isfinite(value)
