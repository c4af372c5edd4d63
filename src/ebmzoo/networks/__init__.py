"""Energy networks, generators, inference networks and encoders."""

from ebmzoo.networks.base import (
    ClassEnergyNet,
    Encoder,
    FeatureNet,
    Generator,
    InferenceNet,
    Initializer,
    LevelEnergyNet,
)
from ebmzoo.networks.clel import CLELEnergy, CLELFeatures, MultiHeadEnergy
from ebmzoo.networks.denoiser import Denoiser, DenoisingAutoEncoder, UNetDenoiser
from ebmzoo.networks.field import FieldEnergy
from ebmzoo.networks.igebm import IGEBMResNet
from ebmzoo.networks.latent import LatentEnergy, LatentEnergyNet
from ebmzoo.networks.plane import (
    PlaneEnergy,
    PlaneEnergyNet,
    PlaneFeatures,
    PlaneGenerator,
    PlaneInference,
    PlaneInitializer,
)
from ebmzoo.networks.plane_classes import PlaneClassEnergy
from ebmzoo.networks.plane_denoiser import PlaneDenoiser
from ebmzoo.networks.potential import PatchHead, UNetPotential
from ebmzoo.networks.recovery import RecoveryResNet
from ebmzoo.networks.refinenet import RefineNetDenoiser
from ebmzoo.networks.resnet import ResNetEncoder, resnet_backbone
from ebmzoo.networks.short_run import ShortRunNet
from ebmzoo.networks.sngan import SNGANEnergy, SNGANFeatures, SNGANGenerator, SNGANInference
from ebmzoo.networks.spectral import spectral_norm_
from ebmzoo.networks.unet import UNet
from ebmzoo.networks.vit import ViTEncoder
from ebmzoo.networks.wide_resnet import WideResNet

__all__ = [
    "CLELEnergy",
    "CLELFeatures",
    "ClassEnergyNet",
    "Denoiser",
    "DenoisingAutoEncoder",
    "Encoder",
    "FeatureNet",
    "FieldEnergy",
    "Generator",
    "IGEBMResNet",
    "InferenceNet",
    "Initializer",
    "LatentEnergy",
    "LatentEnergyNet",
    "LevelEnergyNet",
    "MultiHeadEnergy",
    "PatchHead",
    "PlaneClassEnergy",
    "PlaneDenoiser",
    "PlaneEnergy",
    "PlaneEnergyNet",
    "PlaneFeatures",
    "PlaneGenerator",
    "PlaneInference",
    "PlaneInitializer",
    "RecoveryResNet",
    "RefineNetDenoiser",
    "ResNetEncoder",
    "SNGANEnergy",
    "SNGANFeatures",
    "SNGANGenerator",
    "SNGANInference",
    "ShortRunNet",
    "UNet",
    "UNetDenoiser",
    "UNetPotential",
    "ViTEncoder",
    "WideResNet",
    "resnet_backbone",
    "spectral_norm_",
]
