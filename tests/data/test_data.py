"""Sets in memory, the order of the data, exact resumption, and images of one's own."""

import io
import subprocess
import sys
import tarfile
import warnings
import zipfile
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from ebmzoo.data import Digits, ImageData, ImageFolder, ImageSet, UniformNoise, prepare, to_float, to_uint8
from ebmzoo.data.batches import EpochSampler, InMemory
from ebmzoo.data.decode import Frame
from ebmzoo.errors import UserError


def counted(n, size=2, channels=3):
    """A set whose image i holds i in its first two pixels and has the label i % 3."""
    images = torch.zeros(n, channels, size, size, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(n) // 256, torch.arange(n) % 256
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), "counted")


class Counted(ImageData):
    name, size, channels = "counted", 2, 3

    def load(self):
        return counted(43), counted(1100)


def numbers(images):
    return (images[:, 0, 0, 0].int() * 256 + images[:, 0, 0, 1].int()).tolist()


def test_every_value_survives_the_round_trip_and_the_ends_are_exact():
    values = torch.arange(256, dtype=torch.uint8)
    x = to_float(values)
    assert torch.equal(to_uint8(x), values)
    assert (x[0].item(), x[255].item()) == (-1.0, 1.0)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_an_image_set_takes_and_converts_by_index():
    images = counted(9)
    assert len(images) == 9
    assert numbers(images.take([4, 2]).images) == [4, 2]
    assert images.take([4, 2]).labels.tolist() == [1, 2]
    assert torch.equal(images.float(slice(3)), to_float(images.images[:3]))


@pytest.mark.parametrize(
    ("images", "labels", "found"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), "float32"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"\(2, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.zeros(3).long(), r"\(3,\)"),
        (torch.zeros(2, 3, 4, 4).byte(), torch.tensor([0, 2]), "from 0 to 2"),
    ],
)
def test_an_image_set_says_what_it_found(images, labels, found):
    with pytest.raises(UserError, match=found):
        ImageSet(images, labels, ("a", "b"), "bad")


