"""Published sets in the layout that torchvision reads, and what is out of distribution."""

import gzip
import pickle
import socket
import struct
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from ebmzoo import data
from ebmzoo.data import ImageData, ImageSet
from ebmzoo.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


class Like(ImageData):
    """A set of known images in any shape."""

    name = "like"

    def __init__(self, size=8, channels=3, n=120):
        super().__init__()
        self.size, self.channels, self.n = size, channels, n

    def load(self):
        images = torch.from_numpy(
            np.random.default_rng(1).integers(0, 256, (self.n, self.channels, self.size, self.size))
        )
        found = ImageSet(images.byte(), torch.zeros(self.n).long(), ("x",), self.name)
        return found, found


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([data.ConstantColours(), data.ConstantColours(seed=1)], r"2 sets are called 'constant'"),
        ([data.ImagesFrom("a", "mine"), data.ImagesFrom("b", "mine")], r"2 sets are called 'mine'"),
        ([data.ImagesFrom("a", "near")], r"cannot be called 'near'"),
        ([data.ImagesFrom("a", "far")], r"cannot be called 'far'"),
        ([data.ImagesFrom("a", "x/y")], r"cannot be called 'x/y'"),
        ([data.ImagesFrom("a", "")], r"cannot be called ''"),
    ],
)
def test_each_set_has_a_row_of_its_own(sets, message):
    with pytest.raises(UserError, match=message):
        data.Digits(ood=sets)


def test_equal_sets_have_equal_digests_and_any_difference_changes_them():
    images = torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4)
    labels = torch.tensor([0, 1, 0, 1])
    one = ImageSet(images, labels, ("a", "b"), "one")
    assert one.digest == ImageSet(images.clone(), labels.clone(), ("a", "b"), "another name").digest
    changed = images.clone()
    changed[3, 0, 3, 3] += 1
    others = [
        ImageSet(changed, labels, ("a", "b"), "one"),
        ImageSet(images, labels.flip(0), ("a", "b"), "one"),
        ImageSet(images, labels, ("b", "a"), "one"),
        ImageSet(images.view(4, 1, 2, 8), labels, ("a", "b"), "one"),
        one.take([0, 1, 2]),
        one.take([1, 0, 2, 3]),
    ]
    assert len({each.digest for each in (one, *others)}) == 1 + len(others)
    assert one.record() == {"name": "one", "n": 4, "digest": one.digest}


