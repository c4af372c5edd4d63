"""The feature extractors, and the classifier that is one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet, to_uint8
from ebmzoo.errors import UserError
from ebmzoo.metrics import Classifier, ClassifierFeatures, FeatureExtractor, InceptionV3, Pixels, extract, inception
from ebmzoo.metrics.classifier import ResNetClassifier, augment, one_cycle
from ebmzoo.tasks.conditional import classifier_outputs

quiet = partial(
    Trainer, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, devices=1
)


def stripes(n: int, seed: int) -> TensorDataset:
    """Noisy images of two classes: horizontal and vertical stripes."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=rng)
    wave = torch.tensor([1.0, -1.0]).repeat(4)[:, None].expand(8, 8)
    images = torch.where(labels[:, None, None] == 0, wave, wave.T) * 0.5 + 0.1 * torch.randn(n, 8, 8, generator=rng)
    return TensorDataset(images[:, None], labels)


def small_classifier(**changes: Any) -> Classifier:
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    return Classifier(
        **{"in_channels": 1, "size": 8, "num_classes": 2, "width": 8, "blocks": [1, 1], "name": "stripes"}
        | {"crop_padding": 1, "flip": False, "optimizer": optimizer}
        | changes
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    seed_everything(0, verbose=False)
    model = small_classifier()
    trainer = quiet(max_epochs=4, default_root_dir=tmp_path_factory.mktemp("run"), enable_checkpointing=False)
    trainer.fit(model, DataLoader(stripes(256, 0), batch_size=32, shuffle=True, drop_last=True))
    path = tmp_path_factory.mktemp("classifier") / "last.ckpt"
    trainer.save_checkpoint(path)
    return model, path


@pytest.fixture
def random_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InceptionV3:
    """Inception with random weights, in a file of the real one's layout."""
    pytest.importorskip("torch_fidelity")
    import torch_fidelity.feature_extractor_inceptionv3 as theirs

    torch.manual_seed(0)
    path = tmp_path / "inception.pth"
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    net = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(net.state_dict(), path)
    monkeypatch.undo()
    monkeypatch.setattr(inception, "INCEPTION_SHA256", inception.sha256(path))
    return InceptionV3(str(path))


# every extractor


@pytest.fixture(params=["pixels", "classifier", "inception"])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    if request.param == "pixels":
        return Pixels()
    if request.param == "classifier":
        return ClassifierFeatures(str(request.getfixturevalue("trained")[1]))
    found: FeatureExtractor = request.getfixturevalue("random_inception")
    return found


def test_features_do_not_depend_on_batching_mode_or_autocast(extractor: FeatureExtractor) -> None:
    images = stripes(7, 1).tensors[0]
    assert extractor.available() is None
    extractor.train()
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = extract(extractor, images, batch_size=3)
    again, logits_again = extract(extractor.eval(), iter([images[:2], images[2:]]), batch_size=7)
    assert features.dtype == torch.float32
    assert features.ndim == 2
    assert len(features) == 7
    assert not features.requires_grad
    torch.testing.assert_close(features, again, rtol=1e-4, atol=1e-5)
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert (logits is None) == (logits_again is None)
    if logits is not None and logits_again is not None:
        torch.testing.assert_close(logits, logits_again, rtol=1e-4, atol=1e-5)


def test_extract_refuses_diverged_images_and_none(extractor: FeatureExtractor) -> None:
    with pytest.raises(UserError, match="NaN"):
        extract(extractor, torch.full((2, 1, 8, 8), float("nan")))
    with pytest.raises(UserError, match="no images"):
        extract(extractor, [])


def test_only_inception_figures_bear_the_field_s_names(trained: tuple[Classifier, Path]) -> None:
    found = [
        (e.name, e.fd_name, e.kd_name, e.is_name)
        for e in (InceptionV3(), Pixels(), ClassifierFeatures(str(trained[1])))
    ]
    assert found == [
        ("inception", "fid", "kid", "is"),
        ("pixels", "fd_pixels", "kd_pixels", "is_pixels"),
        ("stripes", "fd_stripes", "kd_stripes", "is_stripes"),
    ]


def test_pixels_are_the_image() -> None:
    images = torch.rand(2, 3, 4, 5)
    features, logits = extract(Pixels(), images)
    assert torch.equal(features, images.flatten(1))
    assert logits is None
    with pytest.raises(UserError, match="3072"):
        extract(Pixels(), torch.zeros(1, 3, 33, 32))


# Inception


def test_inception_sees_exact_bytes(random_inception: InceptionV3) -> None:
    """Every stored byte b, as b/127.5 − 1, reaches the network as b again; grey is three equal channels."""
    seen: list[Tensor] = []

    class Spy(nn.Module):
        fc = nn.Linear(2048, 1008)

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return torch.zeros(len(x), 2048)

    random_inception.net = Spy()
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    random_inception(stored.float() / 127.5 - 1)
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0], stored.expand(1, 3, 16, 16))


