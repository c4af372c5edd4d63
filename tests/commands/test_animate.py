"""`ebmzoo animate`: the frames of a chain and of a training, the plane beside its exact density, and the errors."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ebmzoo
from ebmzoo import __version__
from ebmzoo.commands.animate import _evenly
from ebmzoo.commands.cli import main
from ebmzoo.report.animation import CAPTION, plane_picture, save_gif
from ebmzoo.report.pictures import grid
from ebmzoo.training.checkpoint import FORMAT, KEY, load
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from support.command_line import fails


def untrained(folder, path, **changes):
    """A run's folder with a checkpoint of a config that was never trained."""
    config = read_config(path)
    config["model"]["init_args"] |= changes
    text = yaml.safe_dump(config)
    torch.manual_seed(0)
    state = build_model(text).state_dict()
    folder.mkdir(exist_ok=True)
    torch.save(
        {"state_dict": state, KEY: {"format": FORMAT, "version": __version__, "config": text}}, folder / "last.ckpt"
    )
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("digits"), "configs/igebm/digits.yaml")


def frames(path):
    image = Image.open(path)
    found = []
    for k in range(image.n_frames):
        image.seek(k)
        found.append(np.asarray(image.convert("RGB")))
    return found


def test_the_frames_are_states_of_the_chain_with_both_ends(digits, tmp_path, capsys):
    out = tmp_path / "chain.gif"
    main(["animate", str(digits), "--out", str(out), "--n", "4", "--frames", "3"])
    assert f"3 frames of sampling: {out}" in capsys.readouterr().out
    method = load(digits / "last.ckpt")
    torch.manual_seed(0)
    *_, last = method.long_chain(4, method.chain_steps)[1]
    shown = frames(out)
    assert len(shown) == 3
    expected = grid(last).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(shown[-1][CAPTION:].astype(int) - expected).mean() < 4  # a GIF has 256 colours
    assert not np.array_equal(shown[0], shown[-1])


def test_training_is_the_grids_in_order(tmp_path):
    (tmp_path / "samples").mkdir()
    for step, level in ((500, 40), (1000, 120), (20000, 250)):
        Image.new("RGB", (20, 10), (level,) * 3).save(tmp_path / "samples" / f"step_{step:07d}.png")
    main(["animate", str(tmp_path), "--what", "training", "--out", str(tmp_path / "t.gif")])
    shown = [int(frame[-1, -1, 0]) for frame in frames(tmp_path / "t.gif")]
    assert shown == pytest.approx([40, 120, 250], abs=4)  # a colour is the nearest of the palette, within a step of 4


def test_on_the_plane_chains_walk_on_the_density_of_their_level(tmp_path):
    pytest.importorskip("matplotlib")
    run = untrained(tmp_path / "run", "configs/cdrl/checkerboard.yaml")
    main(["animate", str(run), "--out", str(tmp_path / "p.gif"), "--n", "50"])
    shown = frames(tmp_path / "p.gif")
    assert len(shown) == 1 + 6  # the levels 6 to 0


def test_chains_are_points_on_the_models_density_beside_the_exact_one():
    pytest.importorskip("matplotlib")
    exact = torch.zeros(2, 2)
    exact[0, 0] = 1.0
    points = torch.full((400, 2), 0.5) + 0.2 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    picture = plane_picture(points, exact, exact, 1.0, ("model", "exact")).numpy().astype(int)
    left, right = np.split(picture, 2, axis=2)
    red = [(part[0] - part[2] > 60) for part in (left, right)]
    assert red[0].sum() > 100
    assert red[1].sum() == 0
    rows, columns = np.nonzero(red[0])
    assert rows.mean() < 130  # above the middle, since y is 0.5
    assert columns.mean() > 130
    blue = right[2] - right[0] > 60
    rows, columns = np.nonzero(blue)
    assert rows.mean() > 130  # the cell of x < 0 and y < 0
    assert columns.mean() < 160


def test_errors_are_sentences(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "a .gif" in fails(capsys, "animate", str(digits), "--out", "a.mp4")
    assert "frames is 1; it must be 2 or more" in fails(capsys, "animate", str(digits), "--frames", "1")
    assert "n is 0; it must be 1 or more" in fails(capsys, "animate", str(digits), "--n", "0")
    assert "fps is 0" in fails(capsys, "animate", str(digits), "--fps", "0")
    assert "has no grids of samples" in fails(capsys, "animate", str(digits), "--what", "training")
    (tmp_path / "animation.gif").write_text("mine")
    assert "animation.gif" in fails(capsys, "animate", str(digits))
    assert (tmp_path / "animation.gif").read_text() == "mine"


def test_frames_are_evenly_spaced_with_both_ends():
    assert _evenly(range(61), 4) == [0, 20, 40, 60]
    assert _evenly(range(3), 10) == [0, 1, 2]


def test_a_model_that_comes_with_ebmzoo_is_shown_by_its_name(tmp_path, capsys):
    main(["animate", "--pretrained", "dual_mcmc_digits", "--out", str(tmp_path / "d.gif"), "--n", "4", "--frames", "3"])
    assert "3 frames of sampling" in capsys.readouterr().out
    method = ebmzoo.pretrained("dual_mcmc_digits")
    torch.manual_seed(0)
    *_, last = method.long_chain(4, method.chain_steps)[1]
    expected = grid(last).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(frames(tmp_path / "d.gif")[-1][CAPTION:].astype(int) - expected).mean() < 4


def test_what_stands_still_takes_no_space(tmp_path):
    still = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    sizes = []
    for count in (2, 12):
        made = []
        for k in range(count):
            picture = still.copy()
            picture[k, 0] = 255 - picture[k, 0]
            made.append(Image.fromarray(picture))
        save_gif(made, tmp_path / "still.gif", 10)
        sizes.append((tmp_path / "still.gif").stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


def test_a_chain_that_only_samples_go_through_is_shown(tmp_path):
    run = untrained(tmp_path / "run", "configs/equilibrium_matching/digits.yaml")
    main(["animate", str(run), "--out", str(tmp_path / "e.gif"), "--n", "2", "--frames", "4"])
    method = load(run / "last.ckpt")
    torch.manual_seed(0)
    ends = method.sample(2).images
    shown = frames(tmp_path / "e.gif")
    assert len(shown) == 4
    assert np.abs(shown[-1][CAPTION:].astype(int) - grid(ends).permute(1, 2, 0).numpy()).mean() < 4


def test_a_method_without_a_chain_is_refused(tmp_path, capsys):
    told = fails(capsys, "animate", "--pretrained", "vae_digits", "--out", str(tmp_path / "v.gif"))
    assert "VAE has no chain whose states could be shown" in told
