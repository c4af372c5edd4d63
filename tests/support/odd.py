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


def nodes(content, path=()):
    """The paths of all values in a content but itself."""
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, child in parts for place in ((*path, key), *nodes(child, (*path, key)))]


@st.composite
def changed(draw, content, values=VALUES, most=2):
    """A copy of a content with some values replaced, left out or added; and the paths with their new values."""
    content, done = copy.deepcopy(content), []
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(nodes(content)))
        parent = content
        for key in path[:-1]:
            parent = parent[key]
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
        if not nodes(content):
            break
    return content, done


def is_impossible(value):
    """Whether a value has a number in it that no config may have, or a null character."""
    if isinstance(value, dict):
        return any(map(is_impossible, value.values()))
    if isinstance(value, list):
        return any(map(is_impossible, value))
    if isinstance(value, str):
        return "\0" in value
    return not isinstance(value, bool | None) and not -(2**63) <= value < 2**63
