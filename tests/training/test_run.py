"""Callbacks beside training: grids, checkpoints, curves."""

import pytest
import torch
from PIL import Image

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.curves import draw_curves, read_curve, smooth
from ebmzoo.report.pictures import grid, save_grid
from ebmzoo.training.callbacks import SampleGrid
from ebmzoo.training.checkpoint import LastCheckpoint, load, read
from support.tiny import TinyData, liebm, stage, trainer, without_latent


def weights_after(tmp_path, *callbacks):
    method = liebm(encoder_stage=stage(epochs=0))
    torch.manual_seed(1)
    trainer(tmp_path, max_epochs=2, callbacks=list(callbacks)).fit(method, TinyData())
    return method.state_dict()


def test_drawing_grids_does_not_change_training(tmp_path):
    plain, drawn = weights_after(tmp_path), weights_after(tmp_path, SampleGrid(every_n_steps=3, n=4))
    assert all(torch.equal(plain[name], drawn[name]) for name in plain)
    names = sorted(p.name for p in (tmp_path / "samples").glob("*.png"))
    assert names == ["step_0000003.png", "step_0000006.png", "step_0000008.png"]
    assert len(list((tmp_path / "samples_no_mcmc").glob("*.png"))) == 3


def test_no_grid_in_the_encoder_stage(tmp_path):
    method = liebm(encoder_stage=stage(epochs=1))
    trainer(tmp_path, max_epochs=1, callbacks=[SampleGrid(every_n_steps=2)]).fit(method, TinyData())
    assert not (tmp_path / "samples").exists()


def test_grid_is_bytes_with_small_images_enlarged(tmp_path):
    images = torch.stack([torch.full((1, 8, 8), v) for v in (-1.0, 0.0, 1.0, 7.0)])
    picture = grid(images)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 70, 70)  # 2 × 2 images of 32 pixels with 2 between
    assert sorted(picture.unique().tolist()) == [0, 128, 255]
    save_grid(images, tmp_path / "new" / "grid.png")
    assert Image.open(tmp_path / "new" / "grid.png").size == (70, 70)


def test_checkpoint_is_never_half_a_file(tmp_path, monkeypatch):
    keep = LastCheckpoint(tmp_path, "model: null", every_n_steps=2)
    fit = trainer(tmp_path, max_steps=5, max_epochs=-1, callbacks=[keep], enable_checkpointing=True)
    fit.fit(without_latent(), TinyData())
    good = (tmp_path / "last.ckpt").read_bytes()
    assert read(tmp_path / "last.ckpt")["global_step"] == 5
    assert not (tmp_path / "last.tmp").exists()

    def broken(path, **_):
        path.write_bytes(good[:100])
        raise OSError("disk full")

    monkeypatch.setattr(fit, "save_checkpoint", broken)
    assert keep.save(fit) == "disk full"
    assert (tmp_path / "last.ckpt").read_bytes() == good


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"not a checkpoint", "not a readable checkpoint"),
        ({"state_dict": {}}, "contains no config"),
        ({"ebmzoo": {"config": "", "format": 99, "version": "9.9"}}, "newer than this"),
    ],
)
def test_bad_checkpoints_are_errors(content, message, tmp_path):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load(path)


class Malicious:
    def __reduce__(self):
        return (print, ("code ran",))


def test_checkpoint_that_runs_code_is_refused(tmp_path, capsys):
    torch.save({"ebmzoo": Malicious()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="could run code"):
        load(tmp_path / "x.ckpt")
    assert "code ran" not in capsys.readouterr().out


def test_curves_are_read_over_a_resumed_run(tmp_path):
    for version, rows in ((0, "1,5.0\n2,4.0\n3,9.0\n"), (10, "3,3.0\n4,2.0\n")):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,train/x\n" + rows)
    assert read_curve(tmp_path, "train/x") == ([1, 2, 3, 4], [5.0, 4.0, 3.0, 2.0])
    assert smooth([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
    draw_curves([tmp_path], ["train/x"], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 300
    with pytest.raises(UserError, match="no curve of train/y"):
        read_curve(tmp_path, "train/y")
