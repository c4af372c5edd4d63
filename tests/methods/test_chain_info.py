"""What a method states of its chain without drawing is what its samples say; for every method and number of steps."""

import re

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import Method
from support.family import FAMILY


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("steps", [None, 0, 2])
def test_facts_of_the_chain_are_those_of_its_samples(name, steps):
    torch.manual_seed(0)
    method = FAMILY[name]().eval()
    try:
        samples = method.sample(2, steps=steps)
    except UserError as refused:  # a method without a chain takes no steps
        with pytest.raises(UserError, match=re.escape(str(refused))):
            method.chain_info(steps)
        return
    info = method.chain_info(steps)
    assert (info.nfe, info.start, info.steps) == (samples.nfe, samples.start, samples.steps)
    assert info.temperature == pytest.approx(samples.temperature, nan_ok=True)


@pytest.mark.parametrize("name", FAMILY)
def test_the_shape_of_images_is_known_without_drawing(name):
    method = FAMILY[name]().eval()
    with method.evaluating():
        shape = tuple(method.sample(1, steps=0).images.shape[1:])
    assert method.image_shape == shape


@pytest.mark.parametrize("name", FAMILY)
def test_stating_either_draws_no_random_numbers(name):
    method = FAMILY[name]().eval()
    before = torch.get_rng_state()
    with method.evaluating():
        assert method.chain_info().nfe > 0
        assert len(method.image_shape) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert type(method).chain_info is not Method.chain_info
