"""Numbers that no network or method could be built with are refused by the constructor, which names them."""

from functools import partial

import pytest

from ebmzoo import UserError
from ebmzoo.errors import at_least
from ebmzoo.methods import DualMCMCLosses, EncoderStage, LIEBMElbo
from ebmzoo.methods.base.optimization import NetworkOptimizer
from ebmzoo.methods.baselines import DRL
from ebmzoo.metrics import Classifier
from ebmzoo.networks import (
    CLELEnergy,
    CLELFeatures,
    IGEBMResNet,
    LatentEnergy,
    MultiHeadEnergy,
    PlaneClassEnergy,
    PlaneDenoiser,
    PlaneEnergy,
    PlaneEnergyNet,
    PlaneFeatures,
    PlaneGenerator,
    PlaneInference,
    PlaneInitializer,
    RecoveryResNet,
    RefineNetDenoiser,
    ResNetEncoder,
    ShortRunNet,
    SNGANEnergy,
    SNGANFeatures,
    SNGANGenerator,
    SNGANInference,
    UNet,
    UNetDenoiser,
    ViTEncoder,
    WideResNet,
)
from ebmzoo.ssrl import BYOL, MAE, Pretraining, SimCLR
from support.tiny import (
    SIZE,
    cdrl,
    cooperative,
    denoising_ebm,
    encoder,
    hat_ebm,
    jem,
    mdsm,
    recovery_net,
    score_network,
)

COUNTS = {
    SNGANFeatures: ("in_channels", "size", "width", "out_features"),
    SNGANEnergy: ("in_channels", "size", "width"),
    SNGANGenerator: ("latent", "out_channels", "size", "width"),
    SNGANInference: ("in_channels", "size", "latent", "width"),
    PlaneEnergy: ("in_features", "width", "depth", "embedding"),
    PlaneInitializer: ("in_features", "width", "depth", "embedding"),
    PlaneFeatures: ("in_features", "width", "depth", "out_features"),
    PlaneEnergyNet: ("in_features", "width", "depth"),
    PlaneGenerator: ("latent", "width", "depth", "out_features"),
    PlaneClassEnergy: ("in_features", "classes", "width", "depth"),
    PlaneDenoiser: ("in_features", "latent", "width", "depth", "embedding"),
    PlaneInference: ("in_features", "latent", "width", "depth"),
    CLELFeatures: ("in_channels", "width", "depth", "scales", "hidden", "latent"),
    IGEBMResNet: ("in_channels", "width"),
    RecoveryResNet: ("in_channels", "width", "depth", "embedding"),
    ResNetEncoder: ("in_channels", "width", "latent", "hidden", "resize"),
    ShortRunNet: ("in_channels", "size", "width"),
    UNet: ("in_channels", "out_channels", "width", "depth", "heads", "embedding", "groups"),
    UNetDenoiser: ("in_channels", "latent", "width", "depth", "heads", "embedding", "groups"),
    RefineNetDenoiser: ("in_channels", "width", "levels"),
    ViTEncoder: ("in_channels", "size", "patch", "width", "depth", "heads", "latent", "hidden"),
    WideResNet: ("in_channels", "classes", "widen"),
    Classifier: ("in_channels", "size", "num_classes", "width"),
    BYOL: ("hidden",),
    MAE: ("width", "depth", "heads"),
}
"""Arguments that count something."""


@pytest.mark.parametrize("kind", COUNTS, ids=lambda kind: kind.__name__)
def test_there_is_one_or_more_of_what_is_counted(kind):
    for name in COUNTS[kind]:
        for count in (0, -1):
            with pytest.raises(UserError, match=name):
                kind(**{name: count})


@pytest.mark.parametrize("kind", [LatentEnergy, CLELEnergy, MultiHeadEnergy])
def test_heads_of_a_trunk_have_units(kind):
    trunk = PlaneFeatures()
    for name in ("latent", "hidden"):
        with pytest.raises(UserError, match=f"{name}: 0 must be 1 or more"):
            kind(trunk, **{name: 0})


@pytest.mark.parametrize("make", [cdrl, partial(DRL, recovery_net()), denoising_ebm, jem, mdsm, score_network])
@pytest.mark.parametrize("name", ["in_channels", "size"])
def test_methods_have_an_image(make, name):
    with pytest.raises(UserError, match=f"{name}: 0 must be 1 or more"):
        make(**{name: 0})


def test_weights_and_numbers_of_steps_are_not_negative():
    for name in ("generator_weight", "data_noise"):
        with pytest.raises(UserError, match=name):
            hat_ebm(**{name: -1})
    with pytest.raises(UserError, match="bank_size"):
        hat_ebm(bank_size=0)
    for name in ("data_weight", "chain_weight", "latent_weight"):
        with pytest.raises(UserError, match=name):
            DualMCMCLosses(**{name: -1})
    for name in ("rho", "weight", "energy_weight"):
        with pytest.raises(UserError, match=name):
            LIEBMElbo(**{name: -1})
    for name, value in (("epochs", -1), ("warmup_steps", -1), ("drop_epochs", (5, -1))):
        with pytest.raises(UserError, match=name):
            EncoderStage(SimCLR(), **{name: value})
    for name, value in (("warmup_steps", -1), ("drop_epochs", (5, -1))):
        with pytest.raises(UserError, match=name):
            Pretraining(encoder(), SimCLR(), **{name: value})
    with pytest.raises(UserError, match="label_smoothing"):
        Classifier(size=SIZE, label_smoothing=1.5)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_gradients_are_limited_to_something(limit):
    with pytest.raises(UserError, match="clip_norm"):
        NetworkOptimizer(cooperative("energy_net")["energy_net"], None, None, limit)


def test_what_is_no_number_is_below_every_number():
    at_least(1, here=1, absent=None)
    with pytest.raises(UserError, match="here: nan must be 0 or more"):
        at_least(0, here=float("nan"))
