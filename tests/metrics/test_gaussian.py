"""The likelihood of a Gaussian of images against one whose mean and covariance are known."""

import pytest
import torch

from ebmzoo.metrics.gaussian import gaussian_log_likelihood


def test_the_likelihood_of_the_true_gaussian_is_found():
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    train, x = (torch.randn(n, 3, generator=generator, dtype=torch.float64) @ factor + 1 for n in (200_000, 500))
    truth = torch.distributions.MultivariateNormal(torch.ones(3, dtype=torch.float64), factor.T @ factor)
    found = gaussian_log_likelihood(train.view(-1, 3, 1, 1), x.view(-1, 3, 1, 1))
    assert found == pytest.approx(float(truth.log_prob(x).mean()), abs=5e-3)


@pytest.fixture
def unvalidated():
    """Distributions that do not check their arguments unless told to, as another package may have set it."""
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(__debug__)


def test_images_in_which_a_pixel_never_changes_have_no_gaussian(unvalidated):
    images = torch.rand(9, 1, 2, 2)
    images[:, 0, 0, 0] = 0
    with pytest.raises(ValueError, match="covariance"):
        gaussian_log_likelihood(images, images)
