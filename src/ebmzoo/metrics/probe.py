"""How much of the classes a representation holds: k nearest neighbours and a linear classifier on frozen features."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError


@torch.no_grad()
def encode(
    network: nn.Module, images: Tensor, batch_size: int = 512, *, read: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """What `read` (a method of `network`, its forward if none is given) says of uint8 images `(N, C, H, W)`: `(N, D)`.

    `network` is in eval mode meanwhile; images are moved to its device batch by batch, and the result stays there.
    """
    read = network if read is None else read
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        return torch.cat([read(to_float(batch.to(device))).float() for batch in torch.split(images, batch_size)])
    finally:
        network.train(training)


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, k: int = 5
) -> float:
    """The part of the test images whose class most of their `k` nearest training images have, by cosine similarity.

    Features are `(N, D)` and labels `(N,)`; of the classes with most votes the one of the nearest image wins.

    Raises:
        UserError: If there are fewer than `k` training images.
    """
    if not 1 <= k <= len(train_features):
        raise UserError(f"k is {k}; it must be between 1 and the number of training images, {len(train_features)}")
    train, test = F.normalize(train_features, dim=1), F.normalize(test_features, dim=1)
    train_labels, test_labels = train_labels.to(train.device), test_labels.to(train.device)
    # The bonuses of 1/2, 1/4, … sum to less than one vote, and each outweighs all farther ones.
    votes = 1 + 0.5 ** torch.arange(1, k + 1, dtype=torch.float64, device=train.device)
    correct = 0
    for features, labels in zip(torch.split(test, 1024), torch.split(test_labels, 1024), strict=True):
        neighbours = train_labels[(features @ train.mT).topk(k).indices]
        ballots = torch.zeros(len(labels), int(train_labels.max()) + 1, dtype=votes.dtype, device=train.device)
        winners = ballots.scatter_add_(1, neighbours, votes.expand(len(labels), k)).argmax(1)
        correct += int((winners == labels).sum())
    return correct / len(test)


def linear_probe(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    epochs: int = 500,
    lr: float = 1e-2,
    lr_end: float = 1e-6,
    batch_size: int = 1000,
    weight_decay: float = 5e-6,
    seed: int = 0,
) -> float:
    """The test accuracy of softmax(W f̂ + b) trained by Adam, f̂ being features standardised by the training images.

    The protocol of Ermolov et al. (2021): the learning rate falls from `lr` to `lr_end` by the same factor each epoch,
    in batches of 1000; standardising is ours. Features are `(N, D)`, labels `(N,)`.
    """
    device = train_features.device
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        # Tensors made under inference mode cannot be differentiated through; their clones can.
        train, test = train_features.detach().clone().float(), test_features.detach().clone().float()
        train_labels, test_labels = train_labels.to(device).clone(), test_labels.to(device).clone()
        std, mean = torch.std_mean(train, dim=0)
        train, test = (train - mean) / (std + 1e-6), (test - mean) / (std + 1e-6)
        # Convex from zero: only the order of the batches is random.
        classes = int(train_labels.max()) + 1
        weight = torch.zeros(classes, train.shape[1], device=device, requires_grad=True)
        bias = torch.zeros(classes, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([weight, bias], lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, (lr_end / lr) ** (1 / epochs))
        order = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(train), generator=order).to(device), batch_size):
                optimizer.zero_grad()
                F.cross_entropy(F.linear(train[batch], weight, bias), train_labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            schedule.step()
        return float((F.linear(test, weight, bias).argmax(1) == test_labels).float().mean())
