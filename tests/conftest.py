"""Tests neither use nor leave what ebmzoo keeps for later commands, but for those about it (`support.keeping`)."""

import gc
import os

import pytest

os.environ["EBMZOO_CACHE"] = "off"


@pytest.fixture(autouse=True)
def no_service_of_another_test():
    """W&B names its service in the environment, where a child of a later test would look for it after its end."""
    os.environ.pop("WANDB_SERVICE", None)
    yield
    os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def fakes_collected():
    """After a test with fake tensors, frees those in reference cycles.

    Left to a collection amid another test, they have crashed the interpreter (a fault in malloc, torch 2.14.1).
    """
    yield
    gc.collect()
