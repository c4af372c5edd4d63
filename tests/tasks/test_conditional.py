"""Samples conditioned on latents: LIEBM's against its equations, and the two tasks on methods with known results."""

import json
import math
from functools import partial

import pytest
import torch
from torch.nn.functional import normalize, one_hot

from ebmzoo.commands.class_names import class_of, members
from ebmzoo.commands.conditions import Condition
from ebmzoo.commands.config_data import image_data
from ebmzoo.data.shapes import COMBINATIONS, VALUES, render
from ebmzoo.errors import UserError
from ebmzoo.methods import LIEBMElbo, Samples
from ebmzoo.methods.base.capabilities import LatentConditional
from ebmzoo.methods.families.conditional_chain import LIEBMAlternation, StartsFromImages
from ebmzoo.metrics import ClassifierFeatures
from ebmzoo.report.scorecard import scorecard
from ebmzoo.sampling.langevin import ChainDivergedError, Langevin
from ebmzoo.sampling.latent_energies import Composed, Joint
from ebmzoo.tasks import Compositional, Conditional
from ebmzoo.tasks.compositional import agreements
from ebmzoo.tasks.conditional import confusion_matrix, entropy
from ebmzoo.tasks.conditioning import mean_latent, sample_latents
from support.corners import Corners, Nearest, distances, judges, shapes
from support.oracle import Oracle
from support.pictures import cells, labels, rows_and_columns
from support.tiny import TinyData, liebm, stage, without_latent

# LIEBM


def sphere(*shape):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(5)), dim=-1)


def seeded():
    return torch.Generator().manual_seed(1)


def conditional(rounds=3, gamma=2.0, **changes):
    """LIEBM with an inference network, ready to sample; its images are in [0, 1] inside."""
    changes = {"inference": True, "elbo": LIEBMElbo(pixels=False), "image_range": (0.0, 1.0)} | changes
    torch.manual_seed(0)
    return liebm(encoder_stage=stage(epochs=0), alternation=LIEBMAlternation(rounds, gamma), **changes)


def without_inference(**changes):
    return conditional(**{"inference": None, "elbo": None} | changes)


def by_hand(method, z, gamma, m, generator, first):
    """§4.3 as written, from the first m: Y by Langevin under E(G(m) + Y, z), m from q given G(m) + Y.

    `first` makes the first image: of a drawn m with the statistics of samples, of an inferred one with training's.
    """
    net, g, q = (method.network(name).eval() for name in ("energy_net", "generator", "inference"))

    def energy(base):
        def of_y(y):
            f = net.features(base + y)
            return net.marginal(f) - gamma * torch.cosine_similarity(net.project(f), z, dim=1)

        return of_y

    for chain in range(method.alternation.rounds):
        with torch.no_grad():
            base = ((first if chain == 0 else g)(m) + 1) / 2
        y = method.sampler(energy(base), torch.zeros_like(base), generator=generator)
        x = base + y
        if chain + 1 < method.alternation.rounds:
            with torch.no_grad():
                mu, logvar = q(x)
            m = mu + (logvar / 2).exp() * torch.randn(mu.shape, generator=generator)
    return 2 * x - 1


def test_samples_conditioned_on_a_latent_follow_liebms_loop():
    method, z = conditional(), sphere(5, 8)
    got = method.sample_from_latents(z, generator=seeded())
    generator = seeded()
    m = torch.randn(5, 4, generator=generator)
    torch.testing.assert_close(got.images, by_hand(method, z, 2.0, m, generator, method.decode), rtol=1e-4, atol=1e-5)
    assert (got.start, got.steps) == ("generator", 6)


def test_the_first_latent_is_inferred_from_a_start():
    method, z = conditional(), sphere(5, 8)
    start = torch.rand(5, 1, 8, 8, generator=seeded()) * 2 - 1
    got = method.sample_from_latents(z, generator=seeded(), start=start)
    generator = seeded()
    with torch.no_grad():
        mu, logvar = method.network("inference").eval()((start + 1) / 2)
    m = mu + (logvar / 2).exp() * torch.randn(5, 4, generator=generator)
    torch.testing.assert_close(
        got.images, by_hand(method, z, 2.0, m, generator, method.decode_inferred), rtol=1e-4, atol=1e-5
    )
    assert got.start == "inference"


