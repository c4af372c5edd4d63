"""Energy networks, generators, inference networks and encoders."""

from ebmzoo.networks.base import Encoder, FeatureNet, Generator, InferenceNet
from ebmzoo.networks.latent import LatentEnergy
from ebmzoo.networks.resnet import ResNetEncoder, resnet_backbone
from ebmzoo.networks.sngan import SNGANEnergy, SNGANFeatures, SNGANGenerator, SNGANInference
from ebmzoo.networks.spectral import spectral_norm_

__all__ = [
    "Encoder",
    "FeatureNet",
    "Generator",
    "InferenceNet",
    "LatentEnergy",
    "ResNetEncoder",
    "SNGANEnergy",
    "SNGANFeatures",
    "SNGANGenerator",
    "SNGANInference",
    "resnet_backbone",
    "spectral_norm_",
]
