"""What a resumed run must have in common with an uninterrupted one."""

import torch
from lightning.pytorch.loggers.logger import Logger


class Rows(Logger):
    """Records everything that is logged, with its step."""

    name = version = "rows"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, {key: float(value) for key, value in metrics.items()}))


def same(one, two, where=""):
    """Assert that two checkpoints, or parts of them, are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            same(a, b, f"{where}/{i}")
    else:
        assert one == two, where


PARTS = ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "ebmzoo", "callbacks")