@pytest.fixture
def any_checksum(monkeypatch):
    for module in (datasets.cifar, datasets.svhn, datasets.celeba, datasets.utils):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def cifar10(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = {name: noise(3, 3072) for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]}
    for name, part in pixels.items():
        (folder / name).write_bytes(pickle.dumps({"data": part, "labels": [0, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird"]}))
    return np.concatenate([pixels[f"data_batch_{i}"] for i in range(1, 6)]), pixels["test_batch"]


def cifar100(root):
    folder = root / "cifar-100-python"
    folder.mkdir()
    pixels = {name: noise(3, 3072) for name in ("train", "test")}
    for name, part in pixels.items():
        (folder / name).write_bytes(pickle.dumps({"data": part, "fine_labels": [0, 1, 2]}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "bear", "bed"]}))
    return pixels["train"], pixels["test"]


def svhn(root):
    pixels = {name: noise(3, 3, 32, 32) for name in ("train", "test")}
    for name, part in pixels.items():
        savemat(root / f"{name}_32x32.mat", {"X": part.transpose(2, 3, 1, 0), "y": np.array([[1], [10], [2]])})
    return pixels["train"], pixels["test"]


def imagenet32(root):
    pixels = [noise(2, 3072) for _ in range(11)]
    for name, part in zip([*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"], pixels, strict=True):
        np.savez(root / f"{name}.npz", data=part, labels=np.array([1, 1000]))
    return np.concatenate(pixels[:10]), pixels[10]


def celeba(root, n=6):
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i}.png" for i in range(n)]
    pixels = noise(n, 218, 178, 3)
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture).save(folder / "img_align_celeba" / name)
    (folder / "list_eval_partition.txt").write_text("".join(f"{x} {2 * (i >= 4)}\n" for i, x in enumerate(names)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{x} 1\n" for x in names))
    rows = {"list_bbox_celeba": "1 2", "list_landmarks_align_celeba": "1 2", "list_attr_celeba": "-1 {}"}
    for file, row in rows.items():
        lines = [f"{x} {row.format(1 if i % 2 else -1)}" for i, x in enumerate(names)]
        (folder / f"{file}.txt").write_text("\n".join([str(n), "Bald Smiling ", *lines]))
    return pixels[:4], pixels[4:]


def mnist(root, kind="MNIST"):
    folder = root / kind / "raw"
    folder.mkdir(parents=True)
    pixels = {"train": noise(5, 28, 28), "t10k": noise(4, 28, 28)}
    for name, part in pixels.items():
        images = struct.pack(">4I", 0x803, len(part), 28, 28) + part.tobytes()
        labels = struct.pack(">2I", 0x801, len(part)) + bytes(range(len(part)))
        (folder / f"{name}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(labels)
    return pixels["train"], pixels["t10k"]


def textures(root, side=40):
    folder = root / "dtd" / "dtd"
    (folder / "labels").mkdir(parents=True)
    (folder / "images" / "dotted").mkdir(parents=True)
    pixels = noise(3, side, side + 5, 3)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / "images" / "dotted" / f"{i}.png")
    (folder / "labels" / "test1.txt").write_text("".join(f"dotted/{i}.png\n" for i in range(3)))
    return pixels


@pytest.mark.parametrize(
    ("kind", "make", "labels"),
    [
        (data.CIFAR10, cifar10, [0, 1, 2]),
        (data.CIFAR100, cifar100, [0, 1, 2]),
        (data.SVHN, svhn, [1, 0, 2]),
        (data.ImageNet32, imagenet32, [0, 999]),
    ],
)
def test_published_sets_are_read_to_the_bit(tmp_path, any_checksum, no_network, kind, make, labels):
    train, test = make(tmp_path)
    found = kind(root=str(tmp_path))
    assert np.array_equal(found.train_set.images.numpy(), train.reshape(-1, 3, 32, 32))
    assert np.array_equal(found.test_set.images.numpy(), test.reshape(-1, 3, 32, 32))
    assert found.test_set.labels.tolist() == labels


GREY = {data.MNIST: "MNIST", data.FashionMNIST: "FashionMNIST"}


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize("kind", GREY)
def test_grey_sets_are_read_from_torchvisions_files_and_from_an_npz_alike(
    tmp_path, any_checksum, no_network, kind, size
):
    train, test = mnist(tmp_path, GREY[kind])
    np.savez(
        tmp_path / "all.npz", train_images=train, train_labels=np.arange(5), test_images=test, test_labels=np.arange(4)
    )
    edge = (size - 28) // 2
    for path in (tmp_path, tmp_path / "all.npz"):
        found = kind(path=str(path), size=size)
        order = found.train_set.labels.argsort()
        inner = slice(edge, size - edge)
        assert np.array_equal(found.train_set.images[order][:, 0, inner, inner].numpy(), train), path
        assert found.train_set.images.sum() == train.sum(), path  # what is added is black
        assert found.test_set.images.shape == (4, 1, size, size), path
        assert found.classes[:2] == (("0", "1") if kind is data.MNIST else ("T-shirt/top", "Trouser")), path
        assert len(found.classes) == 10, path
    assert found.test_set.name == found.name == kind.name


def test_grey_sets_are_read_from_a_folder_of_images(tmp_path, no_network):
    for part, n in (("train", 3), ("test", 2)):
        for i in range(n):
            folder = tmp_path / part / str(i % 2)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((28, 28), 10 * i + 1, np.uint8)).save(folder / f"{i}.png")
    found = data.MNIST(str(tmp_path), size=32)
    assert sorted(found.train_set.images.amax((1, 2, 3)).tolist()) == [1, 11, 21]
    assert len(found.test_set) == 2


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("", {"size": 8}, r"size: 8 must be 28, or 32"),
        ("none.npz", {}, r"none\.npz does not exist"),
        ("one.npz", {}, r"one\.npz has no training and test sets: use ebmzoo\.data\.ImageFolder"),
    ],
)
def test_what_is_no_such_grey_set_is_said_in_a_sentence(tmp_path, no_network, path, options, message):
    np.savez(tmp_path / "one.npz", images=noise(3, 28, 28))
    with pytest.raises(UserError, match=message):
        _ = data.MNIST(str(tmp_path / path), **options).train_set


@pytest.mark.parametrize(
    ("kind", "other", "folder"),
    [(data.MNIST, data.FashionMNISTTest, "FashionMNIST"), (data.FashionMNIST, data.MNISTTest, "MNIST")],
)
def test_the_near_set_of_a_padded_set_is_padded_alike(tmp_path, any_checksum, no_network, kind, other, folder):
    _, test = mnist(tmp_path, folder)
    like = kind("unused", size=32)
    assert other().is_near(like)
    found = other(root=str(tmp_path)).load(like).images
    assert np.array_equal(found[:, 0, 2:-2, 2:-2].numpy(), test)
    assert found.sum() == test.sum()


@pytest.mark.parametrize(
    ("crop", "box"), [("dual_mcmc", (15, 40, 148)), ("clel", (19, 39, 140)), ("drl", (0, 20, 178))]
)
def test_faces_are_cropped_as_in_each_paper(tmp_path, any_checksum, crop, box):
    train, test = celeba(tmp_path)
    left, upper, side = box
    found = data.CelebA(root=str(tmp_path), size=side, crop=crop)
    squares = train[:, upper : upper + side, left : left + side].transpose(0, 3, 1, 2)
    assert np.array_equal(found.train_set.images.numpy(), squares)
    assert len(found.test_set) == len(test)
    assert found.train_set.labels.tolist() == [0, 1, 0, 1]
    assert found.classes == ("not Smiling", "Smiling")
    with pytest.raises(UserError, match=r"attribute: 'Beard' .*Bald, Smiling"):
        _ = data.CelebA(root=str(tmp_path), attribute="Beard").train_set


def test_high_quality_faces_are_a_folder_at_256(tmp_path):
    for i in range(3):
        Image.fromarray(noise(300, 300, 3)).save(tmp_path / f"{i}.png")
    assert data.CelebAHQ256(str(tmp_path)).train_set.images.shape == (2, 3, 256, 256)


PUBLISHED = {
    data.MNIST: "train-images-idx3-ubyte.gz",
    data.FashionMNIST: "train-images-idx3-ubyte.gz",
    data.CIFAR10: "cifar-10-python.tar.gz",
    data.CIFAR100: "cifar-100-python.tar.gz",
    data.SVHN: "train_32x32.mat",
    data.CelebA: "img_align_celeba",
    data.ImageNet32: "train_data_batch_1.npz",
}
PUBLISHED_TESTS = {
    data.CIFAR10Test: "cifar-10-python.tar.gz",
    data.CIFAR100Test: "cifar-100-python.tar.gz",
    data.SVHNTest: "test_32x32.mat",
    data.CelebATest: "img_align_celeba",
    data.MNISTTest: "t10k-images-idx3-ubyte.gz",
    data.FashionMNISTTest: "t10k-images-idx3-ubyte.gz",
    data.Textures: "dtd-r1.0.1.tar.gz",
}


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("kind", [*PUBLISHED, *PUBLISHED_TESTS])
def test_without_a_network_one_sentence_says_what_to_put_where(tmp_path, no_network, kind, download):
    options = {} if kind is data.ImageNet32 else {"download": download}
    found = kind(str(tmp_path), **options)
    with pytest.raises(UserError, match=(PUBLISHED | PUBLISHED_TESTS)[kind]) as caught:
        found.load() if isinstance(found, ImageData) else found.load(Like())
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "://" not in str(caught.value)


@pytest.mark.parametrize("kind", [data.CIFAR10, data.CIFAR100, data.SVHN])
def test_a_damaged_archive_is_named(tmp_path, no_network, kind):
    (tmp_path / PUBLISHED[kind]).write_bytes(b"cut off")
    with pytest.raises(UserError, match=f"{PUBLISHED[kind]} is damaged") as caught:
        _ = kind(root=str(tmp_path)).train_set
    assert "\n" not in str(caught.value)


def test_damaged_archives_of_other_sets_are_named(tmp_path, no_network):
    (tmp_path / "train_data_batch_1.npz").write_bytes(b"cut off")
    with pytest.raises(UserError, match="train_data_batch_1"):
        _ = data.ImageNet32(str(tmp_path)).train_set
    np.savez(tmp_path / "train_data_batch_1.npz", data=noise(2, 9))
    with pytest.raises(UserError, match=r"train_data_batch_1.*\(N, 3072\)"):
        _ = data.ImageNet32(str(tmp_path)).train_set
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    with gzip.open(raw / "t10k-images-idx3-ubyte.gz", "wb") as file:
        file.write(b"cut off")
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        data.MNISTTest(root=str(tmp_path)).load(Like())


SYNTHETIC = [data.ConstantColours, data.UniformNoise, data.InterpolatedImages, data.Inverted, data.PermutedPixels]


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize(("size", "channels"), [(8, 3), (5, 1)])
def test_made_sets_have_the_shape_of_the_data_and_depend_on_the_seed_alone(kind, size, channels):
    like = Like(size, channels)
    torch.manual_seed(0)
    first = kind(n=15, seed=4).load(like)
    torch.manual_seed(1)
    again, other = kind(n=15, seed=4).load(like), kind(n=15, seed=5).load(like)
    assert first.images.shape == (15, channels, size, size), kind
    assert first.images.dtype == torch.uint8, kind
    assert torch.equal(first.images, again.images), kind
    assert not torch.equal(first.images, other.images), kind
    assert first.name == kind.name
    assert len(kind().load(like)) == (20 if kind is data.InterpolatedImages else 120), kind


def test_made_sets_are_what_they_say():
    like = Like()
    x = like.test_set.images
    assert torch.equal(data.Inverted().load(like).images, 255 - x)
    mean = (x[:-7].double() + x[7:].double()) / 2
    assert torch.equal(data.InterpolatedImages(offset=7).load(like).images.double(), (mean + 0.25).round())
    permuted = data.PermutedPixels().load(like).images
    assert not torch.equal(permuted, x)

    # Pixels move whole: as numbers in base 256, they are the same multiset in each image.
    def pixels(images):
        return (images.long() * torch.tensor([1, 256, 65536]).view(1, 3, 1, 1)).sum(1).flatten(1).sort(1).values

    assert torch.equal(pixels(permuted), pixels(x))
    orders = [torch.equal(a, b) for a, b in zip(permuted[:5].flatten(2), x[:5].flatten(2), strict=True)]
    assert not any(orders)
    constant = data.ConstantColours().load(like).images
    assert torch.equal(constant, constant[:, :, :1, :1].expand_as(constant))
    assert len(constant.unique(dim=0)) == 120
    uniform = data.UniformNoise(n=500).load(like).images
    assert torch.equal(uniform.unique(), torch.arange(256, dtype=torch.uint8))
    # The mean of 96,000 values of variance (256² − 1)/12 is within five standard errors.
    assert abs(uniform.double().mean() - 127.5) < 5 * ((256**2 - 1) / 12 / uniform.numel()) ** 0.5


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (data.CIFAR10Test, cifar10),
        (data.CIFAR100Test, cifar100),
        (data.SVHNTest, svhn),
        (data.CelebATest, celeba),
        (data.MNISTTest, mnist),
        (data.FashionMNISTTest, lambda root: mnist(root, "FashionMNIST")),
        (data.Textures, textures),
    ],
)
@pytest.mark.parametrize(("size", "channels"), [(32, 3), (28, 1), (8, 3)])
def test_other_data_take_the_shape_of_the_models_own(tmp_path, any_checksum, no_network, kind, make, size, channels):
    made = make(tmp_path)
    test = made if kind is data.Textures else made[1]
    like = Like(size, channels)
    found = kind(root=str(tmp_path)).load(like)
    assert found.images.shape == (len(test), channels, size, size), kind
    few = kind(root=str(tmp_path), n=2, seed=3).load(like)
    assert len(few) == 2, kind
    assert torch.equal(few.images, kind(root=str(tmp_path), n=2, seed=3).load(like).images), kind
    if kind in (data.MNISTTest, data.FashionMNISTTest) and (size, channels) == (28, 1):
        assert np.array_equal(found.images[:, 0].numpy(), test), kind
    if kind in (data.CIFAR10Test, data.CIFAR100Test, data.SVHNTest) and (size, channels) == (32, 3):
        assert np.array_equal(found.images.numpy().reshape(len(test), -1), test.reshape(len(test), -1)), kind


