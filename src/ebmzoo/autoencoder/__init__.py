"""Auto-encoders of images, for energies that live in a latent space."""

from ebmzoo.autoencoder.base import ImageCoder
from ebmzoo.autoencoder.diffusers import DiffusersAutoencoder
from ebmzoo.autoencoder.kl import KLAutoEncoder
from ebmzoo.autoencoder.training import KLAutoEncoderTraining, load_coder

__all__ = ["DiffusersAutoencoder", "ImageCoder", "KLAutoEncoder", "KLAutoEncoderTraining", "load_coder"]
