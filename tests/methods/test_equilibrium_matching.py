"""Equilibrium Matching with its explicit energy against the laws of its target and of its descent."""

import math

import pytest
import torch

from ebmzoo.energy import EnergyNet, gradient
from ebmzoo.errors import UserError
from ebmzoo.methods import EquilibriumMatching
from ebmzoo.methods.equilibrium_matching import corrupted, speed, time_at
from ebmzoo.networks import FieldEnergy, UNet
from ebmzoo.sampling import Langevin
from support.tiny import TinyData, equilibrium_matching, trainer


class Quadratic(EnergyNet):
    """E(x) = k|x|²/2."""

    def __init__(self, k):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(float(k)))

    def forward(self, x):
        return self.k * x.square().flatten(1).sum(1) / 2


class Funnel(EnergyNet):
    """E of data at 0: its gradient is of length 4√d outside of the radius 0.2√d, and 20|x| within."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        r, edge = x.flatten(1).norm(dim=1), 0.2 * math.sqrt(x[0].numel())
        return self.one * torch.where(r > edge, 20 * edge * r - 10 * edge**2, 10 * r.square())


def test_the_speed_is_four_until_it_slows_and_3_6_on_average():
    gamma = torch.linspace(0, 1, 10001)
    assert speed(gamma).max() == 4
    assert float(speed(gamma).mean()) == pytest.approx(3.6, abs=1e-3)
    assert speed(torch.tensor([0.79, 0.95, 1.0])).tolist() == pytest.approx([4, 1, 0], abs=1e-5)


@pytest.mark.parametrize(("c", "k"), [(0.5, 3.76), (1.0, 0.52), (0.0, 5.92)])
def test_the_best_linear_force_has_the_slope_of_the_law(c, k):
    """−∇E = −k x with k = 3 (148/75 − 122/75 c²)/(1 + c²) on data N(0, c² I)."""
    assert 3 * (148 / 75 - 122 / 75 * c**2) / (1 + c**2) == pytest.approx(k, abs=0.01)
    torch.manual_seed(0)
    x, target = corrupted(c * torch.randn(2000, 1, 20, 20))
    assert float((x * target).sum() / x.square().sum()) == pytest.approx(k, abs=0.1)


def test_the_loss_is_zero_where_the_law_is_and_moves_towards_it(tmp_path):
    """Black images of d elements: |∇E| is 4√d, then 20|x|, up to the spread of |ε| about √d."""
    data = TinyData(n=16)
    data.setup("fit")
    data.train_set.images.fill_(127)
    method = equilibrium_matching(energy_net=Funnel())
    seen = []
    monitored = trainer(tmp_path, max_steps=1)
    iterate = EquilibriumMatching.iterate

    def watched(self, images, labels):
        seen.append(iterate(self, torch.zeros(512, 1, 40, 40), labels))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EquilibriumMatching, "iterate", watched)
        monitored.fit(method, data)
    assert float(seen[0]["loss_matching"]) < 0.02, "of about 13 without E"


def test_descent_is_exact_on_a_quadratic():
    method = equilibrium_matching(energy_net=Quadratic(3.76), sampler=Langevin(60, 0.01, 0.0)).eval()
    start = method.sample(4, steps=0, generator=torch.Generator().manual_seed(0)).images
    made = method.sample(4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.images, (1 - 0.0376) ** 60 * start)
    assert (made.nfe, made.temperature) == (60, 0.0)
    assert not method.has_density


@pytest.mark.parametrize(("eta", "steps"), [(0.003, 67), (0.0017, 118)])
def test_descent_takes_the_time_of_the_law(eta, steps):
    """From radius √d to 0.2√d in 0.2/η steps, then a factor of 1 − 20η in each."""
    assert time_at(0.8) == pytest.approx(0.2)
    assert steps == math.ceil(0.2 / eta)
    method = equilibrium_matching(energy_net=Funnel(), sampler=Langevin(200, eta, 0.0)).eval()
    x = torch.randn(1, 1, 8, 8)
    x *= 8 / x.norm()
    path = [float(state.norm()) / 8 for state in method.sampler.path(method.energy, x)]
    assert path[steps - 1] > 0.2 >= path[steps]
    assert path[steps + 50] / path[steps] == pytest.approx((1 - 20 * eta) ** 50, rel=1e-3)
    assert path[steps + 50] == pytest.approx(1 - gamma_at(eta * (steps + 50)), rel=0.2)


def gamma_at(time):
    """The inverse of `time_at`, by bisection."""
    low, high = 0.0, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if time_at(middle) < time else (low, middle)
    return low


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_denoising_goes_the_rest_of_the_way(sigma):
    """x + σε is x_γ (1 + σ) at γ = 1/(1 + σ), from which less of the horizon is left the cleaner the image is."""
    method = equilibrium_matching(energy_net=Funnel(), sampler=Langevin(300, 0.001, 0.0)).eval()
    noise = torch.randn(1, 1, 8, 8)
    noise *= 8 / noise.norm()
    end = method.denoise(sigma * noise, sigma)
    of_noise = method.sampler(method.energy, noise)
    assert float(end.norm()) == pytest.approx(float(of_noise.norm()), rel=0.05)
    assert float(end.norm()) < 0.6 * float(sigma * noise.norm())


def test_a_clean_image_needs_no_step():
    method = equilibrium_matching(energy_net=Funnel()).eval()
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(method.denoise(x, 1e-6), x, rtol=1e-5, atol=0)


def test_l2_would_never_learn_from_a_last_layer_of_zeros_and_dot_does():
    def unet():
        torch.manual_seed(0)
        return UNet(1, width=8, multiples=(1,), depth=1, attention=(), embedding=8, dropout=0.0, zero_bias=True)

    def norm(net):
        x, target = corrupted(torch.rand(8, 1, 8, 8))
        moving = x.requires_grad_()
        (grad,) = torch.autograd.grad(net(moving).sum(), moving, create_graph=True)
        (grad - target).square().mean().backward()
        return sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)

    stuck = FieldEnergy(unet(), "l2")
    torch.nn.init.zeros_(stuck.field.up.last.weight)
    torch.nn.init.zeros_(stuck.field.up.last.bias)
    assert norm(stuck) == 0
    assert norm(FieldEnergy(unet(), "l2")) > 0
    assert norm(FieldEnergy(unet(), "dot")) > 0


def test_the_forms_have_their_values_at_zero():
    dot, l2 = equilibrium_matching("dot").eval(), equilibrium_matching("l2").eval()
    zero, x = torch.zeros(1, 1, 8, 8), 5 * torch.randn(64, 1, 8, 8)
    assert float(dot.energy(zero)) == 0
    assert (l2.energy(x) >= 0).all()
    assert (dot.energy(x) < 0).any()


def test_samples_follow_the_gradient_of_the_energy_and_not_the_field():
    method = equilibrium_matching(ema_decay=0.0, sampler=Langevin(1, 0.05, 0.0)).eval()
    start = method.sample(3, steps=0, generator=torch.Generator().manual_seed(0)).images
    made = method.sample(3, generator=torch.Generator().manual_seed(0)).images
    torch.testing.assert_close(made, start - 0.05 * gradient(method.energy, start))
    field = method.averages["energy_net"].module.field(start, torch.zeros(3))
    assert (made - (start + 0.05 * field)).abs().max() > 1e-3


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UserError, match="noise: 0"):
        equilibrium_matching(sampler=Langevin(2, 0.1))
    with pytest.raises(UserError, match="form: 'cosine'"):
        FieldEnergy(UNet(1, width=4, multiples=(1,), depth=1, attention=(), embedding=8, groups=2), "cosine")
