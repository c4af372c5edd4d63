"""LSUN's churches: the published layout, and what is said when a part of it is missing."""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ebmzoo.data import ImageFolder, LSUNChurch
from ebmzoo.errors import UserError

RNG = np.random.default_rng(0)
TRAIN, VAL = "church_outdoor_train_lmdb", "church_outdoor_val_lmdb"


def coded(width, height, kind="JPEG"):
    picture = Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def write(folder, pictures):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=2**20) as file, file.begin(write=True) as writing:
        for key, content in pictures.items():
            writing.put(key.encode(), content)
    # What is published has no lock file, and may lie where nothing can be written.
    (folder / "lock.mdb").unlink()


@pytest.fixture
def churches(tmp_path):
    train = {"c": coded(24, 12), "a": coded(9, 16, "WEBP"), "b": coded(8, 8)}
    write(tmp_path / TRAIN, train)
    write(tmp_path / VAL, {"d": coded(10, 8)})
    return tmp_path, train


def test_the_shorter_side_is_scaled_and_the_middle_kept(churches):
    root, train = churches
    data = LSUNChurch(str(root), size=8)
    assert data.train_set.images.shape == (3, 3, 8, 8)
    assert len(data.test_set) == len(data.val_set) == 1
    assert data.train_set.labels.tolist() == [0, 0, 0]
    squares = {"a": (0, 3.5, 9, 12.5), "b": (0, 0, 8, 8), "c": (6, 0, 18, 12)}
    for found, (key, (left, upper, right, lower)) in zip(data.train_set.images, squares.items(), strict=True):
        picture = Image.open(io.BytesIO(train[key])).convert("RGB")
        box = (left, int(upper), right, int(upper) + int(lower - upper))
        expected = np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC, box))
        assert np.array_equal(found.numpy(), expected.transpose(2, 0, 1)), key
    assert {path.name for path in (root / TRAIN).iterdir()} == {"data.mdb"}


def test_unpacked_pictures_give_the_same_images(churches, tmp_path):
    root, train = churches
    for part, pictures in (("train", train), ("test", {"d": coded(10, 8)})):
        (tmp_path / "unpacked" / part).mkdir(parents=True)
        for key, content in pictures.items():
            (tmp_path / "unpacked" / part / f"{key}.webp").write_bytes(content)
    unpacked = ImageFolder(str(tmp_path / "unpacked"), 8).train_set.images
    published = LSUNChurch(str(root), size=8).train_set.images
    assert sorted(unpacked.flatten(1).tolist()) == sorted(published.flatten(1).tolist())


def test_the_data_feed_a_loader(churches):
    images, labels = next(iter(LSUNChurch(str(churches[0]), size=8, batch_size=2).train_dataloader()))
    assert (images.shape, images.dtype, labels.tolist()) == ((2, 3, 8, 8), torch.uint8, [0, 0])


@pytest.mark.parametrize("missing", [TRAIN, VAL])
def test_a_missing_folder_is_named_with_its_source(churches, missing, monkeypatch):
    root, _ = churches
    (root / missing / "data.mdb").unlink()
    monkeypatch.setattr("ebmzoo.data.lsun.decode", lambda *args, **options: pytest.fail("read before all was there"))
    with pytest.raises(UserError, match=rf"{missing} is missing.*{missing}\.zip.*github\.com/fyu/lsun") as caught:
        _ = LSUNChurch(str(root)).train_set
    assert f"unzip it in {root}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package_one_sentence_names_it(tmp_path, monkeypatch):
    for part in (TRAIN, VAL):
        (tmp_path / part).mkdir()
        (tmp_path / part / "data.mdb").touch()
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UserError, match=r"package lmdb, which is missing: pip install 'ebmzoo\[all\]'"):
        _ = LSUNChurch(str(tmp_path)).train_set


@pytest.mark.parametrize("content", [b"not an lmdb", b"\0" * 9000])
def test_a_damaged_file_is_named(churches, content):
    root, _ = churches
    (root / TRAIN / "data.mdb").write_bytes(content)
    with pytest.raises(UserError, match=f"{TRAIN} is not a complete lmdb") as caught:
        _ = LSUNChurch(str(root)).train_set
    assert "\n" not in str(caught.value)


def test_a_damaged_picture_is_named_by_its_key(churches):
    root, _ = churches
    write(root / VAL, {"beef": b"no picture"})
    with pytest.raises(UserError, match=f"{VAL}: beef cannot be read as an image"):
        _ = LSUNChurch(str(root)).train_set


def test_an_empty_file_and_an_impossible_size_are_named(churches):
    root, _ = churches
    (root / VAL / "data.mdb").unlink()
    write(root / VAL, {})
    with pytest.raises(UserError, match=f"{VAL} contains no images"):
        _ = LSUNChurch(str(root)).train_set
    with pytest.raises(UserError, match="size: 0"):
        LSUNChurch(size=0)