def test_without_an_inference_network_the_generators_latent_is_held():
    method, z = without_inference(), sphere(5, 8)
    got = method.sample_from_latents(z, generator=seeded())
    generator = seeded()
    with method.evaluating():
        start = (method.decode(torch.randn(5, 4, generator=generator)) + 1) / 2
        one_chain = Langevin(6, method.sampler.step_size, method.sampler.noise)
        want = one_chain(Composed(Joint(method.network("energy_net"), 2.0), z[:, None]), start, generator=generator)
    torch.testing.assert_close(got.images, 2 * want - 1)


@pytest.mark.parametrize("steps", [None, 0, 3])
@pytest.mark.parametrize("kind", ["prior", "start", "held"])
def test_network_evaluations_are_counted_exactly(kind, steps):
    method = without_inference() if kind == "held" else conditional()
    passes = []
    with method.evaluating():
        counted = [method.network("energy_net").trunk, method.network("generator"), method._sampler_of_images()]
    for net in counted if kind == "held" else [*counted, method.network("inference")]:
        net.register_forward_pre_hook(lambda *_: passes.append(1))
    start = {"start": torch.zeros(2, 1, 8, 8)} if kind == "start" else {}
    made = method.sample_from_latents(sphere(2, 8), steps=steps, **start)
    assert made.nfe == len(passes)
    assert made.steps == 3 * (2 if steps is None else steps)


def test_one_latent_is_a_composition_of_one_and_the_same_twice_doubles_gamma():
    z = sphere(4, 8)
    one = conditional(gamma=1.5).sample_from_latents(z, generator=seeded()).images
    assert torch.equal(conditional(gamma=1.5).sample_from_latents(z[:, None], generator=seeded()).images, one)
    twice = conditional(gamma=0.75).sample_from_latents(z[:, None].expand(-1, 2, -1), generator=seeded()).images
    torch.testing.assert_close(twice, one)
    assert not torch.allclose(conditional(gamma=0.75).sample_from_latents(z, generator=seeded()).images, one)


def test_samples_agree_with_their_latent_and_not_with_its_opposite():
    method = without_inference(sampler=Langevin(10, 0.02, 0.0), gamma=100.0)
    net, z, agreement = method.network("energy_net"), sphere(6, 8), {}
    for sign in (1, -1):
        made = method.sample_from_latents(sign * z, generator=seeded()).images
        with method.evaluating():
            own = net.project(net.features((made + 1) / 2))
        agreement[sign] = torch.cosine_similarity(own, z, dim=1)
    assert bool((agreement[1] > agreement[-1]).all())


def test_what_liebm_needs_to_condition():
    method, plain = conditional(), without_latent()
    assert method.can_condition_on_latents
    assert method.can_start_from_images
    assert not without_inference().can_start_from_images
    assert not plain.can_condition_on_latents
    x = torch.rand(3, 1, 8, 8, generator=seeded()) * 2 - 1
    with method.evaluating():
        assert torch.equal(method.encode(x), method.encoder(x)), "h on the image as it is, in [-1, 1]"
        torch.testing.assert_close(method.encode(x).norm(dim=1), torch.ones(3))
    for call in (plain.sample_from_latents, plain.encode):
        with pytest.raises(UserError, match="encoder is null"):
            call(x[:, 0, 0])
    with pytest.raises(UserError, match="inference is null"):
        without_inference().sample_from_latents(sphere(3, 8), start=x)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"gamma": 0.0}, {"gamma": -1.0}])
