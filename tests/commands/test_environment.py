"""Errors of Lightning and of the memory become a sentence; those of the user's own code do not."""

import pytest
import torch

from ebmzoo.commands.environment import quietly
from ebmzoo.errors import UserError
from support.counting import Counting
from support.tiny import TinyData, trainer


def test_what_lightning_refuses_is_told_in_its_first_sentence(tmp_path):
    words = r"^`val_check_interval` \(1000\) must be less than or equal to the number of the training batches \(2\)\.$"
    with pytest.raises(UserError, match=words), quietly():
        trainer(tmp_path, val_check_interval=1000, limit_val_batches=1).fit(Counting(1), TinyData(n=8, batch_size=4))


def test_errors_of_other_code_keep_their_traceback(tmp_path):
    class Wrong(Counting):
        def iterate(self, images, labels):
            raise ValueError("a mistake. Of the user's own")

    with pytest.raises(ValueError, match="a mistake") as raised, quietly():
        trainer(tmp_path, max_steps=1).fit(Wrong(1), TinyData(n=8, batch_size=4))
    assert not isinstance(raised.value, UserError)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**58, device="cpu"), lambda: bytearray(2**62)])
def test_memory_that_is_not_there_is_told(allocate):
    with (
        pytest.raises(UserError, match=r"the memory is not enough.*; make batch_size, n or the networks smaller"),
        quietly(),
    ):
        allocate()