def test_textures_are_the_unscaled_corner(tmp_path):
    pixels = textures(tmp_path)
    corner = pixels[:, :32, :32].transpose(0, 3, 1, 2)
    assert np.array_equal(data.Textures(str(tmp_path)).load(Like(32)).images.numpy(), corner)


def test_own_images_are_the_test_part_or_all(tmp_path):
    pixels = noise(10, 8, 8, 3)
    np.savez(tmp_path / "all.npz", images=pixels)
    np.savez(tmp_path / "split.npz", train_images=pixels, test_images=pixels[:3])
    for file, n in (("all.npz", 10), ("split.npz", 3)):
        found = data.ImagesFrom(str(tmp_path / file), "mine").load(Like())
        assert found.name == "mine"
        assert {x.tobytes() for x in found.images.permute(0, 2, 3, 1).numpy()} == {x.tobytes() for x in pixels[:n]}
    assert len(data.ImagesFrom(str(tmp_path / "all.npz"), "mine", n=4).load(Like())) == 4


@pytest.mark.parametrize("kind", [*SYNTHETIC, *PUBLISHED_TESTS, lambda n: data.ImagesFrom("x", "y", n=n)])
@pytest.mark.parametrize("n", [0, -1])
def test_an_impossible_number_of_images_is_named(kind, n):
    with pytest.raises(UserError, match=f"n: {n} "):
        kind(n=n)


def test_an_impossible_offset_is_named():
    with pytest.raises(UserError, match="offset: 0 "):
        data.InterpolatedImages(offset=0)
    with pytest.raises(UserError, match="offset: 120 is too much for the 120"):
        data.InterpolatedImages(offset=120).load(Like())