def test_inception_agrees_with_torch_fidelity(random_inception: InceptionV3) -> None:
    """The logits are theirs without bias, up to the resizing, which a 299-pixel image does not need."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], random_inception.weights)
    stored = torch.randint(0, 256, (1, 3, 299, 299), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, logits = theirs(stored)
    found = extract(random_inception, stored.float() / 127.5 - 1)
    assert found[1] is not None
    torch.testing.assert_close(found[0], features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1], logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="1 or 3 channels"):
        extract(random_inception, torch.zeros(1, 2, 8, 8))


def test_inception_without_network_says_which_file_goes_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(inception, "find_spec", lambda _: True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "checkpoints"
    problem = InceptionV3().available()
    assert problem is not None
    assert str(folder / "weights-inception-2015-12-05-6726825d.pth") in problem
    assert inception.INCEPTION_URL in problem
    assert "\n" not in problem
    with pytest.raises(UserError, match="could not be downloaded"):
        extract(InceptionV3(), torch.zeros(2, 3, 8, 8))
    # pytorch-fid's name for the same file is found too, and a damaged one is not loaded
    twin = folder / "pt_inception-2015-12-05-6726825d.pth"
    twin.write_bytes(b"half a download")
    assert f"{twin} is damaged" in (InceptionV3().available() or "")
    monkeypatch.setattr(inception, "INCEPTION_SHA256", inception.sha256(twin))
    assert InceptionV3().available() is None
    assert "no Inception weights at elsewhere.pth" in (InceptionV3("elsewhere.pth").available() or "")


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_inception_without_torch_fidelity_names_the_command() -> None:
    assert "pip install 'ebmzoo[all]'" in (InceptionV3().available() or "")


# classifier


def test_classifier_learns_and_its_features_are_its_own(trained: tuple[Classifier, Path]) -> None:
    model, path = trained
    held_out = stripes(200, 5)
    (result,) = quiet().test(model, DataLoader(held_out, batch_size=64), verbose=False)
    assert result["test/accuracy"] > 0.95
    with torch.no_grad():
        features, logits = model.eval()(held_out.tensors[0])
    found = extract(ClassifierFeatures(str(path)), held_out.tensors[0], batch_size=200)
    assert found[1] is not None
    assert found[0].shape == (200, 16)
    torch.testing.assert_close(found[0], features)
    torch.testing.assert_close(found[1], logits)
    assert (found[1].argmax(1) == held_out.tensors[1]).float().mean().item() == pytest.approx(result["test/accuracy"])
    fingerprint = ClassifierFeatures(str(path)).fingerprint
    assert fingerprint is not None
    assert len(bytes.fromhex(fingerprint)) == 6


class Malice:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_classifier_features_refuse_other_files(tmp_path: Path, trained: tuple[Classifier, Path]) -> None:
    missing = tmp_path / "none.ckpt"
    problem = ClassifierFeatures(str(missing)).available() or ""
    assert "ebmzoo fit --prepare" in problem
    assert "--data ebmzoo.data.ImageFolder --data.path DIR" in problem
    good = torch.load(trained[1], weights_only=True)
    bad: dict[str, Any] = {
        "malicious": {"classifier": good["classifier"], "state_dict": Malice(tmp_path / "owned")},
        "other_method": {"state_dict": good["state_dict"]},
        "other_width": good | {"classifier": good["classifier"] | {"width": 4}},
        "list": [1, 2],
    }
    for name, content in bad.items():
        path = tmp_path / name
        torch.save(content, path)
        problem = ClassifierFeatures(str(path)).available()
        assert problem is not None, name
        assert problem.startswith(str(path)), name
        assert "is not a classifier's checkpoint" in problem, name
    assert not (tmp_path / "owned").exists()
    truncated = tmp_path / "truncated"
    truncated.write_bytes(trained[1].read_bytes()[:1000])
    assert "is not a classifier's checkpoint" in (ClassifierFeatures(str(truncated)).available() or "")
    (tmp_path / "empty").touch()
    assert "is not a classifier's checkpoint" in (ClassifierFeatures(str(tmp_path / "empty")).available() or "")


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 16, 16)], ids=["channels", "size"])
def test_classifier_refuses_other_images(shape: tuple[int, ...], trained: tuple[Classifier, Path]) -> None:
    with pytest.raises(UserError, match=r"images \(1, 8, 8\)"):
        extract(ClassifierFeatures(str(trained[1])), torch.zeros(2, *shape))
    with pytest.raises(UserError, match=r"model\.in_channels and model\.size"):
        small_classifier()(torch.zeros(2, *shape))


def test_classifier_of_cifar_has_resnet18_s_size() -> None:
    """11,173,962: the count of the CIFAR ResNet-18 with ten classes."""
    net = ResNetClassifier(3, 10, 64, [2, 2, 2, 2])
    assert sum(p.numel() for p in net.parameters()) == 11_173_962


def test_learning_rate_cycle_ends_at_zero_and_needs_a_length(tmp_path: Path) -> None:
    loader = DataLoader(stripes(64, 0), batch_size=32)
    rates: list[float] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = quiet(max_epochs=5, enable_checkpointing=False, default_root_dir=tmp_path, callbacks=[Watch()])
    trainer.fit(small_classifier(), loader)
    assert len(rates) == 10
    assert max(rates) == pytest.approx(1e-2)
    assert rates.index(max(rates)) == 2
    assert rates[-1] < 1e-6
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        quiet(max_epochs=-1, enable_checkpointing=False, default_root_dir=tmp_path).fit(small_classifier(), loader)


@pytest.mark.parametrize("changes", [{"blocks": []}, {"blocks": [1, 0]}, {"crop_padding": 8}])
def test_classifier_refuses_impossible_settings(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"model\.{next(iter(changes))}"):
        small_classifier(**changes)


def test_augment_draws_every_shift_and_flip_and_nothing_else() -> None:
    torch.manual_seed(0)
    image = torch.arange(2 * 4 * 5.0).reshape(1, 2, 4, 5)
    padded = nn.functional.pad(image, (1, 1, 1, 1), mode="reflect")[0]
    shifts = [padded[:, r : r + 4, c : c + 5] for r in range(3) for c in range(3)]
    allowed = torch.stack([s for shift in shifts for s in (shift, shift.flip(2))])
    drawn = augment(image.expand(900, -1, -1, -1), 1, flip=True)
    match = (drawn[:, None] == allowed).flatten(2).all(2)
    assert match.any(1).all()
    assert (match.sum(0) > 20).all()
    assert torch.equal(augment(image, 0, flip=False), image)
    assert (
        (augment(image.expand(900, -1, -1, -1), 1, flip=False)[:, None] == allowed[::2]).flatten(2).all(2).any(1).all()
    )


class Stripes(ImageData):
    """Stripes of two directions, whose classes are called as `names` says, in any order of the folders."""

    name, size, channels = "stripes", 8, 1

    def __init__(self, *names: str, n: int = 256) -> None:
        super().__init__(batch_size=32)
        self.names, self.n = names, n

    def load(self) -> tuple[ImageSet, ImageSet]:
        images, labels = stripes(self.n, 0).tensors
        order = sorted(self.names)  # as folders are
        renamed = torch.tensor([order.index(name) for name in self.names])[labels]
        found = ImageSet(to_uint8(images), renamed, tuple(order), self.name)
        return found, found


def fitted(data: ImageData, path: Path, **changes: Any) -> Path:
    seed_everything(0, verbose=False)
    trainer = quiet(max_epochs=4, default_root_dir=path.parent, enable_checkpointing=False)
    trainer.fit(small_classifier(**changes), data)
    trainer.save_checkpoint(path)
    return path


def test_classes_are_matched_by_name_whatever_their_order(tmp_path: Path) -> None:
    """The same images in folders of another order: the accuracy of the same names is that of the first."""
    path = fitted(Stripes("one", "two"), tmp_path / "c.ckpt")
    classifier = ClassifierFeatures(str(path))
    assert classifier.classes == ("one", "two")
    images, labels = stripes(200, 5).tensors
    for classes, expected in ((("one", "two"), labels), (("two", "one"), 1 - labels)):
        logits = classifier_outputs(classifier, images, classes, 100, torch.device("cpu"), "judge")[1]
        assert (logits.argmax(1) == expected).float().mean() > 0.95
    with pytest.raises(UserError, match=r"judge: stripes was trained with the classes one, two, but 0, 1 are needed"):
        classifier_outputs(classifier, images, ("0", "1"), 100, torch.device("cpu"), "judge")


def test_a_checkpoint_without_names_is_taken_by_position(tmp_path: Path, trained: tuple[Classifier, Path]) -> None:
    classifier = ClassifierFeatures(str(trained[1]))
    assert classifier.classes is None
    logits = classifier_outputs(classifier, stripes(20, 5).tensors[0], ("x", "y"), 10, torch.device("cpu"), "judge")[1]
    assert logits.shape == (20, 2)


def test_classes_that_do_not_fit_are_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.num_classes is 12, but the data has 2 classes \(one, two\): set"):
        fitted(Stripes("one", "two"), tmp_path / "c.ckpt", num_classes=12)
    path = fitted(Stripes("one", "two"), tmp_path / "c.ckpt")
    model = small_classifier()
    saved = torch.load(path, weights_only=True)
    model.on_load_checkpoint(saved)
    with pytest.raises(UserError, match="trained with the classes one, two, but the data has 0, 1"):
        quiet().test(model, Stripes("0", "1"), verbose=False)


def test_a_run_resumed_with_more_epochs_follows_the_longer_cycle(tmp_path: Path) -> None:
    path = fitted(Stripes("one", "two"), tmp_path / "c.ckpt")
    model = small_classifier()
    trainer = quiet(max_epochs=8, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.fit(model, Stripes("one", "two"), ckpt_path=path)
    assert trainer.global_step == 64
    (schedule,) = [config.scheduler for config in trainer.lr_scheduler_configs]
    assert schedule.get_last_lr() == [pytest.approx(1e-2 * one_cycle(64, 64), abs=1e-9)]
    halfway = torch.load(path, weights_only=True)["lr_schedulers"][0]
    assert halfway["last_epoch"] == 32
    assert one_cycle(32, 64) > 100 * one_cycle(32, 32)


def test_a_schedule_of_the_version_before_is_taken_up(tmp_path: Path) -> None:
    path = fitted(Stripes("one", "two"), tmp_path / "c.ckpt")
    saved = torch.load(path, weights_only=True)
    parameter = torch.nn.Parameter(torch.zeros(1))
    before = torch.optim.lr_scheduler.OneCycleLR(
        torch.optim.AdamW([parameter], lr=1e-2), 1e-2, 33, cycle_momentum=False
    ).state_dict()
    saved["lr_schedulers"] = [{k: v for k, v in before.items() if k != "_anneal_func_type"} | {"last_epoch": 32}]
    torch.save(saved, path)
    trainer = quiet(max_epochs=8, default_root_dir=tmp_path, enable_checkpointing=False)
    trainer.fit(small_classifier(), Stripes("one", "two"), ckpt_path=path)
    (schedule,) = [config.scheduler for config in trainer.lr_scheduler_configs]
    assert schedule.base_lrs == [pytest.approx(1e-2)]


@pytest.mark.parametrize("steps", [4, 37, 100])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, steps, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step < steps - 1:
            theirs.step()
