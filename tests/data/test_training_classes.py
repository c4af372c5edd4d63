"""What a model that follows classes is told of its data."""

import pytest
import torch

from ebmzoo.data import Shapes
from ebmzoo.errors import UserError
from support.tiny import TinyData


def test_without_concepts_it_is_the_label():
    data = TinyData()
    names, labels = data.training_classes
    assert names == ("a", "b", "c", "d")
    assert torch.equal(labels, data.train_set.labels)


def test_concepts_are_one_list_of_classes():
    data = Shapes(size=16, n_train=40, n_test=4, batch_size=40, concepts=["colour", "shape"])
    names, labels = data.training_classes
    table = data.train_set.attributes
    assert names == (*table.values[1], *table.values[0])
    assert torch.equal(labels[:, 0], table.column("colour"))
    assert torch.equal(labels[:, 1], table.column("shape") + 6)
    images, told = next(iter(data.train_dataloader()))
    for image, row in zip(images, told, strict=True):
        at = int((data.train_set.images == image).flatten(1).all(1).nonzero()[0])
        assert torch.equal(row, labels[at])


@pytest.mark.parametrize(("concepts", "told"), [(["taste"], "concepts: 'taste'"), ([], "concepts: no attribute")])
def test_an_unknown_concept_is_named(concepts, told):
    with pytest.raises(UserError, match=told):
        _ = Shapes(size=16, n_train=4, n_test=4, concepts=concepts).training_classes


def test_data_without_attributes_has_no_concepts():
    with pytest.raises(UserError, match="tiny has no attributes"):
        _ = TinyData(concepts=["shape"]).training_classes
