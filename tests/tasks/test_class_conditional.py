"""Class-conditional samples and fillings on the command line, and both conditional tasks, on exactly known methods."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.commands.conditions import Condition
from ebmzoo.data.shapes import COMBINATIONS, VALUES, render
from ebmzoo.errors import UserError
from ebmzoo.methods import ClassConditional, Inpaints, Samples
from ebmzoo.report.scorecard import scorecard
from ebmzoo.tasks import Compositional, Conditional, Guidance
from ebmzoo.tasks.conditioning import sample_classes
from ebmzoo.training.checkpoint import KEY
from support.corners import Corners, Nearest, distances, judges, shapes
from support.oracle import Oracle
from support.tiny import TinyData, without_latent


class Follower(Oracle, ClassConditional, Inpaints):
    """A method whose samples of class k are the picture `corners[k]`, and whose fillings are black."""

    classes = property(lambda self: len(self.corners))

    def __init__(self, corners=(0, 1, 2, 3)):
        super().__init__(Corners().images)
        self.corners, self.requested, self.guided, self.filled = torch.tensor(corners), [], [], []

    def sample_from_classes(self, labels, *, guidance=0.0, steps=None, generator=None):
        self.requested.append(labels)
        self.guided.append(guidance)
        chosen = self.corners[labels if labels.dim() == 1 else labels[:, 0]]
        return Samples(self.images[chosen], 13, "noise", 6, 1.0)

    def inpaint(self, x, hidden, *, steps=None, generator=None):
        self.filled.append((x, hidden))
        return Samples(torch.where(hidden, -1.0, x), 13, "noise", 6, 1.0)


def evaluate(method, data=None, folder=None, **changes):
    return Conditional(**{"classifier": Nearest(Corners().images), "n": 6} | changes)(
        method, data or TinyData(), folder
    )


# the tasks


def test_accuracy_is_one_for_right_classes_and_zero_for_wrong_ones(tmp_path):
    right, wrong = evaluate(Follower(), folder=tmp_path), evaluate(Follower((1, 2, 3, 0)))
    assert [right.figures[f"{name}/accuracy"] for name in ("all", "a", "b", "c", "d", "real")] == [1] * 6
    assert [wrong.figures[f"{name}/accuracy"] for name in ("all", "a", "b", "c", "d", "real")] == [0] * 5 + [1]
    assert right.figures["all/nfe"] == 13
    assert right.notes == []
    assert not any(name.startswith(("instances", "unconditional")) for name in right.figures), "they need a latent"
    assert right.pictures == [str(tmp_path / f"{name}.png") for name in ("conditional", "confusion")]
    assert right.protocol["guidance"] == 0
    assert not any(key.startswith("encoded") for key in right.protocol)
    right.write(tmp_path)
    assert "6 samples per class" in scorecard(tmp_path, ["conditional"])


def test_classes_are_passed_in_order_with_the_guidance():
    method = Follower()
    evaluate(method, n=3, guidance=1.5, batch_size=5)
    assert torch.cat(method.requested).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [len(labels) for labels in method.requested] == [5, 5, 2]
    assert method.guided == [1.5] * 3


def test_a_label_is_found_among_the_concepts():
    """The colours come after the two sizes in the list of classes that the model was trained with."""
    method = Follower([0] * 8)
    data = shapes(label="colour", concepts=["size", "colour"])
    scenes = render(COMBINATIONS.table, 16) / 127.5 - 1
    judge = Nearest(scenes, COMBINATIONS.column("colour"))
    method.images = scenes[:1]
    result = evaluate(method, data, classifier=judge, n=1)
    assert torch.cat(method.requested).tolist() == [2, 3, 4, 5, 6, 7]
    assert result.figures["red/accuracy"] == 1, "the first scene is red"
    assert result.figures["all/accuracy"] == pytest.approx(1 / 6)


def test_a_label_that_the_model_does_not_know_is_a_note():
    data = shapes(label="colour", concepts=["size", "shape"])
    for task in (Conditional(Nearest(Corners().images)), Guidance(Nearest(Corners().images))):
        result = task(Follower([0] * 7), data)
        assert result.notes == ["the model was trained with size, shape, not the label of shapes"]
        assert result.figures == {}


def test_a_model_with_other_classes_is_an_error():
    with pytest.raises(UserError, match=r"data\.concepts is \['size'\], which gives shapes 2 classes, but .* with 4"):
        evaluate(Follower(), shapes(concepts=["size"]))


class Painter(Oracle, ClassConditional):
    """Paints scenes of the requested colours and shapes, and red circles by default."""

    classes = len(VALUES[1]) + len(VALUES[0])

    def __init__(self):
        super().__init__(render(COMBINATIONS.table, 16) / 127.5 - 1)
        self.requested, self.guided = [], []

    def sample_from_classes(self, labels, *, guidance=0.0, steps=None, generator=None):
        self.requested.append(labels)
        self.guided.append(guidance)
        table = torch.zeros(len(labels), 5, dtype=torch.int64)
        for column in labels.unbind(1):
            colour = column < len(VALUES[1])
            table[:, 1] = torch.where(colour, column, table[:, 1])
            table[:, 0] = torch.where(colour, table[:, 0], column - len(VALUES[1]))
        return Samples(render(table, 16) / 127.5 - 1, 13, "noise", 6, 1.0)


def painted(combinations, method=None, **changes):
    data = shapes(concepts=["colour", "shape"])
    return Compositional(combinations, judges("shape", "colour"), n=4, **changes)(method or Painter(), data, None)


def test_a_composition_is_passed_as_indices_into_all_values_of_the_concepts():
    method = Painter()
    wanted = [{"shape": "cross", "colour": "blue"}, {"shape": "star", "colour": "red"}]
    result = painted(wanted, method, guidance=3.0)
    assert [labels.unique(dim=0).tolist() for labels in method.requested] == [[[6 + 4, 4]], [[6 + 3, 0]]]
    assert [tuple(labels.shape) for labels in method.requested] == [(4, 2)] * 2
    assert method.guided == [3.0, 3.0]
    for row in ("cross+blue", "star+red (held out)"):
        assert [result.figures[f"{row}/{key}"] for key in ("shape", "colour", "all", "nfe")] == [1, 1, 1, 13]
    assert result.protocol["guidance"] == 3
    assert "encoded_a_value" not in result.protocol


def test_one_value_is_a_composition_of_one():
    method = Painter()
    figures = painted([{"colour": "green"}], method).figures
    assert method.requested[0].tolist() == [[2]] * 4
    assert figures["green/all"] == 1


def test_without_concepts_a_composition_has_the_labels_attribute_alone():
    data, method = shapes(), Follower([0] * 5)
    method.images = render(COMBINATIONS.table[:1], 16) / 127.5 - 1
    Compositional([{"shape": "star"}], judges("shape"), n=2)(method, data)
    assert method.requested[0].tolist() == [[3], [3]]
    with pytest.raises(
        UserError, match=r"compositional\.combinations: the model was not trained with colour, only .*shape"
    ):
        Compositional([{"colour": "red"}], judges("colour"), n=2)(method, data)


@pytest.mark.parametrize(
    ("combinations", "message"),
    [
        ([{"size": "large"}], "the model was not trained with size, only with colour, shape"),
        ([{"shape": "stare"}], "'stare' is not a value of shape"),
    ],
)
def test_attributes_without_training_are_an_error(combinations, message):
    with pytest.raises(UserError, match=rf"compositional\.combinations: {message}"):
        Compositional(combinations, judges("shape", "size"), n=2)(Painter(), shapes(concepts=["colour", "shape"]))


def test_supported_methods():
    for task in (Conditional(Nearest(Corners().images)), Compositional([{"shape": "star"}], {"shape": None})):
        assert task.supports(Follower())
        assert not task.supports(Follower(())), "built without classes"


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_guidance_is_a_number(guidance):
    for task, rest in ((Conditional, [None]), (Compositional, [[{"shape": "star"}], {"shape": None}])):
        with pytest.raises(UserError, match=rf"{task.name}\.guidance is {guidance}; it must be a finite number"):
            task(*rest, guidance=guidance)


def test_rows_of_classes_are_drawn_in_their_order():
    method, labels = Follower(), torch.tensor([2, 0, 3, 1, 1])
    images, sampled = sample_classes(method, labels, batch_size=2, guidance=0.5)
    assert distances(images / 127.5 - 1, method.images).argmin(1).tolist() == labels.tolist()
    assert (sampled.nfe, method.guided) == (13, [0.5] * 3)
    with pytest.raises(UserError, match="batch_size is 0"):
        sample_classes(method, labels, batch_size=0)


# the command line


@pytest.fixture
def command(monkeypatch, tmp_path):
    """`ebmzoo sample` with a method in place of a checkpoint's, in an empty folder with two images."""
    monkeypatch.chdir(tmp_path)
    picture = torch.arange(64, dtype=torch.uint8).view(8, 8).numpy()
    Image.fromarray(picture).save("x.png")
    Image.new("L", (9, 8), "white").save("large.png")
    half = Image.new("L", (8, 8), "black")
    half.paste("white", (0, 0, 4, 8))
    half.save("left.png")
    Image.new("L", (8, 8), "black").save("black.png")
    (tmp_path / "text.png").write_text("no image")

    def run(method, *flags, data="{class_path: support.tiny.TinyData, init_args: {n: 16}}", classes=None):
        carried = {"config": f"data: {data}", "data": {"classes": classes}}
        monkeypatch.setattr("ebmzoo.commands.sample.load", lambda path, trust: method)
        monkeypatch.setattr("ebmzoo.commands.sample.read", lambda path: {KEY: carried})
        main(["sample", "--ckpt_path", "any", "--n", "5", "--trust", "true", *flags])

    return run