def test_prepare_mirrors_about_half_of_the_images_and_changes_nothing_else():
    images = torch.randint(0, 256, (400, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    flipped, plain = prepare(images, flip=True), prepare(images)
    assert torch.equal(plain, to_float(images))
    assert plain.is_contiguous(memory_format=torch.channels_last)
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(flipped == plain).flatten(1).all(1))
    assert 150 < mirrored.sum() < 250


def epoch(sampler, number):
    sampler.set_epoch(number)
    return list(sampler)


def test_the_order_is_a_function_of_seed_and_epoch():
    data = InMemory(counted(40))
    first, again, other = (EpochSampler(data, 4, seed=seed) for seed in (1, 1, 2))
    assert epoch(again, 3) == epoch(first, 3) == epoch(first, 3)
    assert len({tuple(epoch(s, e)) for s in (first, other) for e in range(3)}) == 6
    assert sorted(epoch(first, 5)) == list(range(40))


@pytest.mark.parametrize("world", [2, 3])
def test_the_processes_share_each_global_batch(world):
    data = InMemory(counted(50))
    whole = epoch(EpochSampler(data, 4 * world), 7)
    parts = [epoch(EpochSampler(data, 4, rank=rank, world=world), 7) for rank in range(world)]
    batches = [part[i : i + 4] for i in range(0, len(parts[0]), 4) for part in parts]
    assert [index for batch in batches for index in batch] == whole
    assert len(set(whole)) == len(whole) == 50 // (4 * world) * 4 * world


def test_a_module_under_a_trainer_takes_its_own_rank():
    def first(rank, world):
        data = Counted(batch_size=4)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        return [number for images, _ in data.train_dataloader() for number in numbers(images)]

    assert set(first(0, 2)).isdisjoint(first(1, 2))
    assert first(0, 1) != first(0, 2)


def test_the_loaders_draw_nothing_from_the_global_random_state():
    data = Counted(batch_size=4)
    before = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(L.LightningModule):
    """Remembers which images it was given."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = torch.nn.Linear(12, 1), []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        assert images.dtype == torch.float32
        self.seen.append(numbers(to_uint8(images)))
        assert (labels == torch.tensor(self.seen[-1]) % 3).all()
        return self.net(images.flatten(1)).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(folder, *callbacks, resume=None, **options):
    model = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    options = {"max_epochs": 3, "accelerator": "cpu", "default_root_dir": folder, **quiet, **options}
    options.setdefault("enable_checkpointing", bool(callbacks))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        L.Trainer(callbacks=list(callbacks), **options).fit(
            model, datamodule=Counted(batch_size=4, seed=1), ckpt_path=resume, weights_only=True
        )
    assert not any("not resumable" in str(warning.message) for warning in caught)
    return model.seen


# Ten batches an epoch.
@pytest.mark.parametrize(
    ("steps", "when", "options"),
    [
        (3, {"every_n_train_steps": 3}, {}),
        (14, {"every_n_train_steps": 14}, {}),
        (10, {"every_n_train_steps": 10}, {}),
        (20, {"every_n_train_steps": 20}, {}),
        (10, {"every_n_epochs": 1, "save_on_train_epoch_end": True}, {}),
        (5, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, {"val_check_interval": 5}),
        (10, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, {}),
        (4, {"every_n_train_steps": 4}, {"limit_train_batches": 4}),
        (6, {"every_n_train_steps": 6}, {"limit_train_batches": 4}),
        (13, {"every_n_train_steps": 13}, {"max_epochs": -1, "max_steps": 27}),
    ],
)
def test_a_resumed_run_sees_the_batches_that_it_would_have_seen(tmp_path, steps, when, options):
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
    whole = fit(tmp_path, keep, **options)
    assert len({tuple(batch) for batch in whole}) == len(whole)
    assert fit(tmp_path, resume=tmp_path / f"step={steps}.ckpt", **options) == whole[steps:]


def test_predict_and_test_see_every_image_once_in_order(tmp_path):
    class Reader(Recorder):
        def predict_step(self, batch, batch_idx):
            return batch[0]

    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    data = Counted(batch_size=128, flip=True)
    seen = torch.cat(trainer.predict(Reader(), datamodule=data))
    assert numbers(to_uint8(seen)) == list(range(1100))


def test_validation_images_are_set_aside_only_when_asked():
    plain, split = Counted(), Counted(val_fraction=0.1, max_train=20, seed=5)
    assert numbers(plain.train_set.images) == list(range(43))
    assert len(plain.val_set) == len(set(numbers(plain.val_set.images))) == 1000
    assert numbers(plain.val_set.images) == numbers(Counted(seed=9).val_set.images)
    train, val = set(numbers(split.train_set.images)), set(numbers(split.val_set.images))
    assert (len(train), len(val), len(train & val)) == (20, 4, 0)
    assert numbers(split.train_set.images) == numbers(Counted(val_fraction=0.1, max_train=20, seed=5).train_set.images)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"max_train": 0}, "max_train"),
        ({"seed": -1}, "seed"),
        ({"max_train": 44}, "max_train.* 43 "),
        ({"batch_size": 44}, "batch_size: 44 .* 43 "),
    ],
)
def test_impossible_numbers_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        Counted(**arguments).train_dataloader()


def test_a_set_of_another_size_says_both_sizes():
    class Wrong(Counted):
        size = 4

    with pytest.raises(UserError, match=r"\(43, 3, 2, 2\).*\(N, 3, 4, 4\)"):
        _ = Wrong().train_set


def test_digits_are_all_there_exactly_and_in_both_sets():
    from sklearn.datasets import load_digits

    digits, values = Digits(), load_digits().data
    both = torch.cat([digits.train_set.images, digits.test_set.images])
    assert both.shape == (1797, 1, 8, 8)
    assert len(digits.test_set) == 297
    grey = (both.double() * 16 / 255).round().flatten(1).numpy()
    assert np.array_equal(np.unique(grey, axis=0), np.unique(values, axis=0))
    assert digits.test_set.labels.bincount().min() > 15


# Images of one's own.


def picture(colour=(200, 100, 50), size=(6, 6), mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tarred(path, files):
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def greys(found):
    """The first value of each image, with its class."""
    first = found.images[:, 0, 0, 0].tolist()
    return sorted((value, found.classes[label]) for value, label in zip(first, found.labels.tolist(), strict=True))


TRAIN = [("cat", 10), ("cat", 20), ("ant", 30), ("ant", 35)]
SPLIT = {f"train/{c}/{v}.png": picture((v, 0, 0)) for c, v in TRAIN} | {
    "test/cat/a.png": picture((40, 0, 0)),
    "test/ant/deep/b.PNG": picture((50, 0, 0), (9, 6)),
    ".hidden/c.png": b"",
    "train/cat/.d.png": b"",
    "README.md": b"text",
}
CONTAINERS = {
    "folder": lambda path, files: write(path / "mine", files),
    "tar": lambda path, files: tarred(path / "mine.tar", files),
    "tar.xz": lambda path, files: tarred(path / "mine.tar.xz", files),
    "tar.gz": lambda path, files: tarred(path / "mine.tar.gz", files),
    "zip": lambda path, files: zipped(path / "mine.zip", files),
    "wrapped zip": lambda path, files: zipped(path / "mine.zip", {"top/" + name: x for name, x in files.items()}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_folders_and_archives_are_read_alike(tmp_path, container):
    before = set(tmp_path.rglob("*"))
    path = CONTAINERS[container](tmp_path, SPLIT)
    made = set(tmp_path.rglob("*")) - before
    data = ImageFolder(str(path), 6)
    assert data.classes == ("ant", "cat")
    assert greys(data.train_set) == [(10, "cat"), (20, "cat"), (30, "ant"), (35, "ant")]
    assert greys(data.test_set) == [(40, "cat"), (50, "ant")]
    assert data.name == "mine"
    assert set(tmp_path.rglob("*")) - before == made
    folder = ImageFolder(str(CONTAINERS["folder"](tmp_path / "again", SPLIT)), 6)
    assert torch.equal(data.train_set.images, folder.train_set.images)


@pytest.mark.parametrize("prefix", ["", "one/", "{}/"])
def test_without_a_split_about_a_tenth_is_the_test_set(tmp_path, prefix):
    files = {f"{prefix.format('ab'[v % 2])}{v:02}.png": picture((v, 0, 0)) for v in range(40)}
    path = str(write(tmp_path, files))
    data, other = ImageFolder(path, 6), ImageFolder(path, 6, seed=3)
    assert 1 <= len(data.test_set) <= 10
    everything = greys(data.train_set) + greys(data.test_set)
    assert sorted(value for value, _ in everything) == list(range(40))
    assert torch.equal(data.test_set.images, other.test_set.images)
    if prefix == "{}/":
        assert all(name == "ab"[value % 2] for value, name in everything)


def test_a_class_folder_comes_in_random_order(tmp_path):
    files = {f"{c}/{v:02}.png": picture((v, 0, 0)) for c in "ab" for v in range(20)}
    labels = ImageFolder(str(write(tmp_path, files)), 6).train_set.labels
    assert 0 < labels[:10].sum() < 10


def test_images_of_every_mode_become_rgb_or_grey():
    rgb, grey = Frame(2, 3), Frame(2, 1)
    for mode in ("RGB", "RGBA", "P", "CMYK", "L", "LA", "1", "I;16"):
        white = Image.new(mode, (2, 2), {"CMYK": (0, 0, 0, 0), "I;16": 65535, "P": 0, "1": 1}.get(mode, "white"))
        if mode == "P":
            white.putpalette([255, 255, 255])
        assert (rgb(white) == 255).all(), mode
        assert grey(white).shape == (1, 2, 2), mode
        assert (grey(white) == 255).all(), mode
    assert rgb(Image.new("RGB", (2, 2), (1, 2, 3)))[:, 0, 0].tolist() == [1, 2, 3]
    assert (rgb(Image.new("I;16", (2, 2), 257 * 77)) == 77).all()
    assert (rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0))) == 255).all()
    assert rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 51)))[:, 0, 0].tolist() == [204] * 3


def test_the_crop_keeps_what_it_says():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    image = Image.fromarray(wide)
    assert (Frame(4, 3)(image) == 200).all()
    scaled = np.asarray(image.resize((4, 2), Image.Resampling.BICUBIC))[:, 1:3]
    assert np.array_equal(Frame(2, 3)(image), scaled.transpose(2, 0, 1))
    assert np.array_equal(Frame(4, 3, "none")(Image.fromarray(wide[:, 2:6])), Frame(4, 3)(image))
    assert Frame(4, 3, "none")(image).min() < 100
    assert np.array_equal(Frame(3, 3, "top_left")(image), wide.transpose(2, 0, 1)[:, :3, :3])
    assert (Frame(4, 3, box=(2, 0, 6, 4))(image) == 200).all()


@pytest.mark.parametrize("ending", ["RGBA", "L", "I;16", "CMYK"])
def test_mixed_modes_and_sizes_in_one_folder(tmp_path, ending):
    name = "b.tif" if ending == "CMYK" else "b.png"
    deep = io.BytesIO()
    Image.new("I;16", (8, 6), 65535).save(deep, "PNG")
    other = deep.getvalue() if ending == "I;16" else picture((255,) * 3, (8, 6), ending)
    files = {"a.png": picture((255,) * 3, (5, 9)), name: other}
    data = ImageFolder(str(write(tmp_path, files)), 4)
    assert (torch.cat([data.train_set.images, data.test_set.images]) == 255).all()


def test_arrays_of_either_layout(tmp_path):
    images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
    labels = np.array([0, 1, 1, 0, 2], np.uint8)
    np.savez(
        tmp_path / "s.npz", train_images=images, train_labels=labels, test_images=images[:2], test_labels=labels[:2]
    )
    data = ImageFolder(str(tmp_path / "s.npz"), 4)
    assert data.classes == ("0", "1", "2")
    assert {(x.tobytes(), y) for x, y in zip(images, labels.tolist(), strict=True)} == {
        (x.permute(1, 2, 0).numpy().tobytes(), y)
        for x, y in zip(data.train_set.images, data.train_set.labels.tolist(), strict=True)
    }
    assert len(data.test_set) == 2
    np.savez(tmp_path / "g.npz", images=images[..., 0].repeat(4, 0))
    grey = ImageFolder(str(tmp_path / "g.npz"), 8, 1)
    assert len(grey.train_set) + len(grey.test_set) == 20
    assert grey.train_set.images.shape[1:] == (1, 8, 8)


def broken(path, content, **files):
    return write(
        path, {"train/a/good.png": picture(), "test/a/good.png": picture(), **files, "train/a/bad.png": content}
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: broken(p, b"no image"), r"train/a/bad\.png cannot be read as an image"),
        (lambda p: broken(p, picture(size=(90, 90))[:150]), r"train/a/bad\.png cannot be read as an image"),
        (lambda p: p, r"contains no image files, such as \.png"),
        (lambda p: p / "nowhere", "nowhere does not exist"),
        (lambda p: write(p, {"a.7z": b"x"}) / "a.7z", "unknown kind"),
        (lambda p: write(p, {"train/a.png": picture()}), "none in test/"),
        (lambda p: write(p, {"a/a.png": picture(), "b.png": picture()}), r"b\.png is in no class folder"),
        (lambda p: write(p, {"a.png": picture()}), "contains 1 image; .* 2 or more"),
        (lambda p: tarred(p / "a.tar", {"../a.png": picture()}), "'../a.png' points outside"),
        (lambda p: zipped(p / "a.zip", {"/etc/a.png": picture()}), "'/etc/a.png' points outside"),
        (lambda p: zipped(p / "a.zip", {"a/../../a.png": picture()}), "points outside"),
        (lambda p: write(p, {"a.tar.xz": b"not an archive"}) / "a.tar.xz", r"a\.tar\.xz is not a complete archive"),
        (lambda p: write(p, {"a.zip": b"not an archive"}) / "a.zip", r"a\.zip is not a complete archive"),
        (lambda p: write(p, {"a.npz": b"not an archive"}) / "a.npz", "a.npz is not a readable"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        _ = ImageFolder(str(make(tmp_path)), 6).train_set
    assert "\n" not in str(caught.value)


def test_a_cut_archive_and_a_link_are_named(tmp_path):
    whole = tarred(tmp_path / "a.tar.xz", {f"{i}.png": np.random.default_rng(i).bytes(9999) for i in range(9)})
    whole.write_bytes(whole.read_bytes()[:20000])
    with pytest.raises(UserError, match=r"a\.tar\.xz is not a complete archive|cannot be read"):
        _ = ImageFolder(str(whole), 6).train_set
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"a\.png is a link"):
        _ = ImageFolder(str(tmp_path / "l.tar"), 6).train_set


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "contains x; it must contain images"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "contains train_images; it must contain images"),
        ({"images": np.zeros((2, 4, 4))}, r"float64 of shape \(2, 4, 4\)"),
        ({"images": np.zeros((2, 3, 4, 9), np.uint8)}, r"\(2, 3, 4, 9\)"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "labels is"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": -np.ones(2, int)},
            "from -1 to -1; it must be 2 integers from 0",
        ),
        ({"images": np.array([None])}, "plain arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=message):
        _ = ImageFolder(str(tmp_path / "a.npz"), 4).train_set


@pytest.mark.parametrize("container", ["folder", "zip"])
def test_more_than_the_memory_is_refused(tmp_path, container):
    path = CONTAINERS[container](tmp_path, SPLIT)
    with pytest.raises(UserError, match="max_gib"):
        _ = ImageFolder(str(path), 6, max_gib=5 * 3 * 36 / 2**30).train_set
    assert len(ImageFolder(str(path), 6, max_gib=6 * 3 * 36 / 2**30).train_set) == 4


@pytest.mark.parametrize("arguments", [{"size": 0}, {"size": 4, "channels": 2}])
def test_impossible_shapes_are_named_at_once(arguments):
    with pytest.raises(UserError, match=list(arguments)[-1]):
        ImageFolder("x", **arguments)


def test_the_command_line_reads_any_set_with_what_is_out_of_distribution():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    ood = '[{"class_path": "ebmzoo.data.UniformNoise", "init_args": {"n": 3}}, {"class_path": "ebmzoo.data.Inverted"}]'
    arguments = ["--data=ebmzoo.data.Digits", "--data.flip=true", f"--data.ood={ood}"]
    data = parser.instantiate(parser.parse_args(arguments)).data
    assert isinstance(data, Digits)
    assert data.flip
    assert isinstance(data.ood[0], UniformNoise)
    assert [len(x.load(data)) for x in data.ood] == [3, 297]


def test_the_import_needs_no_optional_package():
    # torchmetrics, which lightning imports, imports matplotlib where it is installed.
    code = "import lightning, sys; old = {*sys.modules}; import ebmzoo.data; new = {*sys.modules} - old; "
    code += "assert 'ebmzoo.data.folder' in new and not new & {'sklearn', 'matplotlib', 'wandb'}"
    subprocess.run([sys.executable, "-c", code], check=True)
