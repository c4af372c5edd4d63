"""Files that are broken, odd or meant to do harm: each is read as it should be, or ends in a sentence that names it."""

import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.commands.conditions import read_image
from ebmzoo.commands.environment import writable
from ebmzoo.data import FromFile, ImageFolder
from ebmzoo.data.arrays import MOST_CLASSES
from ebmzoo.data.decode import Frame
from ebmzoo.data.folder import read_images
from ebmzoo.data.image_files import MOST_BYTES, size_of
from ebmzoo.data.masks import read_mask
from ebmzoo.errors import UserError
from support.paths import DATA

OLD = DATA / "format1.ckpt"
RGB, GREY = Frame(8, 3), Frame(8, 1)


def picture(mode="RGB", size=(8, 8), value=128):
    """A picture of one mid-grey, in any mode."""
    grey = Image.new("L", size, value)
    if mode in ("I;16", "I"):
        return Image.fromarray(np.full(size[::-1], value * 257, np.uint16)).convert(mode)
    if mode == "P":
        return grey.convert("RGB").quantize(4)
    return grey.convert(mode)


def encoded(image, kind):
    with io.BytesIO() as file:
        image.save(file, kind)
        return file.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def huge(side):
    """A few bytes of PNG that say they are `side`² pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def told(path, frame=RGB, **limits):
    with pytest.raises(UserError) as caught:
        read_images(path, frame, **limits)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    return sentence


MODES = [("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("CMYK", "JPEG")]
MODES += [("CMYK", "TIFF"), ("I;16", "TIFF"), ("L", "JPEG"), ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP")]


@pytest.mark.parametrize(("mode", "kind"), MODES)
def test_every_mode_is_the_same_picture(mode, kind, tmp_path):
    """Mid-grey comes out as mid-grey in each of them; in one bit there is only black and white."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.{kind.lower()}").write_bytes(encoded(picture(mode), kind))
    for frame in (RGB, GREY):
        images = read_images(tmp_path, frame)[""].images
        assert images.shape == (2, frame.channels, 8, 8)
        found = images.float()
        wanted = {0.0, 255.0} if mode == "1" else set(range(124, 133))
        assert {float(v) for v in found.unique()} <= wanted, (mode, kind)


