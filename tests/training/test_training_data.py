"""What checkpoints state of the training data, and what is said when the data of a later command differ."""

import pytest
import torch

from ebmzoo.data import Digits, GaussianMixture, ImageSet
from ebmzoo.errors import UserError
from ebmzoo.training.training_data import TrainingData
from support.tiny import TinyData


class Renamed(TinyData):
    """The same images, whose classes are called otherwise."""

    def __init__(self, *names):
        super().__init__()
        self.names = names

    def load(self):
        return tuple(ImageSet(s.images, s.labels, self.names, s.name) for s in super().load())


def test_what_is_saved_is_read_again_through_a_checkpoint(tmp_path):
    data = TrainingData.of(TinyData())
    torch.save({"data": data.saved()}, tmp_path / "x")
    again = TrainingData.read(torch.load(tmp_path / "x", weights_only=True))
    assert (again.record, again.classes) == (data.record, data.classes)
    assert torch.equal(again.images, data.images)


def test_a_checkpoint_of_before_states_nothing_and_nothing_is_said():
    unknown = TrainingData.read({})
    assert unknown == TrainingData()
    assert unknown.warnings(TinyData()) == []
    unknown.check_classes(("x",))


def test_points_have_a_record_and_no_images():
    data = GaussianMixture(n_train=20, n_test=10)
    found = TrainingData.of(data)
    assert found.images is None
    assert found.record["train"]["n"] == 20
    assert found.warnings(data) == []
    assert "now 21 of" in found.warnings(GaussianMixture(n_train=21, n_test=10))[0]


def test_other_images_are_named_with_their_digests():
    before, after = TrainingData.of(TinyData()), TrainingData.of(TinyData(n=40))
    change = before.change(after)
    for word in ("32 of tiny", "40 of tiny", before.record["train"]["digest"], after.record["train"]["digest"]):
        assert word in change
    assert before.change(TrainingData.of(TinyData(batch_size=4))) is None


def test_test_images_that_were_trained_on_are_counted():
    class Leaking(TinyData):
        def load(self):
            train, test = super().load()
            return train, ImageSet(torch.cat([test.images[3:], train.images[:3]]), test.labels, test.classes, test.name)

    trained = TrainingData.of(TinyData())
    assert trained.warnings(TinyData()) == []
    assert trained.warnings(Leaking()) == ["the run was trained on 3 of the 16 test images, to the pixel"]


def test_the_digits_test_set_was_not_trained_on():
    assert TrainingData.of(Digits()).warnings(Digits()) == []


def test_classes_of_another_order_are_refused():
    """Folders `0…9` and `zero…nine` hold the same images in another order of their names."""
    trained = TrainingData.of(Renamed("a", "b", "c", "d"))
    trained.check_classes(("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"the classes a, b, c, d, and the data has b, a, c, d, in this order"):
        trained.check_classes(("b", "a", "c", "d"))