def made():
    return torch.from_numpy(np.load("s.npz")["images"]).permute(0, 3, 1, 2) / 127.5 - 1


@pytest.mark.parametrize("wanted", ["c", "2"])
def test_samples_of_a_class_by_name_and_index(command, wanted, capsys):
    method = Follower()
    command(method, "--class", wanted, "--guidance", "0.7", "--out", "s.npz", "--batch_size", "3")
    assert torch.equal(made(), method.images[2].expand(5, -1, -1, -1))
    assert [labels.tolist() for labels in method.requested] == [[2, 2, 2], [2, 2]]
    assert method.guided == [0.7, 0.7]
    assert f"5 images of class {wanted} with guidance 0.7: s.npz" in capsys.readouterr().out


def test_a_class_of_another_order_than_in_training_is_refused(command, capsys):
    command(Follower(), "--class", "c", "--out", "s.npz", classes=["a", "b", "c", "d"])
    with pytest.raises(SystemExit):
        command(Follower(), "--class", "c", "--out", "t.npz", classes=["b", "a", "c", "d"])
    assert "trained with the classes b, a, c, d, and the data has a, b, c, d, in this order" in capsys.readouterr().err
    assert not Path("t.npz").exists()


def test_a_composition_of_concepts(command):
    method = Painter()
    data = "{class_path: ebmzoo.data.Shapes, init_args: {size: 16, n_train: 20, n_test: 9, concepts: [colour, shape]}}"
    command(method, "--compose", "star, blue", "--out", "s.npz", data=data)
    assert method.requested[0].tolist() == [[6 + 3, 4]] * 5
    assert method.guided == [0]
    star = torch.tensor([[3, 4, 0, 0, 0]])
    assert torch.equal(made(), (render(star, 16) / 127.5 - 1).expand(5, -1, -1, -1))


