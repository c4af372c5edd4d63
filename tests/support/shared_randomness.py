"""Random numbers of one batch, distributed to its parts: to processes, or to successive smaller batches."""

import torch

from ebmzoo.methods import Method

DRAWN = ("rand", "randn", "randint", "rand_like", "randn_like")


class SharedRandomness:
    """Gives the j-th draw of step t in a `training_step` the random numbers of (t, j); each part gets its own rows.

    Args:
        monkeypatch: pytest's fixture, or any object with its `setattr`.
        parts: The number of batches that make up the whole one.
        part: The index of the part, as a function of the iteration.
        step: The step of the whole batch, as a function of the iteration.
    """

    def __init__(self, monkeypatch, parts=1, part=lambda _: 0, step=lambda iteration: iteration):
        self.at, self.parts, self.draws = None, parts, 0
        for name in DRAWN:
            monkeypatch.setattr(torch, name, self.distributed(getattr(torch, name), name))
        monkeypatch.setattr(torch.Tensor, "uniform_", self.distributed_fill(torch.Tensor.uniform_))
        inner = Method.training_step

        def training_step(method, batch, batch_idx):
            self.at, self.draws = (step(method.global_step), part(method.global_step)), 0
            try:
                inner(method, batch, batch_idx)
            finally:
                self.at = None

        monkeypatch.setattr(Method, "training_step", training_step)

    def generator(self):
        self.draws += 1
        return torch.Generator().manual_seed(1000 * self.at[0] + self.draws)

    def own(self, whole):
        return whole.chunk(self.parts)[self.at[1]].clone()

    def distributed(self, draw, name):
        def drawn(*args, **kwargs):
            if self.at is None or kwargs.get("generator") is not None:
                return draw(*args, **kwargs)
            kwargs.pop("generator", None)
            if name.endswith("_like"):
                whole = getattr(torch, name.removesuffix("_like"))
                like = args[0]
                return whole(like.shape, dtype=like.dtype)
            sizes = [i for i, arg in enumerate(args) if isinstance(arg, tuple | torch.Size)]
            args = list(args)
            if sizes:
                args[sizes[-1]] = (args[sizes[-1]][0] * self.parts, *args[sizes[-1]][1:])
            else:
                args[0] *= self.parts
            return self.own(draw(*args, **kwargs, generator=self.generator()))

        return drawn

    def distributed_fill(self, fill):
        def filled(x, *args, generator=None):
            if self.at is None or generator is not None:
                return fill(x, *args, generator=generator)
            whole = torch.empty(len(x) * self.parts, *x.shape[1:], dtype=x.dtype)
            return x.copy_(self.own(fill(whole, *args, generator=self.generator())))

        return filled
