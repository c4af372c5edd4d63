"""How images without splits are split, and what is said of files and folders that are not as they should be."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ebmzoo.data import ImageFolder
from ebmzoo.data.decode import Frame
from ebmzoo.data.folder import read_images
from ebmzoo.data.image_files import image_suffixes
from ebmzoo.data.masks import read_mask
from ebmzoo.data.splits import TEST_PART, by_content, digest
from ebmzoo.errors import UserError

GREY = Frame(4, 1)


def save(path, value, kind=None):
    """A grey image of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path, kind)


def values(images):
    return {int(image[0, 0, 0]) for image in images.images}


def folder(path, **arguments):
    return ImageFolder(str(path), 4, 1, **arguments)


def test_files_that_come_and_go_or_change_their_names_move_no_other_image(tmp_path):
    for v in range(100):
        save(tmp_path / f"{v:03}.png", v)
    tests = values(folder(tmp_path).test_set)
    for v in range(100, 150):
        save(tmp_path / f"0{v}.png", v)  # sorted before the others
    more = folder(tmp_path)
    assert tests <= values(more.test_set)
    assert not tests & values(more.train_set)
    for v in range(50):
        (tmp_path / f"{v:03}.png").rename(tmp_path / f"z{v}.png")
    for v in range(100, 150):
        (tmp_path / f"0{v}.png").unlink()
    assert values(folder(tmp_path).test_set) == tests


def test_the_split_is_the_law_of_its_digests():
    digests = [digest(bytes([v, w])) for v in range(256) for w in range(40)]
    split = by_content(digests)
    n, tests = len(digests), split.count("test")
    assert abs(tests - TEST_PART * n) < 5 * (n * TEST_PART * (1 - TEST_PART)) ** 0.5
    small = [int.from_bytes(d[:8], "big") < TEST_PART * 2**64 for d in digests]
    assert split == ["test" if s else "train" for s in small]
    assert by_content(digests[::-1]) == split[::-1]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_images_make_two_sets(n):
    for start in range(50):
        split = by_content([digest(bytes([start, k])) for k in range(n)])
        assert set(split) == {"train", "test"}
    assert by_content([digest(b"")] * n).count("test") == 1


def test_copies_of_an_image_are_together():
    digests = [digest(bytes([v])) for v in range(30)] * 2
    split = by_content(digests)
    assert split[:30] == split[30:]


def test_arrays_are_split_by_content_too(tmp_path):
    images = np.arange(100, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "a.npz", images=images)
    np.savez(tmp_path / "b.npz", images=images[::-1][10:])
    whole, part = folder(tmp_path / "a.npz"), folder(tmp_path / "b.npz")
    assert values(part.test_set) <= values(whole.test_set)
    assert not values(part.test_set) & values(whole.train_set)


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "TESTING"), ("TRAIN", "test")])
def test_splits_are_known_in_any_usual_spelling(tmp_path, names):
    for split, value in zip(names, (1, 2), strict=True):
        save(tmp_path / split / "cat" / "a.png", value)
        save(tmp_path / split / "dog" / "b.png", value)
    data = folder(tmp_path)
    assert (values(data.train_set), values(data.test_set)) == ({1}, {2})
    assert data.classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev"])
def test_a_folder_of_validation_images_is_the_validation_set(tmp_path, name):
    for value, split in enumerate(("train", name, "test")):
        save(tmp_path / split / "a.png", value)
    data = folder(tmp_path)
    assert [values(part) for part in (data.train_set, data.val_set, data.test_set)] == [{0}, {1}, {2}]
    with pytest.raises(UserError, match=r"val_fraction: 0\.5 must be 0"):
        _ = folder(tmp_path, val_fraction=0.5).val_set


def test_validation_arrays_are_the_validation_set(tmp_path):
    arrays = {f"{part}_images": np.full((2, 4, 4), v, np.uint8) for v, part in enumerate(("train", "val", "test"))}
    np.savez(tmp_path / "a.npz", **arrays)
    data = folder(tmp_path / "a.npz")
    assert [values(part) for part in (data.train_set, data.val_set, data.test_set)] == [{0}, {1}, {2}]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "val"), r"images in train/ and val/ but none in test/"),
        (("Test", "other"), r"images in Test/ but none in train/"),
        (("train", "Train", "test"), r"Train and train are both the train set"),
        (("train", "test", "val", "dev"), r"dev and val are both the val set"),
    ],
)
def test_splits_that_are_not_whole_are_told(tmp_path, folders, message):
    for name in folders:
        save(tmp_path / name / "a.png", 1)
    with pytest.raises(UserError, match=message):
        _ = folder(tmp_path).train_set