def test_fillings_of_an_image(command, capsys):
    method, flags = Follower(), ["--inpaint", "x.png", "--mask", "left.png", "--batch_size", "2", "--out"]
    command(method, *flags, "s.npz")
    want = torch.arange(64.0).view(1, 1, 8, 8).repeat(5, 1, 1, 1) / 127.5 - 1
    want[..., :4] = -1
    assert torch.equal(made(), want)
    assert [len(x) for x, _ in method.filled] == [2, 2, 1]
    x, hidden = method.filled[0]
    assert hidden.expand(1, 1, 8, 8).float().mean() == 0.5
    assert not x[hidden.expand_as(x)].any(), "what is hidden is not handed over"
    assert "5 images of x.png filled in where left.png hides it: s.npz" in capsys.readouterr().out
    command(method, *flags, "s.png")
    grid = np.asarray(Image.open("s.png"))  # 3 columns of 32 pixels and a margin of 2
    tiles = [grid[2 + 34 * (i // 3) :, 2 + 34 * (i % 3) :][:32:4, :32:4, 0] for i in range(7)]
    assert (tiles[0] == np.arange(64).reshape(8, 8)).all(), "first the image"
    assert (tiles[1][:, :4] == 128).all(), "then what is left of it"
    assert (tiles[1][:, 4:] == tiles[0][:, 4:]).all()
    assert all((tile[:, :4] == 0).all() for tile in tiles[2:])
    command(method, *flags, "folder")
    assert len(list(Path("folder").iterdir())) == 5


FILL = ["--inpaint", "x.png", "--mask"]


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        (Follower, ["--class", "e"], "--class: tiny has no class 'e', only 0 to 3: a, b, c, d"),
        (Follower, ["--compose", "a,4"], "--compose: tiny has no class '4', only 0 to 3"),
        (Follower, ["--like", "x.png"], "--like needs a method that samples given its encoder's latents"),
        (Follower, ["--guidance", "1"], "--guidance needs --class or --compose"),
        (Follower, [*FILL, "left.png", "--guidance", "1"], "--guidance needs --class or --compose"),
        (Follower, ["--class", "a", "--guidance", "-1"], "--guidance is -1.0; it must be a finite number, 0 or more"),
        (
            Corners,
            ["--class", "a", "--guidance", "1"],
            "--guidance needs a method trained with classes, such as CDRL, ",
        ),
        (Follower, ["--mask", "left.png"], "--mask needs --inpaint"),
        (Follower, ["--inpaint", "x.png"], "--inpaint needs --mask"),
        (Follower, ["--class", "a", *FILL, "left.png"], "--class and --inpaint exclude each other: use one of them"),
        (Corners, [*FILL, "left.png"], "--inpaint needs a method that fills in what a mask hides, such as CDRL, and"),
        (Follower, [*FILL, "large.png"], "--mask: large.png has 9×8 pixels, but the image has 8×8"),
        (Follower, [*FILL, "black.png"], "--mask: the mask black.png hides nothing"),
        (Follower, [*FILL, "text.png"], "--mask: the mask text.png is not an image file"),
        (Follower, [*FILL, "nowhere.png"], "nowhere.png"),
        (Follower, ["--inpaint", "large.png", "--mask", "left.png"], "--inpaint: large.png has 9×8 pixels"),
        (lambda: Follower(()), ["--class", "a"], "--class needs a method that samples given latents or classes"),
        (lambda: Follower((0, 1)), ["--class", "a"], "data.concepts is None, which gives tiny 4 classes"),
    ],
)
def test_unsupported_requests_are_one_sentence(command, kind, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(kind(), *flags, "--out", "s.png")
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_flags_that_exclude_each_other_are_all_named():
    with pytest.raises(UserError, match="--class and --like and --compose and --inpaint exclude each other"):
        Condition.from_flags("3", "x.png", "a", None, "x.png", "m.png")
    with pytest.raises(UserError, match=r"--inpaint needs a method .* a LIEBM that does not"):
        Condition.from_flags(inpaint="x.png", mask="m.png").draw(without_latent(), "", 2, 8, None)


def test_protocol_is_json(tmp_path):
    protocol = json.loads(evaluate(Follower(), guidance=2.0).write(tmp_path).read_text())["protocol"]
    assert protocol["guidance"] == 2
