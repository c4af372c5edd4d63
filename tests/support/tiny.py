"""Small models and data that tests share."""

import torch
from lightning.pytorch.callbacks import Callback

from ebmzoo.data import ImageData, ImageSet
from ebmzoo.methods import (
    CDRL,
    JEM,
    LIEBM,
    DenoisingEBM,
    DenoisingEBMLearning,
    DualMCMC,
    EncoderStage,
    EnergyMatching,
    EquilibriumMatching,
    RecoveryChain,
)
from ebmzoo.methods.baselines import DRL, MDSM, VAE, CoopNets, DivergenceTriangle, HatEBM, MDSMCooling, ScoreNetwork
from ebmzoo.networks import (
    FieldEnergy,
    LatentEnergy,
    PatchHead,
    RecoveryResNet,
    ResNetEncoder,
    SNGANEnergy,
    SNGANFeatures,
    SNGANGenerator,
    SNGANInference,
    UNet,
    UNetPotential,
    WideResNet,
)
from ebmzoo.networks.denoiser import UNetDenoiser
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.posterior import PosteriorSampler
from ebmzoo.ssrl import Augment, SimCLR
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer

SIZE = 8


class TinyData(ImageData):
    """8×8 images of blobs in four places, the same in every test, with `kinds` classes."""

    name, size = "tiny", SIZE

    def __init__(self, n: int = 32, channels: int = 1, batch_size: int = 8, kinds: int = 4, **common):
        super().__init__(batch_size=batch_size, **common)
        self.n, self.channels, self.kinds = n, channels, kinds

    def load(self):
        def made(n, seed):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.arange(n) % 4
            images = torch.randint(0, 60, (n, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
            for i, label in enumerate(labels.tolist()):
                images[i, 0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 150
            images = images.expand(-1, self.channels, -1, -1).contiguous()
            return ImageSet(images, labels % self.kinds, tuple("abcd"[: self.kinds]), "tiny")

        return made(self.n, 0), made(16, 1)


def networks(channels=1, bias="all"):
    torch.manual_seed(0)
    features = SNGANFeatures(in_channels=channels, size=SIZE, width=16, out_features=16, bias=bias)
    return {
        "energy_net": LatentEnergy(features, latent=8, hidden=16, marginal="norm" if bias != "none" else "linear"),
        "generator": SNGANGenerator(latent=4, out_channels=channels, size=SIZE, width=8),
        "sampler": Langevin(steps=2, step_size=0.1, noise=0.01),
    }


def encoder():
    return ResNetEncoder(1, width=8, blocks=[1, 1], latent=8, hidden=16, mean=None, std=None)


def stage(epochs=1, **changes):
    return EncoderStage(SimCLR(Augment(flip_prob=0.0)), epochs=epochs, warmup_steps=2, drop_epochs=(), **changes)


def liebm(**changes):
    """LIEBM in the EM setting; `inference=True` adds a small inference network."""
    if changes.get("inference") is True:
        changes["inference"] = SNGANInference(in_channels=1, size=SIZE, latent=4, width=16)
    return LIEBM(
        **networks() | {"encoder": encoder(), "encoder_stage": stage(), "augment": Augment(flip_prob=0.0)} | changes
    )


def without_latent(**changes):
    return liebm(**{"encoder": None, "encoder_stage": None, "gamma": 0.0} | changes)


def cooperative(*names):
    """The networks and the sampler that Dual-MCMC and its baselines share, by name."""
    torch.manual_seed(0)
    every = {
        "energy_net": SNGANEnergy(in_channels=1, size=SIZE, width=16, bias="all"),
        "generator": SNGANGenerator(latent=4, out_channels=1, size=SIZE, width=8),
        "inference": SNGANInference(in_channels=1, size=SIZE, latent=4, width=16),
        "sampler": Langevin(steps=2, step_size=0.1, noise=0.01),
    }
    return {name: every[name] for name in names}


def dual_mcmc(**changes):
    posterior = PosteriorSampler(Langevin(steps=2, step_size=0.005, noise=0.1))
    networks = cooperative("energy_net", "generator", "inference", "sampler")
    return DualMCMC(**networks | {"posterior": posterior} | changes)


def coopnets(**changes):
    return CoopNets(**cooperative("energy_net", "generator", "sampler") | changes)


def triangle(**changes):
    return DivergenceTriangle(**cooperative("energy_net", "generator", "inference") | changes)


def vae(**changes):
    return VAE(**cooperative("generator", "inference") | changes)


def hat_ebm(**changes):
    return HatEBM(**cooperative("energy_net", "generator", "sampler") | {"bank_size": 16} | changes)


def recovery_net(classes=0):
    torch.manual_seed(0)
    return RecoveryResNet(1, width=8, multiples=(1, 2), depth=1, embedding=16, classes=classes)


def cdrl(classes=0, **changes):
    net = recovery_net(classes)
    unet = UNet(1, width=8, multiples=(1, 1), depth=1, attention=(1,), embedding=16, classes=classes)
    parts = {"energy_net": net, "initializer": unet, "chain": RecoveryChain(2), "in_channels": 1, "size": SIZE}
    return CDRL(**parts | changes)


def drl(classes=0, **changes):
    return DRL(recovery_net(classes), chain=RecoveryChain(2, 2e-4, noise=0.99), in_channels=1, size=SIZE, **changes)


def denoiser():
    """A denoiser that does not start as the identity: its zero-initialised convolutions are random."""
    torch.manual_seed(0)
    return stirred(
        UNetDenoiser(1, SIZE, latent=4, width=8, multiples=(1, 2), depth=1, attention=(1,), embedding=16, groups=4)
    )


def stirred(net):
    """The network with random numbers where it starts with zeros."""
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def unet():
    torch.manual_seed(0)
    return stirred(UNet(1, width=8, multiples=(1, 2), depth=1, attention=(1,), embedding=16, groups=4, dropout=0.0))


def energy_matching(**changes):
    """Energy Matching whose second iteration is the first of phase 2; its chain has a step without noise, and one with.

    Δt is 0.5, and the heat of the second step, at the time 0.5, a third.
    """
    net = unet()
    parts = {
        "energy_net": UNetPotential(
            net, PatchHead(1, SIZE, patch=4, width=8, depth=1, heads=2, dropout=0.0), scale=1.0
        ),
        "sampler": Langevin(2, 0.05),
        "epsilon": 0.1,
        "onset": 0.25,
        "horizon": 1.0,
        "regression_steps": 1,
        "in_channels": 1,
        "size": SIZE,
    }
    return EnergyMatching(**parts | changes)


def equilibrium_matching(form="dot", **changes):
    parts = {"energy_net": FieldEnergy(unet(), form), "sampler": Langevin(2, 0.05, 0.0), "in_channels": 1, "size": SIZE}
    return EquilibriumMatching(**parts | changes)


def denoising_ebm(**changes):
    torch.manual_seed(0)
    parts = {
        "denoiser": denoiser(),
        "decoder": SNGANGenerator(latent=4, out_channels=1, size=SIZE, width=8),
        "semantic": Langevin(steps=2, step_size=0.1),
        "texture": Langevin(steps=3, step_size=0.01, noise=0.005),
        "learning": DenoisingEBMLearning(reconstructions=2, warmup=0),
    }
    return DenoisingEBM(**parts | {"in_channels": 1, "size": SIZE, "ood_seeds": 2} | changes)


def mdsm(**changes):
    return MDSM(**{"denoiser": denoiser(), "cooling": MDSMCooling(1, 2, 1), "in_channels": 1, "size": SIZE} | changes)


def score_network(**changes):
    return ScoreNetwork(**{"denoiser": denoiser(), "steps": 2, "in_channels": 1, "size": SIZE} | changes)


def trainer(tmp_path, **changes):
    """A CPU trainer that writes no files and prints nothing."""
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    defaults = DEFAULTS | quiet | {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "default_root_dir": tmp_path}
    return ZooTrainer(**defaults | {"limit_val_batches": 0} | changes)


def jem(**changes):
    torch.manual_seed(0)
    net = WideResNet(1, classes=4, depth=10, widen=1)
    sampler = Langevin(steps=2, step_size=1.0, noise=0.01, clip=1.0, bounds=(-1, 1))
    return JEM(**{"energy_net": net, "sampler": sampler, "in_channels": 1, "size": SIZE, "replay_size": 16} | changes)


class Watch(Callback):
    """Calls `see(trainer, module)` after every batch."""

    def __init__(self, see):
        self.see = see

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.see(trainer, pl_module)
