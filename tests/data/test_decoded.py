"""Decoded images that are kept: the same as without, decoded once, and anew after every change."""

import io
import os
import shutil
import tarfile
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from ebmzoo.data import CelebAHQ256, Digits, ImageFolder, ImagesFrom, decoded
from ebmzoo.data.array_cache import BESIDE, VARIABLE
from ebmzoo.data.decode import Frame
from ebmzoo.data.folder import read_images
from ebmzoo.errors import UserError
from support.keeping import counted_decodes, empty_home

GREY = Frame(4, 1)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    return empty_home(tmp_path_factory, monkeypatch)


@pytest.fixture
def decodes(monkeypatch):
    return counted_decodes(monkeypatch)


def picture(value, kind="bmp"):
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


FILES = {f"{c}/{v:02}.bmp": picture(v) for v in range(12) for c in ["ab"[v % 2]]}
SPLIT = {f"{part}/{name}": content for part in ("train", "test", "val") for name, content in FILES.items()}
SPLIT["notes.txt"] = b"text"


def folder(path, files):
    for name, content in files.items():
        (path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "mine" / name).write_bytes(content)
    return path / "mine"


def zipped(path, files):
    with zipfile.ZipFile(path / "mine.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path / "mine.zip"


def tarred(path, files):
    with tarfile.open(path / "mine.tar.xz", "w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path / "mine.tar.xz"


CONTAINERS = {"folder": folder, "zip": zipped, "tar.xz": tarred}


@contextmanager
def none_decoded(decodes):
    before = len(decodes)
    yield
    assert len(decodes) == before


def same(found, expected):
    assert found.keys() == expected.keys()
    for part, images_of in expected.items():
        assert torch.equal(found[part].images, images_of.images)
        assert found[part].digest == images_of.digest
        assert found[part].name == images_of.name


@pytest.mark.parametrize("files", [FILES, SPLIT], ids=["no splits", "splits"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_second_start_decodes_nothing_and_has_the_same_sets(tmp_path, container, files, decodes, capsys):
    path = CONTAINERS[container](tmp_path, files)
    expected = read_images(path, GREY, split=True, cache=False)
    line = capsys.readouterr().err
    assert ("1 .txt" in line) is ("notes.txt" in files)
    assert not (tmp_path / BESIDE).exists()
    n = len(decodes)
    assert n == len(files) - ("notes.txt" in files)
    same(read_images(path, GREY, split=True), expected)
    assert (len(decodes), capsys.readouterr().err) == (2 * n, line)
    assert (tmp_path / BESIDE).is_dir()
    with none_decoded(decodes):
        kept = read_images(path, GREY, split=True)
    same(kept, expected)
    assert capsys.readouterr().err == line
    if "notes.txt" not in files:  # the split is not part of what is kept
        with none_decoded(decodes):
            whole = read_images(path, GREY)
        same(whole, read_images(path, GREY, cache=False))


def test_images_are_in_memory_and_outlive_what_is_kept(tmp_path):
    path = zipped(tmp_path, FILES)
    read_images(path, GREY)
    kept = read_images(path, GREY)[""].images
    expected = kept.clone()
    for file in (tmp_path / BESIDE).glob("*.images.npy"):
        file.write_bytes(bytes(file.stat().st_size))
    kept[0] += 1
    kept[0] -= 1
    assert torch.equal(kept, expected)


def change_in_place(path):
    """Another content of the same size, at the same time of modification."""
    file = path / "b" / "01.bmp"
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # within one tick of the file system's clock
        file.write_bytes(picture(50))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def add(path):
    (path / "a" / "99.bmp").write_bytes(picture(99))


def remove(path):
    (path / "a" / "00.bmp").unlink()


def rename(path):
    (path / "a" / "00.bmp").rename(path / "b" / "00.bmp")


def replace_by_an_older_one(path):
    (path / "new").write_bytes(picture(77))
    os.utime(path / "new", (1, 1))
    (path / "new").replace(path / "a" / "00.bmp")


@pytest.mark.parametrize("change", [change_in_place, add, remove, rename, replace_by_an_older_one])
def test_a_changed_folder_is_decoded_anew(tmp_path, change):
    path = folder(tmp_path, FILES)
    before = read_images(path, GREY)
    change(path)
    after = read_images(path, GREY)
    same(after, read_images(path, GREY, cache=False))
    assert after[""].digest != before[""].digest


def test_what_is_no_image_changes_the_line_alone(tmp_path, decodes, capsys):
    path = folder(tmp_path, FILES)
    read_images(path, GREY)
    capsys.readouterr()
    (path / "log.txt").write_text("new")
    with none_decoded(decodes):
        read_images(path, GREY)
    assert "files left out: 1 .txt" in capsys.readouterr().err


@pytest.mark.parametrize("container", ["zip", "tar.xz"])
def test_an_archive_belongs_to_its_content(tmp_path, container, decodes):
    path = CONTAINERS[container](tmp_path, FILES)
    read_images(path, GREY)
    with none_decoded(decodes):
        os.utime(path, (1, 1))
        read_images(path, GREY)
        shutil.copy(path, path.with_name("again" + "".join(path.suffixes)))
        assert read_images(path.with_name("again" + "".join(path.suffixes)), GREY)[""].name == "again"
    changed = FILES | {"a/00.bmp": picture(50)}
    CONTAINERS[container](tmp_path, changed)
    same(read_images(path, GREY), read_images(path, GREY, cache=False))


@pytest.mark.parametrize("frame", [Frame(5, 1), Frame(4, 3), Frame(4, 1, "none"), Frame(4, 1, box=(0, 0, 3, 3))])
def test_another_frame_has_images_of_its_own(tmp_path, frame):
    path = zipped(tmp_path, {name: content for name, content in FILES.items() if name[0] == "a"})
    read_images(path, GREY)
    same(read_images(path, frame), read_images(path, frame, cache=False))


@pytest.mark.parametrize("name", ["LIBRARIES", "CODE"])
def test_another_decoder_has_images_of_its_own(tmp_path, name, decodes, monkeypatch):
    path = zipped(tmp_path, FILES)
    read_images(path, GREY)
    monkeypatch.setattr(decoded, name, getattr(decoded, name)[:-1])
    decoded._decoder.cache_clear()
    try:
        read_images(path, GREY)
    finally:
        monkeypatch.undo()
        decoded._decoder.cache_clear()
    assert len(decodes) == 2 * len(FILES)


def test_a_folder_that_has_only_just_changed_is_not_kept(tmp_path, decodes, monkeypatch):
    monkeypatch.setattr(decoded, "SETTLED", 1e6)
    path = folder(tmp_path, FILES)
    read_images(path, GREY)
    read_images(path, GREY)
    assert len(decodes) == 2 * len(FILES)
    assert not (tmp_path / BESIDE).exists()


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_changes_while_it_is_decoded_is_not_kept(tmp_path, container, monkeypatch):
    path = CONTAINERS[container](tmp_path, FILES)
    decode = decoded.decode

    def changing(entries, frame, **settings):
        found = decode(entries, frame, **settings)
        file = next(iter(sorted(path.rglob("*.bmp")))) if path.is_dir() else path
        os.utime(file, (2, 2))
        return found

    monkeypatch.setattr(decoded, "decode", changing)
    read_images(path, GREY)
    assert not (tmp_path / BESIDE).exists()


def test_where_nothing_can_be_kept_beside_the_source_the_users_cache_is_used(tmp_path, decodes, home):
    path = zipped(tmp_path, FILES)
    (tmp_path / BESIDE).write_text("in the way, as a folder that cannot be written to")
    read_images(path, GREY)
    assert [*(home / "images").glob("*.images.npy")]
    with none_decoded(decodes):
        read_images(path, GREY)


def test_where_nothing_can_be_kept_at_all_images_are_decoded(tmp_path, decodes, home):
    path = zipped(tmp_path, FILES)
    (tmp_path / BESIDE).write_text("in the way")
    home.write_text("in the way")
    same(read_images(path, GREY), read_images(path, GREY))
    assert len(decodes) == 2 * len(FILES)


@pytest.mark.parametrize("ending", [".images.npy", ".names.npy", ".digests.npy", ".json"])
def test_what_is_damaged_is_decoded_and_kept_anew(tmp_path, ending, decodes):
    path = zipped(tmp_path, FILES)
    expected = read_images(path, GREY, split=True)
    (file,) = (tmp_path / BESIDE).glob(f"*{ending}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    same(read_images(path, GREY, split=True), expected)
    assert len(decodes) == 2 * len(FILES)
    with none_decoded(decodes):
        same(read_images(path, GREY, split=True), expected)


def test_an_entry_of_another_form_is_not_used(tmp_path, decodes):
    """Its files are whole, but not what this module writes."""
    path = zipped(tmp_path, FILES)
    expected = read_images(path, GREY)
    state = decoded._State.of(path)
    (place, _) = decoded.caches("images", tmp_path)
    whole = place.read(state.key(GREY))
    for name, wrong in {
        "images": whole.arrays["images"][:-1],
        "digests": whole.arrays["digests"][:, :5],
        "names": np.frombuffer(b"[" * 10**5, np.uint8),
    }.items():
        assert place.write(state.key(GREY), {**whole.arrays, name: np.array(wrong)}, whole.facts)
        decodes.clear()
        same(read_images(path, GREY), expected)
        assert len(decodes) == len(FILES), name


def test_the_limit_of_memory_holds_for_what_is_kept(tmp_path):
    path = zipped(tmp_path, FILES)
    read_images(path, GREY)
    with pytest.raises(UserError, match="max_gib: 12 or more images at size 4 take"):
        read_images(path, GREY, max_gib=11 * 16 / 2**30)


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_keeping_can_be_turned_off(tmp_path, how, decodes, home, monkeypatch):
    path = zipped(tmp_path, FILES)
    if how == "variable":
        monkeypatch.setenv(VARIABLE, "off")
    for _ in range(2):
        _ = ImageFolder(str(path), 4, 1, cache=how == "variable").train_set
    assert len(decodes) == 2 * len(FILES)
    assert {file.name for file in tmp_path.iterdir()} == {"mine.zip"}
    assert not home.exists()


def test_data_sets_of_ones_own_share_what_is_kept(tmp_path, decodes):
    path = folder(tmp_path, SPLIT)
    data, again = ImageFolder(str(path), 8, 1), ImageFolder(str(path), 8, 1)
    first = (data.train_set.digest, data.val_set.digest, data.test_set.digest)
    with none_decoded(decodes):
        assert (again.train_set.digest, again.val_set.digest, again.test_set.digest) == first
        assert len(ImagesFrom(str(path), "mine").load(Digits())) == 12
    assert CelebAHQ256(str(path), cache=False).folder.cache is False


def test_a_source_that_cannot_be_read_has_the_same_error(tmp_path):
    path = folder(tmp_path, FILES)
    (path / "a" / "gone.png").symlink_to(tmp_path / "none.png")
    errors = []
    for cache in (True, False):
        with pytest.raises((UserError, OSError)) as caught:
            read_images(path, GREY, cache=cache)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
