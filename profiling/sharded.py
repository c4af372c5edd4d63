"""`torchrun --nproc_per_node 2 -m profiling.sharded`: what chains can do on an energy whose parameters are sharded."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from ebmzoo.energy import frozen, gradient
from ebmzoo.methods.base.averaging import Average


def energy(normalised: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0))
    if normalised:
        spectral_norm(net[0])
    return net


def fsdp1(net: nn.Sequential) -> nn.Module:
    return FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)


def fsdp2(net: nn.Sequential) -> nn.Module:
    fully_shard(net[0])
    fully_shard(net[3])
    fully_shard(net)
    return net


def error_of_chain(net: nn.Module, x: Tensor) -> float:
    """Of the loss after three steps and a step's backward pass, from that of the network as it was."""
    losses = []
    for one in (net, energy()):
        end = x
        for _ in range(3):
            with frozen(one):
                end = end - 0.1 * gradient(one, end)
        loss = one(torch.cat([x, end])).mean()
        loss.backward()
        losses.append(float(loss))
    return abs(losses[0] - losses[1])


def twice(net: nn.Module, x: Tensor) -> float:
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    grad.square().mean().backward()
    return 0.0


def of_frozen(net: nn.Module, x: Tensor) -> float:
    with frozen(net):
        return of_trainable(net, x)


def of_trainable(net: nn.Module, x: Tensor) -> float:
    return float((gradient(net, x) - gradient(energy(), x)).abs().max())


def copied(net: nn.Module, x: Tensor) -> float:
    Average(net, 0.9, 0).update_parameters(net)
    return 0.0


def main() -> None:
    dist.init_process_group("gloo")
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    asked: dict[str, Callable[[nn.Module, Tensor], float]] = {
        "∇E, parameters trainable": of_trainable,
        "∇E, parameters frozen": of_frozen,
        "a chain and a step": error_of_chain,
        "through ∇E": twice,
        "an average": copied,
    }
    for kind in (fsdp1, fsdp2):
        for name, ask in asked.items():
            try:
                told = f"runs, error {ask(kind(energy()), x):.1g}"
            except Exception as error:  # whatever it is, it is the answer
                told = f"fails: {str(error).splitlines()[0]}"
            if dist.get_rank() == 0:
                print(f"{kind.__name__}: {name}: {told}", flush=True)
            dist.barrier()
        with parametrize.cached():
            gradient(kind(energy(normalised=True)), x)
        if dist.get_rank() == 0:
            print(f"{kind.__name__}: spectral norm, cached: runs", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