def test_alternation_refuses_impossible_settings(wrong):
    with pytest.raises(UserError, match=rf"alternation\.{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        LIEBMAlternation(**wrong)


# methods with samples that are determined by their condition


@pytest.fixture
def matrices(monkeypatch):
    seen = []
    monkeypatch.setattr("ebmzoo.tasks.conditional.save_confusion", lambda matrix, *_: seen.append(matrix))
    return seen


def evaluate(method, tmp_path=None, data=None, **changes):
    data = data or TinyData()
    changes = {"classifier": Nearest(Corners().images), "n": 6, "samples": 4} | changes
    return Conditional(**changes)(method, data, tmp_path)


def test_samples_of_the_requested_class_have_accuracy_one(tmp_path, matrices):
    result = evaluate(Corners(), tmp_path)
    assert torch.equal(matrices[0], torch.eye(4, dtype=torch.float64))
    assert [result.figures[f"{name}/accuracy"] for name in ("all", "a", "b", "c", "d", "real")] == [1] * 6
    assert [result.figures[f"{name}/entropy"] for name in "abcd"] == [0] * 4
    assert result.figures["all/entropy"] == pytest.approx(math.log(4))
    assert result.notes == []


def test_samples_of_another_class_have_accuracy_zero(tmp_path, matrices):
    result = evaluate(Corners((1, 2, 3, 0)), tmp_path)
    assert torch.equal(matrices[0], torch.eye(4, dtype=torch.float64).roll(1, dims=1)), "each row is a requested class"
    assert [result.figures[f"{name}/accuracy"] for name in ("all", "a", "d")] == [0] * 3
    assert (result.figures["real/accuracy"], result.figures["all/entropy"]) == (1, pytest.approx(math.log(4)))


def test_collapse_onto_one_class_has_no_entropy():
    figures = evaluate(Corners((0, 0, 0, 0))).figures
    assert (figures["all/accuracy"], figures["a/accuracy"], figures["b/accuracy"]) == (0.25, 1, 0)
    assert figures["all/entropy"] == 0


def test_agreement_of_samples_conditioned_on_an_image():
    """Samples conditioned on z have cos 1 with it; of samples of all four corners, one in four has."""
    figures = evaluate(Corners()).figures
    assert (figures["instances/agreement"], figures["instances/nfe"]) == (1, 7)
    assert (figures["unconditional/agreement"], figures["unconditional/nfe"]) == (0.25, 5)
    assert evaluate(Corners((1, 2, 3, 0))).figures["instances/agreement"] == 0


def test_confusion_matrix_and_entropy():
    labels, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 0])
    assert confusion_matrix(labels, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert entropy(torch.tensor([1, 1, 2])) == pytest.approx(1.5 * math.log(2))
    assert entropy(torch.tensor([3, 0])) == 0


def test_a_mean_latent_is_the_normalised_sum():
    class Known(Corners):
        def encode(self, x):
            return torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])[: len(x)]

    images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    torch.testing.assert_close(mean_latent(Known(), images[:2]), torch.tensor([1.6, 0.8]) / 3.2**0.5)
    with pytest.raises(UserError, match="found none"):
        mean_latent(Known(), images[:0])


def test_a_class_is_the_mean_of_its_own_first_training_images():
    class Bright(Corners):
        def encode(self, x):
            return normalize(x.flatten(1)[:, :4], dim=1)

        def sample_from_latents(self, z, **_):
            return super().sample_from_latents(z)

    data = TinyData()
    for n_encode in (2, 100):
        method = Bright()
        evaluate(method, data=data, n=2, n_encode=n_encode, instances=0, batch_size=3)
        z = torch.cat(method.conditions)
        assert [len(rows) for rows in method.conditions] == [3, 3, 2]
        for row, label in enumerate((0, 0, 1, 1, 2, 2, 3, 3)):
            images = data.train_set.float(data.train_set.labels == label)[:n_encode]
            want = normalize(method.encode(images).mean(0), dim=0)
            torch.testing.assert_close(z[row], want)


def test_rows_of_latents_are_drawn_in_their_order():
    method = Corners()
    z = torch.eye(4)[[2, 0, 3, 1, 1]]
    images, sampled = sample_latents(method, z, batch_size=2)
    assert Nearest(method.images)(images / 127.5 - 1)[1].argmax(1).tolist() == [2, 0, 3, 1, 1]
    assert sampled.nfe == 7
    with pytest.raises(UserError, match="batch_size is 0"):
        sample_latents(method, z, batch_size=0)


def test_chains_of_a_class_start_from_its_mean_image():
    class Starts(Corners, StartsFromImages):
        can_start_from_images = True

        def augmented(self, x):
            return x / 2

        def sample_from_latents(self, z, *, steps=None, generator=None, start=None):
            self.starts.append(start)
            return super().sample_from_latents(z)

    data, method = TinyData(), Starts()
    method.starts = []
    result = evaluate(method, data=data, n=2, start="class_mean", instances=0, batch_size=8)
    for row, label in enumerate((0, 0, 1, 1, 2, 2, 3, 3)):
        want = data.train_set.float(data.train_set.labels == label).mean(0) / 2
        torch.testing.assert_close(torch.cat(method.starts)[row], want)
    assert result.notes == []
    assert "Corners cannot start from class means" in evaluate(Corners(), start="class_mean").notes[0]
    without = without_inference(rounds=1)
    assert "LIEBM cannot start from class means" in evaluate(without, start="class_mean", n=1, samples=1).notes[0]