def test_a_picture_of_floating_point_is_told(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tiff")
    assert all(word in told(tmp_path) for word in ("a.tiff", "floating-point"))


DAMAGED = {
    "truncated jpeg": lambda: encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")[:900],
    "truncated png": lambda: encoded(Image.effect_noise((64, 64), 90), "PNG")[:900],
    "text": lambda: b"this is no image at all\n",
    "empty": lambda: b"",
    "huge": lambda: huge(60_000),
    "half a header": lambda: huge(8)[:20],
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_named(case, tmp_path):
    for name in ("good.png", "other.png"):
        picture().save(tmp_path / name)
    bad = tmp_path / "bad.png"
    bad.write_bytes(DAMAGED[case]())
    assert "bad.png" in told(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.write(bad, "bad.png")
    assert "bad.png" in told(tmp_path / "x.zip")
    for read in (lambda: read_image(bad, (3, 8, 8), "--like"), lambda: read_mask(bad), lambda: FromFile(str(bad))(8)):
        with pytest.raises(UserError, match=r"bad\.png"):
            read()


def test_a_file_that_is_missing_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "no.png", tmp_path):
        for read in (size_of, read_mask):
            with pytest.raises(UserError, match=str(path)):
                read(path)


def test_mixed_sizes_become_one_and_empty_classes_are_survived(tmp_path):
    for label, size in (("a", (8, 8)), ("b", (40, 9)), ("c", (1, 30))):
        (tmp_path / label).mkdir()
        for name in ("1", "2"):
            picture(size=size).save(tmp_path / label / f"{name}.png")
    (tmp_path / "empty").mkdir()
    found = read_images(tmp_path, RGB)[""]
    assert found.images.shape == (6, 3, 8, 8)
    assert found.classes == ("a", "b", "c")


@pytest.mark.parametrize("names", [[], ["notes.txt"], [".hidden.png"]])
def test_no_images_at_all_is_told(names, tmp_path):
    for name in names:
        picture().save(tmp_path / name, "PNG")
    assert "no image files" in told(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.writestr("readme.txt", "x")
    assert "no image files" in told(tmp_path / "x.zip")


def test_one_image_is_not_enough_for_two_sets(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(UserError, match="1 image"):
        ImageFolder(str(tmp_path), 8).load()


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path):
    picture().save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe.png" in told(tmp_path)


def test_a_link_to_where_it_stands_is_read_once(tmp_path):
    picture().save(tmp_path / "a.png")
    picture().save(tmp_path / "b.png")
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(read_images(tmp_path, RGB)[""]) == 2


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    picture().save(tmp_path / "a" / "a.png")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    assert "Permission denied" in told(tmp_path)


def archive(path, members):
    """An archive of names with their contents; a member of a tar may also be a `TarInfo`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members:
                zipped.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("name", ["/tmp/evil.png", "../evil.png", "a/../../evil.png", "a/../evil.txt"])
def test_archives_that_point_outside_are_refused(kind, name, tmp_path):
    good = encoded(picture(), "PNG")
    path = archive(tmp_path / kind, [("a.png", good), (name, good), ("b.png", good)])
    sentence = told(path)
    assert name in sentence
    assert "outside" in sentence
    assert {p.name for p in tmp_path.iterdir()} == {kind}
    assert not (tmp_path.parent / "evil.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_archives_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    assert "a.png is a link" in told(tmp_path / "x.tar")


def test_a_member_that_claims_to_be_giant_is_not_read(tmp_path):
    zeros = bytes(MOST_BYTES + 1)  # 64 MiB that deflate to 64 KiB
    path = archive(tmp_path / "x.zip", [("a.png", zeros)])
    assert path.stat().st_size < 2**20
    assert "a.png unpacks to 0.0625 GiB" in told(path)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:  # all of it but the bytes
        info = tarfile.TarInfo("a.png")
        info.size = 2**40
        tar.fileobj.write(info.tobuf())
    assert "a.png unpacks to 1.02e+03 GiB" in told(tmp_path / "x.tar")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz", "x.npz"])
def test_cut_archives_are_named(kind, tmp_path):
    noise = encoded(Image.effect_noise((64, 64), 90), "PNG")
    path = tmp_path / kind
    if kind == "x.npz":
        np.savez(path, images=np.zeros((4, 8, 8), np.uint8))
    else:
        archive(path, [("a.png", noise), ("b.png", noise)])
    whole = path.read_bytes()
    cuts = [0, 10, len(whole) // 3]
    if kind == "x.tar":  # after a member, and within the next one's header
        cuts += [(at := len(noise) // 512 * 512 + 1024), at + 100]
    for part in cuts:
        path.write_bytes(whole[:part])
        sentence = told(path)
        assert kind in sentence


FOUR = np.zeros((4, 8, 8), np.uint8)
NPZ = {
    "floats": ({"images": np.zeros((4, 8, 8))}, "float64"),
    "two dimensions": ({"images": np.zeros((4, 8), np.uint8)}, r"\(4, 8\)"),
    "channels first": ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, r"\(4, 3, 8, 8\)"),
    "no images": ({"images": np.zeros((0, 8, 8), np.uint8)}, r"\(0, 8, 8\)"),
    "no height": ({"images": np.zeros((4, 0, 8), np.uint8)}, r"\(4, 0, 8\)"),
    "objects": ({"images": np.array([{}], dtype=object)}, "plain arrays"),
    "a number": ({"images": np.uint8(3)}, r"shape \(\)"),
    "names": ({"pictures": FOUR}, "pictures"),
    "labels that are too few": ({"images": FOUR, "labels": np.zeros(3, int)}, "labels"),
    "labels below zero": ({"images": FOUR, "labels": np.full(4, -1)}, "labels"),
    "labels beyond counting": (
        {"images": FOUR, "labels": np.full(4, 2**40)},
        str(MOST_CLASSES),
    ),
    "labels that wrap": (
        {"images": FOUR, "labels": np.full(4, 2**64 - 1, np.uint64)},
        "label",
    ),
    "half of two sets": ({"train_images": FOUR}, "train_images"),
}


@pytest.mark.parametrize("case", NPZ)
def test_arrays_that_are_no_images_are_told(case, tmp_path):
    arrays, words = NPZ[case]
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=words) as caught:
        read_images(tmp_path / "x.npz", RGB)
    assert "x.npz" in str(caught.value)


def test_arrays_larger_than_the_machine_are_not_unpacked(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8))
    monkeypatch.setattr(os, "sysconf", lambda name: 16)
    assert "memory" in told(tmp_path / "x.npz")


def sentence(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in args])
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ebmzoo: ")]
    return line


def test_what_cannot_be_written_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    """A path below a regular file is one that nobody, root neither, can write to."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ebmzoo.commands.sample.draw", lambda *_: pytest.fail("images were drawn"))
    for out in ("file/x.png", "file/deep/x.npz", "file/folder"):
        assert "out: " in sentence(capsys, "sample", "--ckpt_path", OLD, "--out", tmp_path / out)
    for run_dir in ("file", "file/run"):
        told = sentence(capsys, "fit", "--ckpt_path", OLD, "--run_dir", tmp_path / run_dir, "--trainer.max_epochs", "3")
        assert str(tmp_path / "file") in told
    with pytest.raises(UserError, match="out: "):
        writable(tmp_path / "file")


def test_a_folder_that_may_not_be_written_into_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to"):
        writable(tmp_path)