def test_a_fraction_that_leaves_no_image_is_told(tmp_path):
    for v in range(90):
        save(tmp_path / "train" / f"{v}.png", v)
    save(tmp_path / "test" / "a.png", 200)
    with pytest.raises(UserError, match=r"val_fraction: 0.005 of the 90 training images .* is 0 images"):
        _ = folder(tmp_path, val_fraction=0.005).val_set
    assert len(folder(tmp_path, val_fraction=0.02).val_set) == 2


def test_a_class_that_is_linked_from_both_splits_is_read_twice(tmp_path):
    save(tmp_path / "store" / "a.png", 7)
    for split in ("train", "test"):
        save(tmp_path / "data" / split / "dog" / "b.png", 9)
        (tmp_path / "data" / split / "cat").symlink_to(tmp_path / "store")
    data = folder(tmp_path / "data")
    assert data.classes == ("cat", "dog")
    assert values(data.train_set) == values(data.test_set) == {7, 9}


def test_links_in_a_circle_end(tmp_path):
    save(tmp_path / "a" / "x.png", 1)
    save(tmp_path / "b" / "y.png", 2)
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    found = read_images(tmp_path, GREY)[""]
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [1, 1, 2, 2]
    assert found.classes == ("a", "b")


def test_whatever_the_decoder_opens_is_read(tmp_path):
    for value, (suffix, kind) in enumerate({".jfif": "JPEG", ".tga": "TGA", ".qoi": "QOI", ".jp2": "JPEG2000"}.items()):
        if suffix in image_suffixes():
            Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / f"x{suffix}", kind)
    made = len(list(tmp_path.iterdir()))
    assert made >= 2
    assert len(read_images(tmp_path, GREY)[""]) == made
    assert {".jfif", ".jpg", ".png", ".webp", ".tif"} <= image_suffixes()
    assert not {".eps", ".ps", ".mpg", ".wmf"} & image_suffixes()


def test_a_program_is_not_started_for_an_image(tmp_path):
    """PostScript under the name of an image would be given to an interpreter."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image \(not an image file\)"):
        read_images(tmp_path, GREY)


def test_files_that_are_left_out_are_counted(tmp_path, capsys):
    for v in range(3):
        save(tmp_path / "train" / f"{v}.png", v)
        save(tmp_path / "extra" / f"{v}.png", v)
    save(tmp_path / "test" / "a.png", 9)
    for name in ("a.txt", "b.TXT", "c.json", "LICENSE", ".hidden"):
        (tmp_path / "train" / name).write_text("x")
    read_images(tmp_path, GREY)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "2 .txt" in said
    assert "1 .json" in said
    assert "1 no ending" in said
    assert "3 outside the train, val and test folders" in said


def test_nothing_is_said_where_nothing_is_left_out(tmp_path, capsys):
    save(tmp_path / "a.png", 1)
    read_images(tmp_path, GREY)
    assert capsys.readouterr().err == ""


def test_a_mask_of_a_camera_or_with_the_noise_of_jpeg_is_what_it_shows(tmp_path):
    painted = np.zeros((16, 16), np.uint8)
    painted[:4, :8] = 255
    Image.fromarray(painted).save(tmp_path / "a.jpg", quality=30)
    noisy = np.asarray(Image.open(tmp_path / "a.jpg"))
    assert ((noisy > 0) & (noisy < 128)).any()  # what a threshold of 0 would hide
    assert torch.equal(read_mask(tmp_path / "a.jpg"), torch.from_numpy(painted == 255))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned by 90° clockwise
    Image.fromarray(painted).save(tmp_path / "b.png", exif=turned)
    assert torch.equal(read_mask(tmp_path / "b.png"), torch.from_numpy(np.rot90(painted, -1).copy() == 255))


def test_half_transparent_pixels_are_on_the_side_that_they_are_nearer(tmp_path):
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[0, :, 3] = [0, 127, 128, 255]
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG")
    (tmp_path / "m.png").write_bytes(buffer.getvalue())
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]
