"""Auto-encoders of images, for energies that live in a latent space."""

from ebmzoo.networks.autoencoder.base import ImageCoder, load_coder
from ebmzoo.networks.autoencoder.diffusers import DiffusersAutoencoder
from ebmzoo.networks.autoencoder.kl import KLAutoEncoder

__all__ = ["DiffusersAutoencoder", "ImageCoder", "KLAutoEncoder", "load_coder"]
