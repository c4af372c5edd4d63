"""Energy networks, generators, inference networks and encoders."""

from ebmzoo.networks.base import Encoder, FeatureNet, Generator, InferenceNet
from ebmzoo.networks.clel import CLELEnergy, CLELFeatures, MultiHeadEnergy
from ebmzoo.networks.igebm import IGEBMResNet
from ebmzoo.networks.latent import LatentEnergy, LatentEnergyNet
from ebmzoo.networks.resnet import ResNetEncoder, resnet_backbone
from ebmzoo.networks.short_run import ShortRunNet
from ebmzoo.networks.sngan import SNGANEnergy, SNGANFeatures, SNGANGenerator, SNGANInference
from ebmzoo.networks.spectral import spectral_norm_
from ebmzoo.networks.vit import ViTEncoder

__all__ = [
    "CLELEnergy",
    "CLELFeatures",
    "Encoder",
    "FeatureNet",
    "Generator",
    "IGEBMResNet",
    "InferenceNet",
    "LatentEnergy",
    "LatentEnergyNet",
    "MultiHeadEnergy",
    "ResNetEncoder",
    "SNGANEnergy",
    "SNGANFeatures",
    "SNGANGenerator",
    "SNGANInference",
    "ShortRunNet",
    "ViTEncoder",
    "resnet_backbone",
    "spectral_norm_",
]
