"""Energies made of energies: the sphere's constant (law 4), the joint gradient (law 5), the limits of γ."""

import math

import pytest
import torch
from scipy.special import gammaln, ive

from ebmzoo.energy import gradient, savable
from ebmzoo.networks import Denoiser, LatentEnergy, ResNetEncoder, SNGANFeatures
from ebmzoo.sampling.denoiser_energies import DenoisingError, DenoisingPotential
from ebmzoo.sampling.energies import Observed, Product
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import Composed, GivenLatent, Informed, Joint
from ebmzoo.sampling.posterior import Posterior

D = 64


@pytest.fixture
def net():
    torch.manual_seed(0)
    features = SNGANFeatures(in_channels=1, size=8, width=16, out_features=24)
    return LatentEnergy(features, latent=D, hidden=32).eval()


def sphere(n, d=D):
    return torch.nn.functional.normalize(torch.randn(n, d), dim=1)


def log_constant(gamma, d=D):
    """log E exp(γ u·z) over z uniform on the sphere: log Γ(d/2) + (d/2 − 1) log(2/γ) + log I_{d/2−1}(γ)."""
    bessel = math.log(ive(d / 2 - 1, gamma)) + gamma
    return gammaln(d / 2) + (d / 2 - 1) * math.log(2 / gamma) + bessel


@pytest.mark.parametrize(("gamma", "value"), [(0.1, 7.8125e-5), (1.0, 7.8116e-3), (10.0, 0.7722)])
def test_the_spheres_constant(gamma, value):
    assert log_constant(gamma) == pytest.approx(value, rel=1e-3)


def test_marginal_of_the_joint_is_the_marginal_up_to_a_constant(net):
    """log ∫ exp(−E(x, z)) dz + E(x) is the same for all x (law 4)."""
    gamma, x, z = 1.0, torch.randn(6, 1, 8, 8), sphere(200_000)
    with torch.no_grad():
        joint = torch.stack([Joint(net, gamma)(one.expand(1, -1, -1, -1), z) for one in x])
        gap = torch.logsumexp(-joint, dim=1) - math.log(len(z)) + net(x)
    assert float(gap.std()) < 5e-4
    assert gap.mean().item() == pytest.approx(log_constant(gamma), abs=1.2e-3)


def test_joint_gradient_is_marginal_plus_cosine(net):
    """∇E(x, z) against central differences in double precision (law 5)."""
    net, x, z = net.double(), torch.randn(2, 1, 8, 8, dtype=torch.float64), sphere(2).double()
    joint = GivenLatent(Joint(net, 0.7), z)
    got, step = gradient(joint, x), 1e-6
    for index in [(0, 0, 3, 4), (1, 0, 0, 7)]:
        up, down = x.clone(), x.clone()
        up[index] += step
        down[index] -= step
        with torch.no_grad():
            want = (joint(up) - joint(down))[index[0]] / (2 * step)
        assert float(got[index]) == pytest.approx(float(want), rel=1e-6, abs=1e-8)


def test_cosine_part_is_orthogonal_to_its_argument(net):
    u = torch.randn(5, D, requires_grad=True)
    (grad,) = torch.autograd.grad(torch.cosine_similarity(u, sphere(5), dim=1).sum(), u)
    torch.testing.assert_close((grad * u).sum(1), torch.zeros(5), atol=1e-6, rtol=0)


def test_gamma_zero_is_the_marginal(net):
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(Joint(net, 0.0)(x, sphere(3)), net(x))
    assert torch.equal(gradient(GivenLatent(Joint(net, 0.0), sphere(3)), x), gradient(net, x))


def test_agreement_lowers_the_energy(net):
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        own = torch.nn.functional.normalize(net.project(net.features(x)), dim=1)
        torch.testing.assert_close(Joint(net, 2.0)(x, own), net(x) - 2.0)
        torch.testing.assert_close(Joint(net, 2.0)(x, -own), net(x) + 2.0)


def test_composition_of_one_latent_is_the_conditional_energy(net):
    x, z = torch.randn(3, 1, 8, 8), sphere(3)
    one, conditional = Composed(Joint(net, 0.7), z[:, None]), GivenLatent(Joint(net, 0.7), z)
    torch.testing.assert_close(one(x), conditional(x))
    torch.testing.assert_close(gradient(one, x), gradient(conditional, x))


