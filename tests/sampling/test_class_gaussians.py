"""The Gaussians of classes have the moments of the training images, and energies given classes are their equation."""

import pytest
import torch

from ebmzoo.data import ImageSet
from ebmzoo.data.images import to_float
from ebmzoo.errors import UserError
from ebmzoo.networks import WideResNet
from ebmzoo.sampling import ClassGaussians, GivenClasses


def images(n=60, kinds=2):
    """Grey images of few distinct values: far from black and white, so that nothing is clamped."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % kinds
    base = torch.randint(-20, 20, (n, 1, 2, 2), generator=generator) + 30 * labels[:, None, None, None]
    base[:, :, 0, 1] = base[:, :, 0, 0]  # two pixels are always equal
    return ImageSet((base + 110).to(torch.uint8), labels, ("a", "b")[:kinds], "grey")


def test_samples_have_the_moments_of_their_class():
    data = images()
    gaussians = ClassGaussians(2, (1, 2, 2))
    gaussians.fit(data)
    made = gaussians.sample(torch.arange(2).repeat(20_000), torch.Generator().manual_seed(1)).flatten(1).double()
    for label in (0, 1):
        x, mine = to_float(data.images[data.labels == label]).flatten(1).double(), made[label::2]
        want = torch.cov(x.T, correction=0) + 1e-4 * torch.eye(4)
        torch.testing.assert_close(gaussians.factor[label] @ gaussians.factor[label].T, want.float())
        torch.testing.assert_close(mine.mean(0), x.mean(0), rtol=0, atol=0.005)
        torch.testing.assert_close(torch.cov(mine.T), want, rtol=0.03, atol=1.5e-4)


def test_samples_are_clamped_and_of_the_classes_asked_for():
    data = images()
    bright = ImageSet((data.images // 128 + 254).clamp(0, 255), data.labels, data.classes, data.name)
    gaussians = ClassGaussians(2, (1, 2, 2))
    gaussians.fit(bright)
    assert float(gaussians.sample(torch.zeros(100, dtype=torch.int64)).max()) == 1
    gaussians.fit(data)
    made = gaussians.sample(torch.tensor([1, 0, 1, 1]), torch.Generator().manual_seed(0)).mean((1, 2, 3))
    assert made.sort().indices[0] == 1, "class 1 is brighter by 30 levels"


def test_a_class_without_images_is_named():
    data = images()
    one = ImageSet(data.images[::2], data.labels[::2], data.classes, data.name)
    with pytest.raises(UserError, match="grey has no image of class b"):
        ClassGaussians(2, (1, 2, 2)).fit(one)


def test_the_moments_are_part_of_a_checkpoint():
    one, two = ClassGaussians(2, (1, 2, 2)), ClassGaussians(2, (1, 2, 2))
    one.fit(images())
    two.load_state_dict(one.state_dict())
    labels = torch.tensor([0, 1])
    same = [each.sample(labels, torch.Generator().manual_seed(0)) for each in (one, two)]
    assert torch.equal(*same)


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("m", [1, 2])
def test_energies_of_classes_are_guided_and_composed(m, guidance):
    torch.manual_seed(0)
    net, x = WideResNet(1, classes=4, depth=10, widen=1).double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    labels = torch.tensor([[0, 1], [2, 3], [3, 0]])[:, :m]
    joint = torch.stack([-net.logits(x)[range(3), labels[:, k]] for k in range(m)]).sum(0)
    want = (1 + guidance) * joint - (m * guidance + m - 1) * net(x)
    torch.testing.assert_close(GivenClasses(net, labels, guidance)(x), want)