def test_without_the_classifier_there_are_pictures_and_agreement(tmp_path):
    task = Conditional(ClassifierFeatures("nowhere.ckpt"), n=2)
    assert "nowhere.ckpt" in task.missing()[0]
    result = task(Corners(), TinyData(), tmp_path)
    assert result.notes == task.missing()
    assert "instances/agreement" in result.figures
    assert not any("accuracy" in name for name in result.figures)
    assert result.pictures == [str(tmp_path / f"{name}.png") for name in ("conditional", "instances")]


def test_a_classifier_with_other_classes_is_an_error():
    with pytest.raises(
        UserError, match=r"conditional\.classifier: nearest predicts 3 classes, but 4 are needed \(a, b"
    ):
        evaluate(Corners(), classifier=Nearest(Corners().images[:3], torch.tensor([0, 1, 2])))


def test_a_diverged_chain_is_a_note():
    class Diverges(Corners):
        def sample_from_latents(self, z, **_):
            raise ChainDivergedError("left at step 1")

    result = evaluate(Diverges())
    assert result.notes == [f"{part}: left at step 1" for part in ("all/accuracy", "instances/agreement")]
    assert math.isnan(result.figures["all/accuracy"])


def test_data_without_classes_has_instances_only():
    class One(TinyData):
        def load(self):
            return tuple(type(part)(part.images, 0 * part.labels, ("image",), part.name) for part in super().load())

    result = evaluate(Corners(), data=One())
    assert result.notes == ["tiny has no classes: there is no class to sample"]
    assert {name.partition("/")[0] for name in result.figures} == {"instances", "unconditional"}


def test_conditional_files_and_table(tmp_path):
    result = evaluate(Corners(), tmp_path, n=3)
    assert result.pictures == [str(tmp_path / f"{name}.png") for name in ("conditional", "confusion", "instances")]
    samples = ["sample 1", "sample 2", "sample 3"]
    assert rows_and_columns(result.pictures[0], 4) == (["a", "b", "c", "d"], samples), "a row for each class"
    assert {"predicted class", "requested class", "share of the class's samples"} <= set(labels(result.pictures[1]))
    rows, columns = rows_and_columns(result.pictures[2], 8)
    assert rows == [f"image {i}" for i in range(1, 9)]
    assert columns == ["x", *samples, "sample 4"]
    images = cells(result.pictures[2], 8, 5)[:, 0, :1]
    assert torch.equal(images, TinyData().test_set.images[:8]), "an image, then its samples"
    protocol = json.loads(result.write(tmp_path).read_text())["protocol"]
    assert protocol["chains"]["full"] == {"start": "noise", "steps": 6, "temperature": 0.5}
    assert protocol["classifiers"] == {"nearest": "0123456789ab"}
    text = scorecard(tmp_path, ["conditional"])
    for words in (
        "6 Langevin steps from noise at temperature 0.5",
        "unconditional: 5 Langevin steps from buffer",
        "3 samples per class; conditioned on the mean latent of at most 8 training images",
        "classifier nearest 0123456789ab",
        "8 test images of tiny",
    ):
        assert words in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line}
    assert set("abcd") | {"all", "real", "instances", "unconditional"} <= set(rows)


def test_supported_methods():
    for task in (Conditional(Nearest(Corners().images)), Compositional([{"shape": "star"}], {"shape": None})):
        assert task.supports(Corners())
        assert task.supports(conditional())
        assert not task.supports(without_latent())
        assert not task.supports(Oracle(Corners().images))


