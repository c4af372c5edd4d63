"""The variational auto-encoder: a generator and an inference network, without an energy and without MCMC."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, final

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Adam

from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import DecodesGaussian, Encodes
from ebmzoo.methods.base.log_values import LogValues, squared_error
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.families.generator_chain import GeneratorAlone, check_latents
from ebmzoo.networks import gaussian
from ebmzoo.networks.base import Generator, InferenceNet
from ebmzoo.sampling.posterior import PosteriorSampler, positive


@final
class VAE(GeneratorAlone, DecodesGaussian, Encodes):
    """The generator and its Gaussian posterior by the evidence lower bound.

    Paper: Diederik P. Kingma, Max Welling: Auto-encoding variational Bayes. ICLR 2014, arXiv:1312.6114.

    L = mean [ |x − G(z)|²/2σ² + KL(q(z|x) ‖ N(0, I)) ], z ~ q(z|x): −log p(x) ≤ L, but for a constant.
    Source: Kingma & Welling 2014, Auto-encoding variational Bayes, Eq. 10.

    It has no energy of its own; `energy` is the bound at q's mean, which makes it comparable as a score.

    Args:
        generator: G.
        inference: q.
        sigma: σ.
        optimizer: of both networks.
        lr_schedule: stepped once an iteration.
        clip_norm: the limit of a network's gradient norm.
        ema_decay: of the averages that evaluation uses; 0 is none.
    """

    paper = Paper(
        "Auto-encoding variational Bayes",
        "Diederik P. Kingma, Max Welling",
        year=2014,
        venue="ICLR",
        arxiv="1312.6114",
    )
    is_baseline = True

    def __init__(
        self,
        generator: Generator,
        inference: InferenceNet,
        sigma: float = 0.3,
        optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        check_latents(generator, inference)
        self.generator = generator
        self.inference = inference
        self.sigma = positive(sigma, "model.sigma")
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.averages = averaged(ema_decay, generator=generator, inference=inference)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        optimizers = dict.fromkeys(("generator", "inference"), self.optimizer)
        return optimizers_of(self, optimizers, self.lr_schedule, self.clip_norm)

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        mu, logvar = self.inference(images)
        fit = squared_error(images, self.generator(gaussian.draw(mu, logvar))).mean()
        kl = gaussian.kl(mu, logvar).sum(1).mean()
        loss = fit / (2 * self.sigma**2) + kl
        grad_norm = self.minimize(loss, "generator", "inference")
        return {
            "grad_norm": grad_norm,
            "loss": loss.detach(),
            "reconstruction_mse": fit.detach() / images[0].numel(),
            "kl": kl.detach(),
        }

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        """|x − G(μ)|²/2σ² + KL(q(z|x) ‖ N(0, I)): the bound with q's mean for its draws, so without chance."""
        mu, logvar = self.network("inference")(x)
        return squared_error(x, self.decode(mu)) / (2 * self.sigma**2) + gaussian.kl(mu, logvar).sum(1)

    @property
    def posterior_sampler(self) -> PosteriorSampler:
        return PosteriorSampler(sigma=self.sigma)

    @property
    def has_density(self) -> bool:
        return False

    @property
    def decoder_sigma(self) -> float:
        return self.sigma

    def inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.network("inference")(x))

    def infer(self, x: Tensor) -> Tensor:
        return self.inferred(x)[0]

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {"inference": self.infer}
