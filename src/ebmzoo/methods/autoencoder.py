"""The auto-encoder of a latent space, trained before the energy on its latents."""

from __future__ import annotations

from typing import Any, cast

from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Adam

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.matching import fitted_to
from ebmzoo.errors import UserError
from ebmzoo.metrics.fidelity import mean_squared_error
from ebmzoo.networks import gaussian
from ebmzoo.networks.autoencoder.base import PREFIX
from ebmzoo.networks.autoencoder.kl import KLAutoEncoder, mean_and_std


class KLAutoEncoderTraining(LightningModule):
    """Trains a KL auto-encoder: the first stage of CDRL in a latent space; the checkpoint is what `load_coder` reads.

    L = mean [ Σ|x − D(z)|^p + w KL(q(z|x) ‖ N(0, I)) ], z ~ q(z|x), with sums over all numbers of an image.
    Source: Rombach et al. (2022), Eq. 25, with p = 1 and w = 1e-6, without its two other terms: a perceptual and an
    adversarial loss need a pretrained network and a discriminator, so images come out softer here than theirs.

    Validation logs `val/psnr`, and the test `test/autoencoder/psnr`, in dB and of D(μ(x)), with the mean and the
    standard deviation of the latents; under DDP each rank's share, averaged. Every checkpoint is written with the scale
    that makes the latents' standard deviation 1 over the training set, measured anew for its weights.

    Args:
        coder: The auto-encoder.
        kl_weight: w.
        power: p, 1 or 2.
        optimizer: Of the encoder and the decoder.
        lr_schedule: Stepped once an iteration.

    Raises:
        UserError: A number is out of its range.
    """

    def __init__(
        self,
        coder: KLAutoEncoder,
        kl_weight: float = 1e-6,
        power: int = 1,
        optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if not kl_weight >= 0:
            raise UserError(f"model.kl_weight is {kl_weight}; it must be 0 or more")
        if power not in (1, 2):
            raise UserError(f"model.power is {power}; it must be 1 for absolute or 2 for squared differences")
        self.coder = coder
        self.kl_weight = kl_weight
        self.power = power
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self._moved = False
        self._latents: list[Tensor] = []

    def setup(self, stage: str) -> None:
        """Check the auto-encoder against the data.

        Raises:
            UserError: It cannot encode the data's images.
        """
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData):
            with fitted_to(data, getattr(self.trainer, "model_config", None)):
                self.coder.shape(data.channels, data.size)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.optimizer(self.parameters())
        if self.lr_schedule is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.lr_schedule(optimizer), "interval": "step"},
        }

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, _ = batch
        self._moved = True
        mu, logvar = self.coder.posterior(images)
        decoded = self.coder.render(gaussian.draw(mu, logvar))
        recon = (images - decoded).abs().pow(self.power).flatten(1).sum(1).mean()
        kl = gaussian.kl(mu, logvar).flatten(1).sum(1).mean()
        loss = recon + self.kl_weight * kl
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({"train/recon": recon, "train/kl": kl})
        return loss

    # Not on_train_end alone: the callbacks' hooks come before the module's, and at max_steps the last checkpoint is
    # written before either, so the scale is measured as a checkpoint is made.
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._standardise()
        checkpoint["state_dict"][f"{PREFIX}scale"] = self.coder.scale

    def on_train_end(self) -> None:
        self._standardise()

    def _standardise(self) -> None:
        """The scale of the weights as they are now, if they have moved since it was last measured."""
        if self._moved:
            data = cast("ImageData", self.trainer.datamodule)  # type: ignore[attr-defined]
            self.coder.standardise(data.train_set.images, data.batch_size)
            self._moved = False

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        self._log_psnr("val/psnr", images, self.coder.encode(images))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, _ = batch
        latents = self.coder.encode(images)
        self._log_psnr("test/autoencoder/psnr", images, latents)
        self._latents.append(latents)

    def on_test_epoch_end(self) -> None:
        mean, std = mean_and_std(self._latents)
        self._latents.clear()
        self.log("test/autoencoder/latent_mean", mean.float(), sync_dist=True)
        self.log("test/autoencoder/latent_std", std.float(), sync_dist=True)

    def _log_psnr(self, key: str, images: Tensor, latents: Tensor) -> None:
        """10 log₁₀(2²/MSE), the mean over images."""
        psnr = 10 * (4 / mean_squared_error(self.coder.decode(latents), images)).log10()
        self.log(key, psnr.mean(), prog_bar=True, batch_size=len(images), sync_dist=True)
