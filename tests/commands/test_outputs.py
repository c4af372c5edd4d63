"""What commands write: nothing over what is there, an input among it, unless `--overwrite` is given."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.commands.outputs import check_alone, check_free, distinct, is_folder
from ebmzoo.commands.sample import sample
from ebmzoo.errors import UserError
from support.command_line import fails
from support.paths import DATA

OLD = DATA / "format1.ckpt"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)


def drawn(*flags, n=2):
    main(["sample", "--ckpt_path", str(OLD), "--n", str(n), *map(str, flags)])


def refused(capsys, *flags):
    return fails(capsys, "sample", "--ckpt_path", OLD, "--n", 2, *flags)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def picture(path, size=8):
    Path(path).parent.mkdir(exist_ok=True)
    Image.new("L", (size, size), 90).save(path)
    return Path(path).read_bytes()


@pytest.mark.parametrize("out", ["d", "run_v1.5", "samples.v2", "d.jpg/", "a.b/c", ".."])
def test_names_of_folders(out):
    assert is_folder(out)


@pytest.mark.parametrize("out", ["x.png", "x.PNG", "d.d/x.npz"])
def test_names_of_files(out):
    assert not is_folder(out)
    Path(out).mkdir(parents=True)
    assert is_folder(out), "a folder that exists is one"


@pytest.mark.parametrize("out", ["x.jpg", "x.JPEG", "x.gif", "x.tiff", "x.webp", "x.npy", "x.pt", "x.zip"])
def test_files_of_other_formats_are_no_folders(out):
    with pytest.raises(UserError, match=rf"^out is {out}; it must end in \.png or \.npz, or be a folder$"):
        is_folder(out)


def test_what_is_there_is_free_only_to_overwrite():
    Path("a").write_text("")
    Path("link").symlink_to("nowhere")
    check_free([Path("b"), Path("d/a")], overwrite=False)
    for path in ("a", "link"):
        check_free([Path(path)], overwrite=True)
        with pytest.raises(UserError, match=f"^out: {path} would be overwritten; give another --out, or --overwrite$"):
            check_free([Path("b"), Path(path)], overwrite=False)
    with pytest.raises(UserError, match="out: a and 1 more would be"):
        check_free([Path("a"), Path("link")], overwrite=False)


def test_a_set_is_alone_in_its_folder():
    check_alone(Path("none"), overwrite=False)
    Path("d").mkdir()
    Path("d/.DS_Store").write_text("")
    check_alone(Path("d"), overwrite=False)
    Path("d/000000.png").write_text("")
    check_alone(Path("d"), overwrite=True)
    with pytest.raises(UserError, match=r"d holds 000000\.png already"):
        check_alone(Path("d"), overwrite=False)
    Path("d/photo.png").write_text("")
    with pytest.raises(UserError, match=r"d/photo\.png is not of a set"):
        check_alone(Path("d"), overwrite=True)


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (["x", "y"], ["x", "y"]),
        (["x", "x"], ["0_x", "1_x"]),
        (["x", "x_0"], ["0_x", "1_x_0"]),
        (["x", "x_2"], ["x", "x_2"]),
        (["x", "X"], ["0_x", "1_X"]),
        (["1_x", "x", "x"], ["0_1_x", "1_x", "2_x"]),
    ],
)
def test_names_that_collide_get_numbers(stems, expected):
    """All files then have different names, also where a file system does not tell upper from lower case."""
    endings = [".png", "_0.png", "_1.png"]
    assert distinct(stems, endings) == expected
    files = [f"{stem}{ending}".lower() for stem in distinct(stems, endings) for ending in endings]
    assert len(set(files)) == len(files)


def test_samples_in_a_folder_are_the_whole_set_and_nothing_else(capsys):
    drawn("--out", "d", n=4)
    first = Path("d/000000.png").read_bytes()
    assert "d holds 000000.png already" in refused(capsys, "--out", "d", "--seed", 1)
    assert (names("d"), Path("d/000000.png").read_bytes()) == ([f"{i:06d}.png" for i in range(4)], first)
    drawn("--out", "d", "--seed", 1, "--overwrite")
    assert names("d") == ["000000.png", "000001.png"]
    assert Path("d/000000.png").read_bytes() != first
    Path("d/mine.txt").write_text("")
    assert "d/mine.txt is not of a set" in refused(capsys, "--out", "d", "--overwrite")
    drawn("--out", "run_v1.5")
    assert names("run_v1.5") == ["000000.png", "000001.png"]


def test_a_file_of_samples_is_replaced_only_to_overwrite(capsys):
    for out in ("x.png", "x.npz", "x.NPZ"):
        drawn("--out", out)
        before = Path(out).read_bytes()
        assert f"{out} would be overwritten" in refused(capsys, "--out", out, "--seed", 1)
        assert Path(out).read_bytes() == before
        drawn("--out", out, "--seed", 1, "--overwrite", "true")
        assert Path(out).read_bytes() != before
    assert np.load("x.NPZ")["images"].shape == (2, 8, 8, 1)
    assert names(".") == ["x.NPZ", "x.npz", "x.png"]


@pytest.mark.parametrize("flag", ["--like", "--inpaint", "--mask"])
def test_samples_do_not_replace_their_inputs(flag, capsys):
    before, other = picture("x.png"), {"--inpaint": "--mask", "--mask": "--inpaint"}.get(flag)
    flags = [flag, "x.png", *([other, "y.png"] if other else [])]
    assert "x.png would be overwritten" in refused(capsys, *flags, "--out", "x.png")
    assert Path("x.png").read_bytes() == before


def test_restorations_do_not_replace_their_inputs(capsys):
    before = picture("photos/x.png")
    flags = ["--ckpt_path", OLD, "--operator", "denoise", "--sigma", "0.1", "--restoring.latent_steps", 1]
    for out in ("photos", "./photos/../photos"):
        assert "x.png would be overwritten" in fails(capsys, "restore", "photos/x.png", *flags, "--out", out)
    assert names("photos") == ["x.png"]
    assert Path("photos/x.png").read_bytes() == before
    picture("photos/x_0.png")
    line = ["restore", "photos/x.png", "photos/x_0.png", *flags, "--steps", 1]
    main([str(word) for word in (*line, "--out", "r")])
    assert names("r") == ["0_x.png", "0_x_0.png", "1_x_0.png", "1_x_0_0.png"]
    assert "r/0_x.png and 3 more would be overwritten" in fails(capsys, *line, "--out", "r")
    main([str(word) for word in (*line, "--out", "r", "--overwrite")])


def test_predictions_are_replaced_only_to_overwrite(tmp_path, capsys):
    line = ["predict", "--ckpt_path", str(OLD), "--run_dir", str(tmp_path / "run")]
    main(line)
    before = (tmp_path / "run" / "predictions.npz").read_bytes()
    assert "run/predictions.npz would be overwritten" in fails(capsys, *line, "--weights", "raw")
    assert (tmp_path / "run" / "predictions.npz").read_bytes() == before
    main([*line, "--trainer.limit_predict_batches", "1", "--overwrite"])
    assert (tmp_path / "run" / "predictions.npz").read_bytes() != before


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_results_of_a_checkpoint_do_not_go_to_another_run(command, tmp_path, capsys):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").write_bytes(OLD.read_bytes())
    (tmp_path / "link").symlink_to("own")
    line = [command, "--ckpt_path", "own/last.ckpt", "--run_dir"]
    assert "run_dir: other holds another run than that of own/last.ckpt" in fails(capsys, *line, "other")
    assert names("other") == ["last.ckpt"]
    assert "no such" in fails(capsys, *line, "link", "--trainer.accelerator", "no such")


def test_the_same_seed_and_sizes_give_the_same_images():
    """And the help says what is needed for it, since other numbers of images or batches give others."""
    made = {}
    for i, (n, batch_size) in enumerate([(5, 3), (5, 3), (5, 5), (6, 3)]):
        drawn("--out", f"{i}.npz", "--batch_size", batch_size, "--steps", 1, n=n)
        made[i] = np.load(f"{i}.npz")["images"]
    assert (made[0] == made[1]).all()
    assert (made[0] != made[2]).any()
    assert (made[0] != made[3][:5]).any()
    for words in ("the same seed, n, batch_size and other settings give the same images", "gives other images"):
        assert words in " ".join((sample.__doc__ or "").split())


def test_both_entry_points_import_from_the_same_places(tmp_path):
    """Neither from the working folder, and the sentence says how."""
    Path("mine").mkdir()
    Path("mine/__init__.py").write_text("raise SystemExit('the working folder was imported from')")
    Path("difflib.py").write_text("raise SystemExit('the working folder was imported from')")
    script = shlex.split(f"{Path(sys.executable).parent / 'ebmzoo'}")
    told = []
    for command in (script, [sys.executable, "-m", "ebmzoo"]):
        line = [*command, "fit", "--config", "vae_digits", "--model", "mine.Model"]
        told.append(subprocess.run(line, capture_output=True, text=True, check=False).stderr.splitlines()[-1])
    assert told[0] == told[1]
    assert "'mine.Model', because Python finds no module 'mine'" in told[0]
    assert "PYTHONPATH=. before the command" in told[0]
