"""Data that becomes NaN at a chosen iteration."""

import torch
from lightning.pytorch.callbacks import Callback


class Poison(Callback):
    """Makes one batch NaN."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.at:
            batch[0].fill_(torch.nan)
