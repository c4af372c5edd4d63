"""Tests neither use nor leave what ebmzoo keeps for later commands, but for those about it (`support.keeping`)."""

import gc
import os

import pytest

os.environ["EBMZOO_CACHE"] = "off"


@pytest.fixture
def fakes_collected():
    """After a test with fake tensors, frees those in reference cycles.

    Left to a collection amid another test, they have crashed the interpreter (a fault in malloc, torch 2.14.1).
    """
    yield
    gc.collect()
