"""Every method trains in each precision that `trainer.precision` allows, and refuses the others in a sentence."""

import copy

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods.base.method import PRECISIONS, check_precision
from support.family import FAMILY
from support.tiny import TinyData, trainer


@pytest.mark.parametrize("precision", [precision for precision in PRECISIONS if precision != "32-true"])
@pytest.mark.parametrize("name", FAMILY)
def test_a_step_is_trained_and_validated(name, precision, tmp_path):
    method, data = FAMILY[name](), TinyData(n=8, batch_size=8)
    before = copy.deepcopy(method.state_dict())
    fit = trainer(tmp_path, precision=precision, max_steps=1, limit_val_batches=1)
    fit.fit(method, data)
    assert fit.global_step == 1
    wide = torch.float64 if precision == "64-true" else torch.float32
    assert {p.dtype for p in method.parameters()} == {wide}
    after = method.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values() if value.is_floating_point())
    assert any(not torch.equal(before[key].to(after[key]), after[key]) for key, _ in method.named_parameters())
    images = torch.zeros(2, 1, 8, 8, dtype=wide)
    with method.evaluating():
        assert method.energy(images).dtype == wide, "the energies of bf16 networks are fp32"


@pytest.mark.parametrize("precision", ["16-mixed", "16", 16, "16-true", "bf16-true", "transformer-engine"])
def test_other_precisions_are_refused(precision):
    with pytest.raises(UserError, match=rf"trainer\.precision is {precision}; .* 32-true, bf16-mixed, 64-true"):
        check_precision(precision)


@pytest.mark.parametrize("precision", [None, *PRECISIONS, "32", 32, "bf16", "64"])
def test_short_names_are_taken(precision):
    check_precision(precision)


def test_a_trainer_of_another_precision_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"trainer\.precision is bf16-true"):
        trainer(tmp_path, precision="bf16-true", max_steps=1).fit(FAMILY["VAE"](), TinyData(n=8, batch_size=8))