@pytest.mark.parametrize("wrong", [{"n": 0}, {"instances": -1}, {"samples": 0}, {"start": "noise"}, {"shown": 0}])
def test_conditional_refuses_impossible_settings(wrong):
    with pytest.raises(UserError, match=rf"conditional\.{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Conditional(Nearest(Corners().images), **wrong)


def test_liebm_supports_both_kinds_of_conditions(tmp_path):
    result = evaluate(conditional(rounds=2), tmp_path, n=2, samples=1, start="class_mean")
    # q, then twice the generator and two steps, with q between
    assert result.figures["all/nfe"] == 1 + 2 * (1 + 2) + 1
    assert result.figures["instances/nfe"] == 2 * (1 + 2) + 1
    assert result.notes == []
    assert all(math.isfinite(value) for value in result.figures.values())


# compositions of attributes

SIZES = [len(values) for values in VALUES]


class Drawn(Oracle, LatentConditional):
    """h(x) encodes all attributes of a shape; samples have the attributes with the most votes among their latents."""

    def __init__(self, heeded=2):
        self.scenes = render(COMBINATIONS.table, 16)
        super().__init__(self.scenes / 127.5 - 1)
        self.heeded = heeded
        self.table = torch.cat([one_hot(column) for column in COMBINATIONS.table.unbind(1)], dim=1).float()
        self.ground = self.table.mean(0)

    def encode(self, x):
        return normalize(self.table[distances(x, self.images).argmin(1)] - self.ground, dim=1)

    def sample_from_latents(self, z, *, steps=None, generator=None):
        values = [part.argmax(1) for part in z[:, : self.heeded].sum(1).split(SIZES, dim=1)]
        return Samples(render(torch.stack(values, dim=1), 16) / 127.5 - 1, 9, "noise", 8, 0.5)


WANTED = [{"shape": "cross", "colour": "blue"}, {"shape": "star", "colour": "red"}]


def test_samples_with_all_requested_values_have_accuracy_one(tmp_path):
    data, judge = shapes(), judges("shape", "colour")
    result = Compositional(WANTED, judge, n=480)(Drawn(), data, tmp_path)
    for row in ("cross+blue", "star+red (held out)"):
        assert [result.figures[f"{row}/{key}"] for key in ("shape", "colour", "all", "nfe")] == [1, 1, 1, 9]
        # unconditional samples are every combination once
        assert result.figures[f"{row}/shape_unconditional"] == pytest.approx(1 / 5)
        assert result.figures[f"{row}/colour_unconditional"] == pytest.approx(1 / 6)
        assert result.figures[f"{row}/all_unconditional"] == pytest.approx(1 / 30)
    assert (result.figures["seen/all"], result.figures["held_out/all"]) == (1, 1)
    for name in judge:
        predicted = judge[name](data.test_set.float())[1].argmax(1)
        right = (predicted == data.test_set.attributes.column(name)).double().mean()
        assert result.figures[f"real/{name}"] == float(right) > 0.9
    assert result.pictures == [str(tmp_path / "compositional.png")]
    rows = ["cross+blue", "star+red (held out)"]
    assert rows_and_columns(tmp_path / "compositional.png", 2) == (rows, [f"sample {i}" for i in range(1, 11)])
    result.write(tmp_path)
    text = scorecard(tmp_path, ["compositional"])
    assert "480 samples per combination" in text
    assert "classifier colour judge 0123456789ab" in text
    assert "star+red (held out)" in text


def test_an_ignored_attribute_lowers_its_accuracy():
    """With the first latent alone, a cross has one colour, and not both of the requested values."""
    wanted = [{"shape": "cross", "colour": colour} for colour in VALUES[1]]
    figures = Compositional(wanted, judges("shape", "colour"), n=4)(Drawn(heeded=1), shapes(), None).figures
    rows = [f"cross+{colour}" for colour in VALUES[1]]
    assert [figures[f"{row}/shape"] for row in rows] == [1] * 6
    assert sum(figures[f"{row}/colour"] for row in rows) == 1
    assert figures["seen/all"] == pytest.approx(1 / 6)
    assert "held_out/all" not in figures


def test_all_at_once_is_not_each_by_itself():
    predicted = {"shape": torch.tensor([3, 3, 0, 0]), "colour": torch.tensor([1, 0, 0, 1])}
    shares = agreements(predicted, COMBINATIONS, {"shape": "star", "colour": "red"})
    assert shares == {"shape": 0.5, "colour": 0.5, "all": 0.25}
    assert agreements({"shape": predicted["shape"]}, COMBINATIONS, {"shape": "star", "colour": "red"}) == {"shape": 0.5}


def test_missing_parts_of_a_composition_are_noted():
    lacking = {"shape": ClassifierFeatures("nowhere.ckpt")} | judges("colour")
    task = Compositional(WANTED[:1], lacking, n=2)
    assert task.missing()[0].startswith("shape: no classifier at nowhere.ckpt")
    result = task(Drawn(), shapes())
    assert result.notes == task.missing()
    assert "cross+blue/colour" in result.figures
    assert not {"cross+blue/shape", "cross+blue/all"} & set(result.figures)
    assert "tiny has no attributes" in task(Drawn(), TinyData()).notes[-1]


@pytest.mark.parametrize(
    ("combinations", "named", "message"),
    [
        ([{"shape": "stare"}], ("shape",), r"combinations: 'stare' is not a value of shape"),
        ([{"shape": "star"}], ("shape", "colour"), r"combinations: no training image of shapes has shape star"),
        ([{"shape": "cross"}], ("colour",), r"classifiers has none for shape"),
        ([{}], ("shape",), r"combinations is \[\{\}\]"),
        ([], ("shape",), r"combinations is \[\]"),
    ],
)
def test_compositional_refuses_impossible_settings(combinations, named, message):
    with pytest.raises(UserError, match=rf"compositional\.{message}"):
        Compositional(combinations, judges(*named), n=2)(Drawn(), shapes(held_out=[{"shape": "star"}]))


def test_a_classifier_of_an_unknown_attribute_is_an_error():
    odd = judges("shape", "colour") | {"mood": Nearest(Corners().images)}
    with pytest.raises(UserError, match=r"classifiers: mood is not among the attributes of shapes"):
        Compositional(WANTED[:1], odd, n=2)(Drawn(), shapes())


# the command line


def test_values_and_classes_by_name():
    images = shapes().train_set
    assert torch.equal(members(images, "blue", "--compose"), images.attributes.where({"colour": "blue"}))
    assert torch.equal(members(TinyData().train_set, "c", "--compose"), TinyData().train_set.labels == 2)
    assert [class_of(TinyData().train_set, wanted, "--class") for wanted in ("b", "3")] == [1, 3]
    with pytest.raises(UserError, match=r"--compose: no attribute of shapes has the value 'rad'; did you mean 'red'"):
        members(images, "rad", "--compose")
    with pytest.raises(UserError, match=r"the value 'xyzzy', only circle, square, .*…"):
        members(images, "xyzzy", "--compose")
    with pytest.raises(UserError, match=r"--class: tiny has no class '4', only 0 to 3: a, b, c, d$"):
        class_of(TinyData().train_set, "4", "--class")
    with pytest.raises(UserError, match=r"'starr', only 0 to 4: circle, .*; did you mean 'star'\?$"):
        class_of(images, "starr", "--class")
    with pytest.raises(UserError, match="no training image of shapes has the value 'star'"):
        members(shapes(held_out=[{"shape": "star"}]).train_set, "star", "--compose")


@pytest.mark.parametrize("flags", [("3", None, None), (None, "x.png", None), (None, None, "a,b")])
def test_a_method_that_cannot_condition_says_so(flags):
    condition = Condition.from_flags(*flags)
    for method in (without_latent(), Oracle(Corners().images)):
        with pytest.raises(UserError, match=rf"{condition.flag} needs a method .* a {type(method).__name__} that"):
            condition.draw(method, TinyData, 2, 8, None)


def test_flags_exclude_each_other():
    assert Condition.from_flags(None, None, None) is None
    with pytest.raises(UserError, match="--class and --like and --compose exclude each other"):
        Condition.from_flags("3", "x.png", "a")


def test_latents_of_a_config_s_own_data():
    config = "data: {class_path: support.tiny.TinyData, init_args: {n: 16}}"
    read = partial(image_data, config, trust=True)
    method, data = Corners(), TinyData(n=16)
    z = Condition.from_flags(None, None, "a, 2").latents(method, read, 5)
    torch.testing.assert_close(z, torch.eye(4)[[0, 2]])
    torch.testing.assert_close(Condition.from_flags("d", None, None).latents(method, read, 5), torch.eye(4)[3])
    assert len(data.train_set) == 16
    with pytest.raises(UserError, match="names no image data"):
        image_data("model: {}")
    with pytest.raises(UserError, match=r"'support.tiny.TinyData' is neither a class of ebmzoo"):
        image_data(config)
