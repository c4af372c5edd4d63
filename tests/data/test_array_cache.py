"""Arrays that are kept: what is read is what was written, and nothing fails because of them."""

import json
import os
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from ebmzoo.data import array_cache
from ebmzoo.data.array_cache import BESIDE, OFF, VARIABLE, ArrayCache, caches, find, keep

KEY = {"of": "test", "numbers": (1, 2)}
ARRAYS = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.linspace(0, 1, 5)}


@pytest.fixture
def cache(tmp_path):
    return ArrayCache(tmp_path / "kept")


def only(cache, ending):
    (path,) = cache.folder.glob(f"*{ending}")
    return path


def test_what_is_read_is_what_was_written(cache):
    assert cache.read(KEY) is None
    assert cache.write(KEY, ARRAYS, {"n": 3, "endings": {".txt": 2}})
    found = cache.read(KEY)
    assert found.facts == {"n": 3, "endings": {".txt": 2}}
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert isinstance(found.arrays[name], np.memmap)
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    with pytest.raises(ValueError, match="read-only"):
        found.arrays["a"][0] = 0
    assert cache.read(KEY | {"numbers": (1, 3)}) is None
    assert "backups" not in {path.name for path in cache.folder.iterdir()}
    assert (cache.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert not [path for path in cache.folder.iterdir() if path.name.endswith(".part")]


class Opened(Exception):
    """What a pickle that is loaded would raise."""


def pickled(path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(path.parent / "exploded"),))

    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)


def restated(path):
    """The text of the entry states a pickle as right."""
    array = only(ArrayCache(path.parent), ".b.npy")
    pickled(array)
    content = json.loads(path.read_text())
    content["arrays"]["b"] = {"dtype": "|O", "shape": [1], "sha256": "0" * 64}
    path.write_text(json.dumps(content))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def larger(path):
    """The header of the array states more rows than there are."""
    path.write_bytes(path.read_bytes().replace(b"(3, 4)", b"(9, 4)"))


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "a byte of an array": (".a.npy", flipped),
    "a byte of the other": (".b.npy", flipped),
    "half an array": (".a.npy", lambda path: path.write_bytes(path.read_bytes()[:-6])),
    "no array": (".a.npy", Path.unlink),
    "an empty array": (".a.npy", lambda path: path.write_bytes(b"")),
    "another header": (".a.npy", larger),
    "another type": (".a.npy", lambda path: np.save(path, ARRAYS["a"].astype(np.int8))),
    "a pickle": (".b.npy", pickled),
    "a pickle that is stated": (".json", restated),
    "a pipe": (".a.npy", as_pipe),
    "a folder": (".a.npy", as_folder),
    "an archive": (".a.npy", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(60))),
    "half a text": (".json", lambda path: path.write_text(path.read_text()[:40])),
    "another key": (".json", lambda path: path.write_text(path.read_text().replace('"test"', '"best"'))),
    "a list": (".json", lambda path: path.write_text("[1]")),
    "brackets": (".json", lambda path: path.write_text("[" * 10**5)),
    "no text": (".json", lambda path: path.write_bytes(b"\xff\xfe")),
    "a text as a pipe": (".json", as_pipe),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_not_there(cache, case):
    cache.write(KEY, ARRAYS, {})
    ending, damage = DAMAGE[case]
    damage(only(cache, ending))
    assert cache.read(KEY) is None
    assert not (cache.folder / "exploded").exists()
    writable = case not in ("a pipe", "a folder", "a text as a pipe")
    assert cache.write(KEY, ARRAYS, {}) is writable
    assert (cache.read(KEY) is not None) is writable


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    places = [ArrayCache(tmp_path / name) for name in ("file", "file/below", "link", "good")]
    keep(places, KEY, ARRAYS, {})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and [*path.iterdir()]] == ["good"]
    assert find(places, KEY) is not None
    keep(places[:3], KEY, ARRAYS, {})
    keep([], KEY, ARRAYS, {})
    assert find([], KEY) is None


def test_what_was_used_longest_ago_goes_first(tmp_path):
    cache = ArrayCache(tmp_path, most=3000)
    keys = [{"of": n} for n in range(4)]
    for n, key in enumerate(keys[:3]):
        assert cache.write(key, {"x": np.full(600, n, dtype=np.uint8)}, {})
        for path in tmp_path.iterdir():
            if path.stat().st_mtime > 1000:
                os.utime(path, (n + 1, n + 1))
    mine = tmp_path / "mine.npy"
    mine.write_bytes(bytes(5000))
    assert cache.read(keys[0]) is not None  # which makes it the last one used
    assert cache.write(keys[3], {"x": np.full(600, 3, dtype=np.uint8)}, {})
    assert [cache.read(key) is not None for key in keys] == [True, False, True, True]
    assert mine.exists(), "a file that is not of the cache"
    assert not cache.write({"of": "large"}, {"x": np.zeros(3001, dtype=np.uint8)}, {})
    assert cache.read(keys[0]) is not None


def test_a_disk_keeps_half_of_its_free_space(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = sum(array.nbytes for array in ARRAYS.values())
    for free, fits in ((2 * needed - 1, False), (2 * needed, True)):
        monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _, free=free: usage(10**9, 0, free))
        assert cache.write(KEY, ARRAYS, {}) is fits


def test_what_a_killed_process_has_left_goes_after_a_day(cache):
    cache.write(KEY, ARRAYS, {})
    stem = only(cache, ".json").stem
    old, new, other = (cache.folder / name for name in (f".{stem}.a.npy.0a.part", f".{stem}.a.npy.0b.part", ".x.part"))
    for path in (old, new, other):
        path.write_bytes(bytes(9))
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    cache.write(KEY, ARRAYS, {})
    assert [path.exists() for path in (old, new, other)] == [False, True, True]


def test_a_second_writer_in_the_midst_of_the_first_harms_neither(cache, monkeypatch):
    write, inside = array_cache.write_whole, []

    def interrupted(path, *args, **settings):
        if path.name.endswith(".json") and not inside:
            inside.append(path)
            assert cache.write(KEY, ARRAYS, {})
        write(path, *args, **settings)

    monkeypatch.setattr(array_cache, "write_whole", interrupted)
    assert cache.write(KEY, ARRAYS, {})
    assert np.array_equal(cache.read(KEY).arrays["a"], ARRAYS["a"])


def test_readers_among_writers_read_all_or_nothing(cache):
    array, wrong = {"x": np.arange(100_000)}, []

    def work():
        for _ in range(20):
            cache.write(KEY, array, {})
            found = cache.read(KEY)
            if found is not None and not np.array_equal(found.arrays["x"], array["x"]):
                wrong.append(found)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert cache.read(KEY) is not None
    assert len([*cache.folder.iterdir()]) == 3


def test_where_arrays_are_kept(tmp_path, monkeypatch):
    def folders(beside=None):
        return [cache.folder for cache in caches("images", beside)]

    monkeypatch.setenv(VARIABLE, OFF)
    assert folders(tmp_path) == []
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own"))
    assert folders(Path("data")) == [tmp_path / "own" / "images"]
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders(Path("data")) == [Path("data") / BESIDE, tmp_path / "xdg" / "ebmzoo" / "images"]
    assert folders() == [tmp_path / "xdg" / "ebmzoo" / "images"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folders() == [tmp_path / "home" / ".cache" / "ebmzoo" / "images"]
