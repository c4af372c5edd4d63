"""Random numbers of one batch, dealt out to the parts that it is cut into: processes, or batches one after another."""

import torch

from ebmzoo.methods import Method

DRAWN = ("rand", "randn", "randint", "rand_like", "randn_like")


class Alike:
    """Within a `training_step` the j-th draw of step t has the numbers of (t, j), of which a part has its own rows.

    Args:
        monkeypatch: pytest's, or anything with its `setattr`.
        parts: how many batches make up the whole one.
        part: which of them this is, as a function of the iteration.
        step: of which step of the whole this iteration is.
    """

    def __init__(self, monkeypatch, parts=1, part=lambda _: 0, step=lambda iteration: iteration):
        self.at, self.parts, self.draws = None, parts, 0
        for name in DRAWN:
            monkeypatch.setattr(torch, name, self.dealing(getattr(torch, name), name))
        monkeypatch.setattr(torch.Tensor, "uniform_", self.filling(torch.Tensor.uniform_))
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

    def dealing(self, draw, name):
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

    def filling(self, fill):
        def filled(x, *args, generator=None):
            if self.at is None or generator is not None:
                return fill(x, *args, generator=generator)
            whole = torch.empty(len(x) * self.parts, *x.shape[1:], dtype=x.dtype)
            return x.copy_(self.own(fill(whole, *args, generator=self.generator())))

        return filled
