"""Reading files of anyone: what has no end, or is small only in its file, is refused before it is read."""

import os
import signal

import pytest
import yaml

from ebmzoo import UserError
from ebmzoo.errors import plain, plain_content
from ebmzoo.reading import (
    CONFIG_BYTES,
    DEPTH,
    NODES,
    TooLargeError,
    check_regular,
    check_size,
    read_bytes,
    read_json,
    read_text,
    read_yaml,
)


@pytest.fixture(autouse=True)
def no_hang():
    """What would be read without end fails here."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def laughs(levels, width, item="[1]"):
    lines = [f"a0: &a0 {item}"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "aliases of aliases": laughs(9, 9),
    "merges of aliases": "a0: &a0 {k: 1}\n"
    + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 9)),
    "a list in itself": "a: &a [*a]",
    "a mapping in itself": "a: &a {b: {c: *a}}",
    "a mapping as its own key": "a: &a {? *a : 1}",
    "brackets without end": "[" * 10**5,
    "nested lists": "[" * 400 + "]" * 400,
    "a chain of aliases": "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200))]),
    "too many values": "[" + "1," * (NODES + 1) + "]",
    "a long text": "#" * (CONFIG_BYTES + 1),
    "a key twice": "model: 1\ndata: 2\nmodel: 3",
    "a day that does not exist": "a: 2020-13-40",
    "a number of 5,000 digits": "a: " + "9" * 5000,
    "an object of Python": "a: !!python/object/apply:os.system ['touch marker']",
    "two documents": "a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("case", REFUSED)
def test_yaml_that_is_no_small_structure_of_plain_values_is_refused(case):
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(REFUSED[case])
    assert len(str(caught.value)) < 500


def test_yaml_within_the_limits_is_what_pyyaml_reads():
    """Aliases and merges among it."""
    text = "a: &a {x: 1, y: [1.5, null, true, text]}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n1: 2020-01-31"
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml("") is None
    assert read_yaml("[" * (DEPTH - 1) + "]" * (DEPTH - 1))
    assert len(read_yaml(laughs(4, 9))["a3"]) == 9


def test_values_are_counted_as_often_as_they_are_there():
    shared = [0] * 9
    check_size([shared] * 9, lambda v: v if isinstance(v, list) else [], most=91)
    with pytest.raises(TooLargeError):
        check_size([shared] * 9, lambda v: v if isinstance(v, list) else [], most=90)


def test_what_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path, kind in ((tmp_path / "pipe", "pipe"), ("/dev/zero", "device"), (tmp_path / "link", "device")):
        for read in (check_regular, read_bytes, read_text, read_json):
            with pytest.raises(UserError, match=f"not a regular file but a {kind}"):
                read(path)
    with pytest.raises(UserError, match="a folder"):
        check_regular(tmp_path)


def test_a_file_is_read_up_to_its_size(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(8))
    assert read_bytes(path, 8) == bytes(8)
    with pytest.raises(UserError, match="is not read"):
        read_bytes(path, 7)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[" * 10**5 + "]" * 10**5, "1e", "\udcff".encode("utf-8", "surrogatepass")])
def test_json_that_cannot_be_read_is_named(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"x\.json is not JSON"):
        read_json(path)


def test_texts_of_a_json_file_command_no_terminal(tmp_path):
    (tmp_path / "x.json").write_text('{"\\u001b[2J": ["a\\nb", 1.5, null, true, {"x": "\\u202e"}]}')
    assert read_json(tmp_path / "x.json") == {"\\x1b[2J": ["a\\nb", 1.5, None, True, {"x": "\\u202e"}]}


def test_plain_text_is_printable_and_of_one_line():
    every = "".join(map(chr, [*range(0x110000)]))
    assert plain(every).isprintable()
    assert plain("été 3×3 → 日本 ✓") == "été 3×3 → 日本 ✓"
    assert plain(os.fsdecode(b"\xff.png")) == "\\udcff.png"
    assert plain_content((1, 2)) == "(1, 2)"


def test_an_error_says_what_it_names_in_one_line():
    assert str(UserError("a\n\x1b]0;title\x07 b")) == "a\\n\\x1b]0;title\\x07 b"
