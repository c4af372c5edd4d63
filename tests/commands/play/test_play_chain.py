"""What `ebmzoo play` computes: the images of `sample` and `restore`, the states of their chains, scores, the limits."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import ebmzoo
from ebmzoo.commands.cli import main
from ebmzoo.commands.play import chain
from ebmzoo.commands.play.chain import Player
from ebmzoo.commands.play.drawings import BINS, energy_rows, histogram_rows
from ebmzoo.commands.watching import Recorder, watched
from ebmzoo.data import Digits, prepare, to_uint8
from ebmzoo.data.decode import Frame
from ebmzoo.errors import UserError
from ebmzoo.tasks.generation import draw
from ebmzoo.training.config import build_model
from ebmzoo.training.config_files import read_config
from support.paths import ROOT


@pytest.fixture(scope="module")
def cdrl():
    return Player(ebmzoo.pretrained("cdrl_digits"), Digits())


def untrained(method, **changes):
    """A model of the digits config of a method, never trained."""
    config = read_config(ROOT / "configs" / method / "digits.yaml")
    for key, value in changes.items():
        config["model"]["init_args"][key] |= value
    torch.manual_seed(0)
    return build_model(yaml.safe_dump(config)).eval()


def images_of(path):
    return torch.from_numpy(np.load(path)["images"]).permute(0, 3, 1, 2)


def grey(path):
    return torch.tensor(np.asarray(Image.open(path).convert("L")))


def test_the_images_are_those_of_sample(cdrl, tmp_path):
    flags = ["--n", "3", "--seed", "5", "--steps", "2", "--class", "3", "--guidance", "0.5"]
    main(["sample", "--pretrained", "cdrl_digits", *flags, "--out", str(tmp_path / "s.npz")])
    walk = cdrl.sample(3, 5, 2, class_="3", guidance=0.5)
    assert torch.equal(walk.images, images_of(tmp_path / "s.npz"))
    assert "12 Langevin steps at temperature 1" in walk.cost
    again = cdrl.sample(3, 5, 2, class_="3", guidance=0.5)
    assert torch.equal(walk.images, again.images)
    for change in ({"seed": 6}, {"class_": "4"}, {"guidance": 0}, {"steps": 3}, {"temperature": 0.25}):
        settings = {"n": 3, "seed": 5, "steps": 2, "class_": "3", "guidance": 0.5} | change
        assert not torch.equal(walk.images, cdrl.sample(**settings).images), change


def test_a_class_by_its_mean_latent_is_that_of_sample(tmp_path):
    flags = ["--n", "2", "--steps", "2", "--class", "3", "--out", str(tmp_path / "s.npz")]
    main(["sample", "--pretrained", "liebm_digits", *flags])
    player = Player(ebmzoo.pretrained("liebm_digits"), Digits())
    for _ in range(2):  # the second time of the latent that is kept
        assert torch.equal(player.sample(2, 0, 2, class_="3").images, images_of(tmp_path / "s.npz"))


def test_energies_are_the_models(cdrl):
    walk = cdrl.sample(2, 0, 1)
    with cdrl.method.evaluating():
        for moment in walk.moments:
            assert torch.equal(moment.energies, cdrl.method.energy(moment.images))
    assert torch.equal(to_uint8(walk.moments[-1].images), walk.images)
    assert torch.equal(walk.moments[-1].energies, walk.energies)
    rows = [row for row in energy_rows(walk) if row["state"] == len(walk.moments) - 1]
    found = {row["of the chains"]: row["energy"] for row in rows}
    assert found["highest"] == float(walk.energies.max())
    assert found["lowest"] == float(walk.energies.min())


@pytest.mark.parametrize("method", ["igebm", "jem", "energy_matching", "equilibrium_matching", "mdsm", "drl"])
def test_watching_a_chain_does_not_change_it(method):
    model = untrained(method)
    before = {name: getattr(model, name, None) for name in ("sampler", "chain")}
    found = Player(model).sample(2, 7, 3).images
    assert all(getattr(model, name, None) is own for name, own in before.items())
    torch.manual_seed(7)
    assert torch.equal(found, draw(model, 2, 250, 3)[0])


def test_the_states_are_those_of_the_chain():
    model = untrained("short_run")
    walk = Player(model).sample(2, 1, 4)
    torch.manual_seed(1)
    with model.evaluating():
        states = list(model.long_chain(2, 4)[1])
    assert len(walk.moments) == len(states) == 5
    for moment, state in zip(walk.moments, states, strict=True):
        assert torch.equal(moment.images, state)
    assert [moment.caption for moment in walk.moments] == ["step 0", "step 1", "step 2", "step 3", "the images"]


def test_the_states_are_those_of_every_noise_level(monkeypatch):
    monkeypatch.setattr(chain, "FRAMES", 1000)
    model = untrained("drl", energy_net={})
    model.energy_net.classes = 0  # a class would be drawn first
    levels, steps = model.schedule.levels, model.chain.sampling
    walk = Player(model).sample(2, 2)
    torch.manual_seed(2)
    ends = model.trajectory(2)[1:]
    assert len(walk.moments) == levels * (steps + 1)
    for k, end in enumerate(ends):
        assert torch.equal(walk.moments[(k + 1) * (steps + 1) - 1].images, end)
    assert walk.moments[0].caption == f"step 0, noise level {levels - 1}"
    assert walk.moments[-2].caption == f"step {levels * steps - 1}, noise level 0"


def test_a_chain_on_a_residual_is_shown_with_the_generators_image():
    player = Player(untrained("hat_ebm"))
    start, walk = player.sample(2, 0, 0), player.sample(2, 0, 2)
    assert torch.equal(to_uint8(walk.moments[0].images), start.images)
    assert len(walk.moments) == 3


def test_temperature_is_a_factor_of_the_chains_own(cdrl):
    model = cdrl.method
    assert "at temperature 4" in cdrl.sample(1, 0, 1, temperature=4).cost
    own = model.chain
    with watched(model, 0.5):
        assert model.chain.noise == 0.5 * own.noise
    assert model.chain is own
    walker = untrained("igebm")
    tau = walker.sampler.tau
    with watched(walker, 3.0):
        assert walker.sampler.tau == 3 * tau
        assert walker.sampler.step_size == untrained("igebm").sampler.step_size


def test_a_chain_is_stopped_and_the_next_is_not():
    player = Player(untrained("igebm"))
    energy = player.method.energy_net.forward
    calls = []

    def counted(x):
        calls.append(x)
        if len(calls) == 3:
            player.stop()
        return energy(x)

    player.method.averages["energy_net"].module.forward = counted
    own = player.method.sampler
    with pytest.raises(UserError, match="stopped before the end of the chain"):
        player.sample(1, 0, 50)
    assert len(calls) < 6
    assert player.method.sampler is own
    assert player.sample(1, 0, 5).steps == 5


def test_few_of_many_states_are_kept():
    recorder = Recorder(most=10)
    recorder.run = 0
    for k in range(1001):
        recorder.see(torch.tensor([float(k)]), k == 0)
        assert len(recorder._kept) <= 20
    states = recorder.states()
    assert len(states) == 10
    assert [state.step for state in states] == [float(state.x) for state in states]
    steps = [state.step for state in states]
    assert (steps[0], steps[-1]) == (0, 1000)
    gaps = np.diff(steps)
    assert gaps.min() > 0
    assert gaps.max() <= 2 * 1000 / 9
    assert Recorder(5).states() == []


def test_what_a_model_lacks_is_said():
    vae = Player(ebmzoo.pretrained("vae_digits"))
    for control in (vae.steps, vae.temperature):
        assert control.why_not == "VAE makes its images without a chain of steps."
    assert vae.no_classes == "This VAE was trained without classes."
    assert (
        vae.sample(2, steps=50, temperature=4).cost == "from generator, 1 network evaluation for each image"
    )  # left out
    assert "such as CDRL's" in vae.guidance.why_not
    clel = Player(ebmzoo.pretrained("clel_digits"), None, "the files are elsewhere")
    assert clel.no_classes.endswith("they are not at hand: the files are elsewhere")
    assert not clel.classes
    with pytest.raises(UserError, match="the files are elsewhere"):
        clel.sample(1, class_="3")
    assert Player(ebmzoo.pretrained("cdrl_digits")).classes == [str(k) for k in range(10)]
    assert "only descends the energy" in Player(untrained("equilibrium_matching")).temperature.why_not
    assert "a schedule of its own" in Player(untrained("mdsm")).temperature.why_not


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n": 17}, "the number of images is 17; it must be a whole number from 1 to 16"),
        ({"n": None}, "the number of images is empty"),
        ({"seed": -1}, "the seed is -1; it must be a whole number from 0 to 4294967295"),
        ({"seed": 0.5}, "the seed is 0.5; it must be a whole number"),
        ({"seed": True}, "the seed is True"),
        ({"steps": 151}, "the number of steps is 151; it must be a whole number from 0 to 150"),
        ({"temperature": 9.5}, "the temperature is 9.5; it must be a number from 0 to 9"),
        ({"temperature": float("nan")}, "the temperature is nan"),
        ({"temperature": "much"}, "the temperature is much"),
        ({"guidance": -1, "class_": "3"}, "the guidance is -1; it must be a number from 0 to 10"),
        ({"guidance": 1}, "guidance leads towards a class; choose one"),
        ({"class_": "ten"}, "the model has no class ten"),
    ],
)
def test_what_is_out_of_range_is_a_sentence(cdrl, settings, words):
    with pytest.raises(UserError) as error:
        cdrl.sample(**settings)
    assert str(error.value).startswith(words)


def test_a_score_lies_among_those_of_test_images(cdrl):
    data, method = Digits(), cdrl.method
    x = cdrl.picture(None, 4)
    assert torch.equal(x, data.test_set.images[4:5])
    found = cdrl.score(x)
    with method.evaluating():
        energies = method.energy(prepare(data.test_set.images[: chain.REFERENCE]))
        own = float(method.energy(prepare(x)))
    assert found.energy == found.score == own
    below = float((energies < own).double().mean())
    assert found.share_below() == (below, below)
    rows = histogram_rows(found)
    assert sum(row["images"] for row in rows if row["of"] == "test images") == chain.REFERENCE
    (mine,) = [row for row in rows if row["of"] == "your picture"]
    width = (energies.max() - energies.min()) / BINS
    assert abs(mine["energy"] - own) <= width
    alone = Player(method).score(x)
    assert alone.energy == own
    assert alone.share_below() is None
    assert histogram_rows(alone) == []


def test_a_picture_of_any_size_is_read_as_training_images_are(cdrl, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    expected = torch.tensor(Frame(8, 1)(Image.fromarray(pixels)))
    assert torch.equal(cdrl.picture(str(tmp_path / "p.png"), None)[0], expected)


def test_what_is_no_picture_is_a_sentence(cdrl, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"^a.png cannot be read as an image \(not an image file\)"):
        cdrl.picture(str(tmp_path / "a.png"))
    with (tmp_path / "big.png").open("wb") as file:
        file.truncate(chain.PICTURE_MIB * 2**20 + 1)
    with pytest.raises(UserError, match="more than 8 MiB"):
        cdrl.picture(str(tmp_path / "big.png"))
    for index in (-1, 10**6, 0.5, None, "x"):
        with pytest.raises(UserError, match=r"the test image is .*; it must be a whole number from 0 to"):
            cdrl.picture(None, index)
    with pytest.raises(UserError, match="drop a picture in; there are no test images at hand: no such folder"):
        Player(cdrl.method, None, "no such folder").picture(None)


def test_restorations_are_those_of_restore(tmp_path):
    player = Player(ebmzoo.pretrained("dual_mcmc_digits"), Digits())
    x = player.picture(None, 1)
    Image.fromarray(x[0, 0].numpy()).save(tmp_path / "x.png")
    flags = ["--operator", "blur", "--degrade", "--n", "2", "--seed", "3", "--steps", "2", "--out", str(tmp_path / "r")]
    main(["restore", str(tmp_path / "x.png"), "--pretrained", "dual_mcmc_digits", *flags])
    found = player.restore(x, "it is blurred", 2, 3, 2)
    for k in range(2):
        assert torch.equal(found.walk.images[k, 0], grey(tmp_path / "r" / f"x_{k}.png"))
    assert found.psnr[0] > 0
    assert "it has no colours" not in player.degradations  # the images have none


def test_what_a_mask_hides_is_filled_in_as_sample_does(cdrl, tmp_path):
    x = cdrl.picture(None, 2)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(x[0, 0].numpy()).save(tmp_path / "x.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    given = ["--inpaint", str(tmp_path / "x.png"), "--mask", str(tmp_path / "m.png")]
    flags = ["--n", "2", "--seed", "4", "--steps", "1", "--out", str(tmp_path / "s.npz")]
    main(["sample", "--pretrained", "cdrl_digits", *given, *flags])
    found = cdrl.restore(x, "the lower half is hidden", 2, 4, 1)
    assert torch.equal(found.walk.images, images_of(tmp_path / "s.npz"))
    assert torch.equal(found.walk.images[:, :, :4], x[:, :, :4].expand(2, -1, -1, -1))
    assert torch.equal(found.left[:, :, :4], x[:, :, :4])
    assert (found.left[:, :, 4:] == 128).all()
    with pytest.raises(UserError, match="there is no degradation 'fire'"):
        cdrl.restore(x, "fire")