def test_composition_is_equation_15(net):
    """E(x) − γ Σₖ cos(g(f(x)), zₖ), and ∇ of it is the marginal's minus γ times the cosines' (law 5)."""
    net, gamma = net.double(), 0.7
    x, z = torch.randn(3, 1, 8, 8, dtype=torch.float64), sphere(12).double().view(3, 4, D)

    def cosine(k):
        def cos(y):
            own = net.project(net.features(y))
            return (own * z[:, k]).sum(1) / own.norm(dim=1)

        return cos

    energy = Composed(Joint(net, gamma), z)
    torch.testing.assert_close(energy(x), net(x) - gamma * sum(cosine(k)(x) for k in range(4)))
    want = gradient(net, x) - gamma * sum(gradient(cosine(k), x) for k in range(4))
    torch.testing.assert_close(gradient(energy, x), want)
    # the marginal stands there once, however many latents there are
    assert torch.equal(Composed(Joint(net, 0.0), z)(x), net(x))


def test_the_same_latent_twice_is_twice_gamma(net):
    x, z = torch.randn(3, 1, 8, 8), sphere(3)
    twice = Composed(Joint(net, 0.7), z[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(twice(x), GivenLatent(Joint(net, 1.4), z)(x))
    torch.testing.assert_close(gradient(twice, x), gradient(GivenLatent(Joint(net, 1.4), z), x))


def test_one_composition_serves_all_images(net):
    x, z = torch.randn(3, 1, 8, 8), sphere(2)[None]
    torch.testing.assert_close(Composed(Joint(net, 0.7), z)(x), Composed(Joint(net, 0.7), z.expand(3, -1, -1))(x))


def test_informed_differentiates_through_the_encoder(net):
    torch.manual_seed(1)
    encoder = ResNetEncoder(1, width=8, blocks=[1, 1], latent=D, hidden=16, mean=None, std=None).eval()
    x = torch.randn(2, 1, 8, 8)
    total = gradient(Informed(Joint(net, 5.0), encoder), x)
    held = gradient(GivenLatent(Joint(net, 5.0), encoder(x).detach()), x)
    assert not torch.allclose(total, held, atol=1e-5)
    # holding the energy's part fixed, what is left is the encoder's: their sum is the total derivative
    own = net.project(net.features(x)).detach()
    through = gradient(lambda y: -5.0 * torch.cosine_similarity(own, encoder(y), dim=1), x)
    torch.testing.assert_close(total, held + through, rtol=1e-3, atol=1e-5)


def test_conditional_energies_have_gradients_for_latents_made_under_inference_mode(net):
    with torch.inference_mode():
        z = sphere(2)
    Langevin(2, 0.1)(GivenLatent(Joint(net, 0.5), z), torch.randn(2, 1, 8, 8))
    Langevin(2, 0.1)(Composed(Joint(net, 0.5), z[:, None]), torch.randn(2, 1, 8, 8))


class Scaled(Denoiser):
    """r(x, σ) = w x."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, sigma):
        return self.w * x


@pytest.mark.parametrize(
    "make",
    [
        lambda fixed: DenoisingError(Scaled(), fixed[:, 0]),
        lambda fixed: DenoisingPotential(Scaled(), fixed[:, 0]),
        lambda fixed: Observed(lambda x: x.square().flatten(1).sum(1), lambda x: x * fixed.new_ones(()), fixed, 0.5),
        lambda fixed: Posterior(lambda z: z * torch.nn.Parameter(torch.ones(())), fixed, 0.5),
    ],
    ids=["denoising error", "denoising potential", "observed", "posterior"],
)
def test_energies_have_gradients_for_tensors_made_under_inference_mode(make):
    with torch.inference_mode():
        fixed, x = torch.rand(3, 4) + 0.5, torch.randn(3, 4)
    assert savable(fixed) is not fixed
    assert not savable(fixed).is_inference()
    normal = savable(fixed)
    assert savable(normal) is normal
    torch.manual_seed(0)
    found = gradient(make(fixed), x)
    torch.manual_seed(0)
    assert torch.equal(found, gradient(make(normal), savable(x)))
    assert found.abs().max() > 0


def test_product_adds_energies(net):
    x = torch.randn(3, 1, 8, 8)
    other = lambda y: y.square().flatten(1).sum(1)  # noqa: E731
    torch.testing.assert_close(Product((net, other))(x), net(x) + other(x))
    torch.testing.assert_close(Product((net, other), (0.5, -2.0))(x), 0.5 * net(x) - 2 * other(x))
    # two unit Gaussians at ±1 make one of variance 1/2 at 0
    two = Product((lambda y: (y - 1).square().sum(1) / 2, lambda y: (y + 1).square().sum(1) / 2))
    drawn = Langevin(200, 0.01)(two, torch.randn(50_000, 1))
    assert float(drawn.var()) == pytest.approx(0.5 / (1 - 0.01), rel=0.03)
