"""The likelihood of a Gaussian that is fitted to images, which a model of them should have to beat."""

import torch
from torch import Tensor


def gaussian_log_likelihood(train: Tensor, x: Tensor) -> float:
    """The mean of log N(x; μ, Σ) in nats, with the mean μ and the covariance Σ of other images.

    Args:
        train: The images of μ and Σ, `(n, C, H, W)` with n > C·H·W, no pixel of which is the same in all.
        x: The images whose likelihood it is, `(m, C, H, W)`.

    Raises:
        ValueError: Σ has no inverse.
    """
    train, x = train.double().flatten(1), x.double().flatten(1)
    gaussian = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T), validate_args=True)
    return float(gaussian.log_prob(x).mean())  # type: ignore[no-untyped-call]
