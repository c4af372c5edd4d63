"""The published auto-encoders of latent diffusion models, loaded by the package diffusers."""

from __future__ import annotations

from importlib import import_module
from typing import Any, final

from torch import Tensor

from ebmzoo.energy import at_least_fp32
from ebmzoo.errors import UserError
from ebmzoo.networks.autoencoder.base import ImageCoder


@final
class DiffusersAutoencoder(ImageCoder):
    """A frozen `diffusers.AutoencoderKL`: latents are s (μ(x) − m), s its config's scaling_factor, m its shift_factor.

    Args:
        name: A folder with the weights as .safetensors, or their name on the Hugging Face hub, from which they are then
            downloaded.
        subfolder: Folder of the weights inside `name`, such as `vae`.

    Raises:
        UserError: If diffusers is not installed, or the weights cannot be loaded.
    """

    def __init__(self, name: str, subfolder: str | None = None) -> None:
        super().__init__()
        try:
            library = import_module("diffusers")
        except ImportError as error:
            raise UserError(
                "coder: published auto-encoders need the package diffusers, which is missing: pip install diffusers"
            ) from error
        try:
            # never a pickle, whose loading could run code
            self.model = library.AutoencoderKL.from_pretrained(name, subfolder=subfolder, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            where = name if subfolder is None else f"{name}/{subfolder}"
            raise UserError(
                f"coder.name is {where}, where no AutoencoderKL can be loaded ({type(error).__name__}); it must be a "
                "folder with its config and weights, or a name on the hub if that can be reached"
            ) from error
        config: dict[str, Any] = self.model.config
        self.scale = float(config["scaling_factor"])
        self.shift = float(config.get("shift_factor") or 0.0)
        self.in_channels, self.latent = int(config["in_channels"]), int(config["latent_channels"])
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.freeze()

    def encode(self, x: Tensor) -> Tensor:
        return (at_least_fp32(self.model.encode(x).latent_dist.mode()) - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        return at_least_fp32(self.model.decode(latents / self.scale + self.shift).sample)

    def shape(self, channels: int, size: int) -> tuple[int, int, int]:
        if channels != self.in_channels:
            raise UserError(f"coder.name encodes images with {self.in_channels} channels; the data's have {channels}")
        if size % self.factor:
            raise UserError(f"coder.name makes images {self.factor} times smaller, which must divide their {size}")
        return self.latent, size // self.factor, size // self.factor
