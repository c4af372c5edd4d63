"""Files that are small on the disk and large in memory, or without end: refused before they are unpacked."""

import io
import os
import signal
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
from PIL import Image, ImageFile

from ebmzoo.commands.conditions import read_image
from ebmzoo.data import FromFile, ImageFolder, LSUNChurch, image_files, sources
from ebmzoo.data.arrays import open_npz
from ebmzoo.data.decode import WAITING, Frame, decode
from ebmzoo.data.folder import read_images
from ebmzoo.data.image_files import MOST_PIXELS, opened, size_of
from ebmzoo.data.masks import read_mask
from ebmzoo.data.sources import check_no_devices
from ebmzoo.errors import UserError
from ebmzoo.networks.weights import read_weights

GREY = Frame(4, 1)


@pytest.fixture(autouse=True)
def no_hang():
    """What would be read without end fails here."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(side, depth=16, colours=6):
    """A PNG of `side`² black pixels, by default with four channels of 16 bits."""
    channels = {0: 1, 2: 3, 6: 4}[colours]
    row = bytes(1 + side * channels * depth // 8)
    compress = zlib.compressobj(1)
    pixels = b"".join([*(compress.compress(row) for _ in range(side)), compress.flush()])
    header = struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def picture(size=(4, 4)):
    with io.BytesIO() as file:
        Image.new("L", size, 128).save(file, "PNG")
        return file.getvalue()


def told(path, **limits):
    with pytest.raises(UserError) as caught:
        read_images(path, GREY, **limits)
    sentence = str(caught.value)
    assert str(path.name) in sentence
    return sentence


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    """Wherever a picture is read; the limit is one of pixels, since a compressed one has any number of them."""
    side = int(MOST_PIXELS**0.5)
    bomb = tmp_path / "x.png"
    bomb.write_bytes(png(side + 1, depth=1, colours=0))
    assert bomb.stat().st_size < 2**16
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.png").write_bytes(bomb.read_bytes())
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.write(bomb, "x.png")
    for read in (
        lambda: read_images(tmp_path / "folder", GREY),
        lambda: read_images(tmp_path / "x.zip", GREY),
        lambda: read_image(bomb, (1, 4, 4), "--like"),
        lambda: size_of(bomb),
        lambda: read_mask(bomb),
        lambda: FromFile(str(bomb))(4),
    ):
        with pytest.raises(UserError, match=rf"x\.png.*{side + 1}×{side + 1} pixels, more than 67 million"):
            read()


def test_a_picture_of_many_pixels_is_decoded_and_deep_grey_is_rounded():
    with opened(io.BytesIO(png(300))) as image:
        assert Frame(4, 3)(image).shape == (3, 4, 4)
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = Frame(256, 1)(Image.fromarray(deep))
    assert np.array_equal(found[0], np.rint(deep / 257).astype(np.uint8))


def test_pictures_that_are_decoded_at_once_share_a_limit():
    memory = image_files._DecodingMemory(10)
    entered, leave = Event(), Event()

    def second():
        with memory.taken(6):
            entered.set()
            leave.wait(30)

    with memory.taken(100):  # more than all of it
        assert memory.free == 0
    thread = Thread(target=second)
    with memory.taken(5):
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(30)
    assert memory.free == 4
    leave.set()
    thread.join()
    assert memory.free == 10


def test_an_archive_is_not_in_memory_as_a_whole():
    """Of its members only those that wait for a thread are."""
    ahead, decoded = [0], [0]

    def read(content):
        decoded[0] += 1
        return content

    def entries():
        for number in range(200):
            ahead[0] = max(ahead[0], number - decoded[0])
            yield f"{number}.png", partial(read, picture())

    names, images = decode(entries(), GREY, max_gib=1)
    assert names == [f"{number}.png" for number in range(200)]
    assert images.shape == (200, 1, 4, 4)
    assert ahead[0] <= WAITING + 1


def test_images_keep_their_order_and_the_first_error_is_told():
    def of(number):
        with io.BytesIO() as file:
            Image.new("L", (4, 4), number).save(file, "PNG")
            return file.getvalue()

    entries = [(f"{number}.png", partial(of, number)) for number in range(50)]
    assert decode(entries, GREY, max_gib=1)[1][:, 0, 0, 0].tolist() == list(range(50))
    with pytest.raises(UserError, match=r"^30\.png"):
        decode([*entries[:30], ("30.png", bytes), *entries[31:40], ("40.png", bytes)], GREY, max_gib=1)


def packed(path, members, headers=None):
    with tarfile.open(path, f"w:{path.suffix[1:]}", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), headers or {}
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_an_archive_that_unpacks_without_measure_is_not_read(kind, tmp_path, monkeypatch):
    """Also where its members are no images, which are passed over only by unpacking them."""
    monkeypatch.setattr(sources, "ALWAYS_UNPACKED", 2**20)
    zeros = bytes(2**24)
    path = packed(tmp_path / f"x.tar.{kind}", [("a.png", picture()), ("rest.bin", zeros), ("b.png", picture())])
    assert "over 100 times its size" in told(path)
    path = packed(tmp_path / f"y.tar.{kind}", [(f"{i}.png", zeros[: 2**20]) for i in range(20)])
    assert "over 100 times its size" in told(path)
    small = packed(tmp_path / f"z.tar.{kind}", [("a.png", picture()), ("rest.bin", bytes(1000)), ("b.png", picture())])
    assert len(read_images(small, GREY)[""]) == 2


def test_a_zip_that_unpacks_without_measure_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ALWAYS_UNPACKED", 2**20)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(24):
            zipped.writestr(f"{number}.png", bytes(2**20))
    assert "unpacks to 0.0234 GiB or more" in told(tmp_path / "x.zip")


def test_a_header_of_a_tar_is_not_taken_as_long_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_BYTES", 2**20)
    path = packed(tmp_path / "x.tar.gz", [("a.png", picture())], {"comment": "x" * 2**21})
    assert "a header unpacks to" in told(path)


def test_an_archive_is_known_by_its_content(tmp_path):
    """Whatever its name says of the compression."""
    path = packed(tmp_path / "x.tar.gz", [("a.png", picture()), ("b.png", picture())])
    path.rename(tmp_path / "x.tar.xz")
    assert len(read_images(tmp_path / "x.tar.xz", GREY)[""]) == 2


def test_arrays_that_nobody_asked_for_are_not_unpacked(tmp_path):
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez_compressed(tmp_path / "x.npz", images=images, rest=np.zeros(2**26, np.uint8))
    arrays, names = open_npz(tmp_path / "x.npz", {"images", "labels"}, max_gib=2**-10)
    assert list(arrays) == ["images"]
    assert names == ["images", "rest"]
    np.savez_compressed(tmp_path / "y.npz", images=np.zeros((4, 2**12, 2**12), np.uint8))
    assert "max_gib: " in told(tmp_path / "y.npz", max_gib=2**-5)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.npz", "x"])
def test_data_that_is_a_pipe_is_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    assert "is not a regular file but a pipe" in told(tmp_path / name)
    with pytest.raises(UserError, match="pipe"):
        ImageFolder(str(tmp_path / name), 4).load()


def test_single_files_that_are_pipes_are_not_waited_for(tmp_path):
    pipe = tmp_path / "x.png"
    os.mkfifo(pipe)
    for read in (
        lambda: read_image(pipe, (1, 4, 4), "--like"),
        lambda: size_of(pipe),
        lambda: read_mask(pipe),
        lambda: FromFile(str(pipe))(4),
        lambda: read_weights(pipe),
        lambda: check_no_devices(tmp_path),
    ):
        with pytest.raises(UserError, match="is not a regular file but a pipe"):
            read()
    folder = tmp_path / "church_outdoor_train_lmdb"
    folder.mkdir()
    os.mkfifo(folder / "data.mdb")
    with pytest.raises(UserError, match="pipe"):
        LSUNChurch(str(tmp_path))._folder(folder.name)
    pipe.unlink()
    with pytest.raises(UserError, match=r"data\.mdb is not a regular file"):
        check_no_devices(tmp_path)
    check_no_devices(tmp_path / "none")


def test_names_in_archives_command_no_terminal(tmp_path, capsys):
    escape = "\x1b]0;title\x07\n"
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        for label in ("a", f"b{escape}"):
            for name in ("1.png", "2.png"):
                zipped.writestr(f"{label}/{name}", picture())
        zipped.writestr(f"a/x.{escape}", "")
    found = read_images(tmp_path / "x.zip", GREY)[""]
    assert found.classes == ("a", "b\\x1b]0;title\\x07\\n")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    for member in (f"a/bad{escape}.png", f"../{escape}.png"):
        with zipfile.ZipFile(tmp_path / "y.zip", "w") as zipped:
            zipped.writestr("a/1.png", picture())
            zipped.writestr(member, b"no image")
        with pytest.raises(UserError) as caught:
            read_images(Path(tmp_path / "y.zip"), GREY)
        assert str(caught.value).isprintable()
