"""Probes of a frozen representation: the accuracy of k nearest neighbours and of a linear classifier."""

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
    """Return the features `(N, D)` of all `images`, float32 on the network's device.

    >>> encode(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(3, 1, 2, 2, dtype=torch.uint8)).shape
    torch.Size([3, 2])

    Args:
        network: The network; it is in evaluation mode meanwhile.
        images: uint8 images `(N, C, H, W)`, moved to the network's device batch by batch.
        batch_size: The largest number of images in one pass.
        read: The method of `network` that returns the features; None for its forward pass.
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
    """Return the accuracy of a vote of the `k` nearest training images by cosine similarity, in [0, 1].

    Of several classes with the most votes, the class of the nearest of their images wins.

    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> knn_accuracy(x, y, torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor([0, 0]), k=1)
    0.5

    Args:
        train_features: Features of the training images, `(N, D)`.
        train_labels: Their labels, `(N,)`.
        test_features: Features of the test images, `(M, D)`.
        test_labels: Their labels, `(M,)`.
        k: The number of neighbours.

    Raises:
        UserError: If `k` is not between 1 and the number of training images.
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
    """Return the test accuracy, in [0, 1], of softmax(W f̂ + b) trained with Adam on standardized features f̂.

    The protocol is that of Ermolov et al., 2021: batches of 1000, and a learning rate that falls from `lr` to `lr_end`
    by the same factor in each epoch. Standardizing by the training images is an addition of this package.

    Args:
        train_features: Features of the training images, `(N, D)`.
        train_labels: Their labels, `(N,)`.
        test_features: Features of the test images, `(M, D)`.
        test_labels: Their labels, `(M,)`.
        epochs: Passes over the training features.
        lr: Learning rate of the first epoch.
        lr_end: Learning rate after the last epoch.
        batch_size: Features in one step.
        weight_decay: Weight decay of Adam.
        seed: Seed of the order of the batches.
    """
    device = train_features.device
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        # Inference tensors cannot enter autograd; their clones can.
        train, test = train_features.detach().clone().float(), test_features.detach().clone().float()
        train_labels, test_labels = train_labels.to(device).clone(), test_labels.to(device).clone()
        std, mean = torch.std_mean(train, dim=0)
        train, test = (train - mean) / (std + 1e-6), (test - mean) / (std + 1e-6)
        # The problem is convex and starts from zero: only the order of the batches is random.
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
