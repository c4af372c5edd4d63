"""A CUDA device that is not there: its tensors are fake, those of the host are real, and each wait for it is noted.

A tensor that is left on the host meets one of the device in an operation, which torch then refuses. Where the host asks
for a value that only the device has, it gets one that is made up, and the place that asked is noted.
"""

import sys
import warnings
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import ebmzoo
from ebmzoo.commands.estimate.fake import UnstartedTrainer, replace_by_fakes

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
SOURCE = str(Path(ebmzoo.__file__).parent)


class Elsewhere(TorchDispatchMode):
    """Operations on tensors of the device that is not there; `waits` counts the places that waited for it."""

    def __init__(self):
        super().__init__()
        self.fake, self.waits = FakeTensorMode(allow_non_fake_inputs=True), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        fakes = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        device = kwargs.get("device")
        target = None if device is None else torch.device(device).type
        if not fakes and target != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if "generator" in kwargs:
            kwargs["generator"] = None  # a real one is of the host
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor) and args[0].is_cuda:
            self._note()
            with unset_fake_temporarily():
                return made_up(args[0]).item()
        if func is aten.equal.default:
            self._note()
            return True
        if func is aten.nonzero.default:
            self._note()
            return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
        if fakes and target == "cpu":  # a copy to the host, or a tensor made there like one of the device
            if func is aten._to_copy.default:
                self._note()
            like = func(*args, **kwargs)
            with unset_fake_temporarily():
                return made_up(like)
        if func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            self._note()
            with unset_fake_temporarily():
                return args[0].copy_(made_up(args[1]))
        if func in (aten.index.Tensor, aten.index_put_.default) and any(is_mask(i) for i in args[1] if i is not None):
            self._note()
            args = (args[0], [self._chosen(i) for i in args[1]], *args[2:])
        return func(*args, **kwargs)

    def _chosen(self, index):
        """All places of a mask, where nobody knows which."""
        if index is None or not is_mask(index):
            return index
        assert index.dim() == 1
        return torch.arange(len(index), device=index.device)

    def _note(self):
        """Count the innermost function of the package that waits."""
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(SOURCE):
            frame = frame.f_back
        code = frame and frame.f_code
        self.waits[f"{code.co_filename[len(SOURCE) + 1 :]}: {code.co_name}" if code else "not in the package"] += 1


def is_mask(index):
    return index.dtype in (torch.bool, torch.uint8)


def made_up(like):
    """Values on the host in the shape and type of `like`."""
    shape, dtype = tuple(like.shape), like.dtype
    if dtype.is_floating_point:
        return torch.rand(shape).to(dtype)  # not below 0, as square roots and logarithms are taken of them
    return torch.ones(shape, dtype=dtype) if dtype == torch.bool or not shape else torch.zeros(shape, dtype=dtype)


def _grad(outputs, inputs, *args, **kwargs):
    """The engine asks for a real context, which is not there."""
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    return tuple(torch.empty_like(x) for x in inputs)


def backward_of(module):
    def backward(loss, *args, **kwargs):
        for p in module.parameters():
            if p.requires_grad:
                p.grad = torch.empty_like(p)

    return backward


@contextmanager
def on_a_device(module, precision="32-true", iterations=100, an_epoch=10):
    """The module on the device, with its trainer, within the mode; yields the mode and the trainer."""
    elsewhere = Elsewhere()
    replace_by_fakes(module, elsewhere.fake, CUDA)
    trainer = UnstartedTrainer(iterations, an_epoch, accelerator="cpu", max_epochs=1000)
    if precision != "32-true":
        trainer.strategy.precision_plugin = MixedPrecision(precision, "cuda")
    generator = torch.Generator
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # a copy of a network does
        for name, stub in {
            "torch.autograd.grad": _grad,
            "torch.Tensor.backward": backward_of(module),
            "torch.Generator": lambda device="cpu": generator(),
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.cuda.is_bf16_supported": lambda *_: True,
        }.items():
            stack.enter_context(patch(name, stub))
        if isinstance(module, LightningModule):
            stack.enter_context(trainer.attached(module))
        stack.enter_context(elsewhere.fake)
        stack.enter_context(elsewhere)
        yield elsewhere, trainer
