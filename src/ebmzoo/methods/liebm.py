"""LIEBM: a latent-informed energy-based model with collaborative generator training.

One file because it is one class: the alternation of encoder, energy and generator in its three settings.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from torch.optim import Adam

from ebmzoo.data.image_range import ImageRange, Outside
from ebmzoo.energy import Energy, at_least_fp32, frozen
from ebmzoo.errors import UserError, at_least
from ebmzoo.methods.base.averaging import averaged
from ebmzoo.methods.base.capabilities import DecodesGaussian, Encodes, ScoresJointly
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.methods.base.log_values import (
    LogValues,
    chain_log_values,
    energy_log_values,
    spread_ratio,
    squared_error,
)
from ebmzoo.methods.base.optimization import NetworkOptimizer, optimizers_of
from ebmzoo.methods.base.paper import Paper
from ebmzoo.methods.base.samples import Samples
from ebmzoo.methods.families.conditional_chain import LIEBMAlternation, StartsFromImages, check_given
from ebmzoo.methods.families.generator_chain import ChainFromGenerator, check_latents
from ebmzoo.networks import gaussian
from ebmzoo.networks.base import Encoder, Generator, InferenceNet
from ebmzoo.networks.latent import LatentEnergy
from ebmzoo.sampling.langevin import Langevin
from ebmzoo.sampling.latent_energies import Composed, Informed, Joint, agreement
from ebmzoo.ssrl.augment import Augment
from ebmzoo.ssrl.pretraining import load_encoder


@dataclass(frozen=True)
class LIEBMElbo:
    """The bound that trains the inference network q(m|x), from which the generator also learns in the ERM setting.

    With m ~ q(·|x) and z = h(v(x)):  |x − G(m)|² − ρ cos(z, h(G(m))) + KL(q(m|x) ‖ N(0, I)).
    Source: LIEBM, Eq. 13 and 14 (ERM: `pixels=True`, G and q learn) and Eq. 26 (A.5: `pixels=False`, only q learns).
    Eq. 14 and 26 print q/p where log q/p is meant.

    Args:
        rho: ρ, the weight of the latent agreement.
        pixels: True includes the pixel term, from which the generator then learns too.
        weight: ω₂ of Eq. 11, of no effect without the pixel term.
        energy_weight: ω₁ of Eq. 11, the weight of the generator's own loss (Eq. 8); unused without the pixel term.
    """

    rho: float = 1.0
    pixels: bool = True
    weight: float = 0.1
    energy_weight: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, rho=self.rho, weight=self.weight, energy_weight=self.energy_weight)


@final
class LIEBM(ChainFromGenerator, DecodesGaussian, Encodes, StartsFromImages, ScoresJointly):
    """Latent-informed EBM: an energy on images and encoder latents, with a generator that starts its chains.

    Paper: Anonymous authors: Latent-informed energy-based models with collaborative generator training. Under
    double-blind review 2025.

    E(x, z) = E(x) − γ cos(g_ψ(f(x)), z), z = h(v(x)); in the paper's sign, Eq. 5–7. An iteration is

        m ~ N(0, I), x⁰ = G(m), each replaced by v(x⁰) with probability p; x^T by T Langevin steps (Eq. 9)
        L_E = mean[E(x) − γ cos(g_ψ(f(x)), z)] − mean E(x^T)                                     (Eq. 4)
        L_G = mean |G(m) − x^T|² over the chains that were not augmented                            (Eq. 8)

    Args:
        **Networks**:
        energy_net: E(x) with its latent head g_ψ.
        generator: G, from N(0, I) to images in [-1, 1].
        encoder: h. None, with gamma 0, is the model without latents.
        inference: q(m|x), for the ERM setting or for the inference network of A.5; needs `elbo`.
        encoder_checkpoint: A checkpoint of `ebmzoo fit --config configs/simclr/*.yaml`, read when a fit begins; it
            replaces stage 1.
        encoder_stage: How h is trained in this run when there is no checkpoint.

        **Chain**:
        sampler: The chain; its step size and noise are in the units of `image_range`.
        chain: `marginal` follows ∇E(x) (Eq. 9); `joint` follows ∇E(x, h(x)), the EJM setting (Eq. 10).
        negative_augment_prob: p, the probability that a chain starts from v(G(m)).
        augment: v, the augmentation of the data's latents and of the negatives.
        image_range: The range of the images that the energy and its chain see.

        **Loss**:
        gamma: γ of training.
        energy_penalty: α of α·mean(E(x)² + E(x^T)²), which keeps energies near zero; the paper has none.
        elbo: How q learns, and whether the generator learns from it.

        **Optimization**:
        energy_optimizer: The optimizer of f, g and g_ψ.
        generator_optimizer: The optimizer of G.
        inference_optimizer: The optimizer of q.
        lr_schedule: The learning-rate schedule of all three, stepped once an iteration; the paper prints none.
        clip_norm: The limit of each network's gradient norm; the paper prints none.

        **Evaluation**:
        ema_decay: The decay of the averages of E, G and q that evaluation uses.
        gamma_ood: γ of the out-of-distribution score (Eq. 15).
        alternation: The settings of `sample_from_latents`.

    Raises:
        UserError: arguments that contradict each other.
    """

    # The submission prints no date: the year is that of the newest works that it cites.
    paper = Paper(
        "Latent-informed energy-based models with collaborative generator training",
        "Anonymous authors",
        year=2025,
        venue="Under double-blind review",
    )

    def __init__(
        self,
        energy_net: LatentEnergy,
        generator: Generator,
        sampler: Langevin,
        # networks
        encoder: Encoder | None = None,
        inference: InferenceNet | None = None,
        encoder_checkpoint: str | None = None,
        encoder_stage: EncoderStage | None = None,
        # chain
        chain: Literal["marginal", "joint"] = "marginal",
        negative_augment_prob: float = 0.1,
        augment: Augment | None = None,
        image_range: tuple[float, float] = (-1.0, 1.0),
        # loss
        gamma: float = 0.01,
        energy_penalty: float = 0.0,
        elbo: LIEBMElbo | None = None,
        # optimization
        energy_optimizer: OptimizerCallable = Adam,
        generator_optimizer: OptimizerCallable = Adam,
        inference_optimizer: OptimizerCallable = Adam,
        lr_schedule: LRSchedulerCallable | None = None,
        clip_norm: float | None = None,
        # evaluation
        ema_decay: float = 0.9999,
        gamma_ood: float = 0.1,
        alternation: LIEBMAlternation = LIEBMAlternation(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__()
        check_latents(generator, inference)
        if encoder is None and (gamma != 0 or chain == "joint" or elbo is not None):
            raise UserError("model.encoder is missing: gamma other than 0, chain: joint and elbo need an encoder")
        if encoder is not None and (encoder_checkpoint is None) == (encoder_stage is None):
            raise UserError("model.encoder needs one of encoder_checkpoint and encoder_stage, not both and not neither")
        if (inference is None) != (elbo is None):
            raise UserError("model.inference and model.elbo go together: give both or neither")
        if not 0 <= negative_augment_prob <= 1:
            raise UserError(f"model.negative_augment_prob is {negative_augment_prob}; it must be between 0 and 1")
        self.energy_net = energy_net
        self.generator = generator
        self.encoder = encoder
        self.inference = inference
        self.sampler = sampler
        self.elbo = elbo
        self.chain = chain
        self.augment = augment or Augment()
        self.gamma = gamma
        self.gamma_ood = gamma_ood
        self.energy_penalty = energy_penalty
        self.negative_augment_prob = negative_augment_prob
        self.range = ImageRange(*image_range)
        self.optimizer_of = {
            "energy_net": energy_optimizer,
            "generator": generator_optimizer,
            "inference": inference_optimizer,
        }
        self.lr_schedule = lr_schedule
        self.clip_norm = clip_norm
        self.alternation = alternation
        self.encoder_stage = encoder_stage
        self.objective = encoder_stage.objective if encoder_stage is not None else None  # its weights are the run's
        if encoder is not None and encoder_stage is not None:
            encoder_stage.objective.attach(encoder)
        elif encoder is not None:
            encoder.requires_grad_(False)
        self.encoder_checkpoint = encoder_checkpoint
        self.averages = averaged(ema_decay, energy_net=energy_net, generator=generator, inference=inference)

    def trained_networks(self) -> dict[str, NetworkOptimizer]:
        trained = optimizers_of(self, self.optimizer_of, self.lr_schedule, self.clip_norm)
        if self.encoder is not None and self.encoder_stage is not None:
            batches = self.optimization.accumulate
            trained["encoder"] = self.encoder_stage.network_optimizer(self.encoder, self.trainer, batches)
        return trained

    def setup(self, stage: str) -> None:
        last = self.trainer.max_epochs if self.trainer.max_epochs is not None else -1
        first = self._epochs_of_encoder
        if stage == "fit" and 0 <= last <= first and first > 0 and self.trainer.is_global_zero:
            message = f"trainer.max_epochs is {last}, within the {first} epochs of model.encoder_stage"
            print(f"{message}: this run trains the encoder and never the energy", file=sys.stderr)
        super().setup(stage)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.starts_anew and self.encoder is not None and self.encoder_checkpoint is not None:
            load_encoder(self.encoder, self.encoder_checkpoint)

    @property
    def _epochs_of_encoder(self) -> int:
        return 0 if self.encoder_stage is None or self.encoder_stage.jointly else self.encoder_stage.epochs

    @property
    def trains_energy(self) -> bool:
        first = self._epochs_of_encoder
        return first == 0 or self.trainer.state.fn != TrainerFn.FITTING or self.trainer.current_epoch >= first

    @property
    def phase(self) -> str:
        if self._epochs_of_encoder == 0:
            return "energy and generator"
        return "stage 2 of 2: energy and generator" if self.trains_energy else "stage 1 of 2: encoder"

    def iterate(self, images: Tensor, labels: Tensor) -> LogValues:
        if not self.trains_energy:
            return {"ssrl_loss": self._train_encoder(images, negatives=None)}

        self._settle_encoder()
        x = self.range.inward(images)
        m = torch.randn(len(x), self.generator.latent, device=x.device)
        x0 = self.range.inward(self.generator(m))
        start, augmented = self._augment_negatives(x0.detach())
        xT = self.sampler(self._chain_energy(self.energy_net), start)
        z = self._latent(images)

        # positives and negatives in one pass: no layer of E mixes the images of a batch
        f = self.energy_net.features(torch.cat([x, xT]))
        energy_data, energy_chain = self.energy_net.marginal(f).chunk(2)
        f_data, f_chain = f.chunk(2)
        cos = torch.zeros_like(energy_data) if z is None else agreement(self.energy_net, f_data, z)
        loss_energy = (energy_data - self.gamma * cos).mean() - energy_chain.mean()
        if self.energy_penalty:
            loss_energy = loss_energy + self.energy_penalty * (energy_data.square() + energy_chain.square()).mean()
        grad_norm = self.minimize(loss_energy, "energy_net")
        ratios = {} if z is None else {"joint_ratio": spread_ratio(energy_data, self.gamma_ood * cos)}

        loss_generator = _mean_over(squared_error(x0, xT), ~augmented)
        values = self._train_generator(x, z, loss_generator)
        if self.encoder_stage is not None and self.encoder_stage.jointly:
            negatives = normalize(self.energy_net.project(f_chain.detach()).detach(), dim=1)
            values["ssrl_loss"] = self._train_encoder(images, negatives)

        values_of_energy = (
            energy_log_values(energy_data, energy_chain) | chain_log_values(self.sampler, start, xT) | values
        )
        return (
            values_of_energy
            | ratios
            | {
                "grad_norm": grad_norm,
                "agreement": cos.detach().mean(),
                "feature_norm": f.detach().norm(dim=1).mean(),
                "loss_energy": loss_energy.detach(),
                "loss_generator": loss_generator.detach(),
            }
        )

    def _chain_energy(self, net: LatentEnergy) -> Energy:
        """The energy that the chain descends: E(x) (Eq. 9), or in the EJM setting E(x, h(x)) (Eq. 10)."""
        if self.chain == "marginal" or self.encoder is None:
            return net
        return Informed(Joint(net, self.gamma), Outside(self.encoder, self.range))

    def _augment_negatives(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The starts, each replaced by v(x⁰) with probability p, and a mask of those replaced, `(B,)` bool (§3.1)."""
        augmented = torch.rand(len(x0), device=x0.device) < self.negative_augment_prob
        if self.negative_augment_prob == 0:
            return x0, augmented
        changed = self.range.inward(self.augment(self.range.outward(x0)))
        return torch.where(augmented.view(-1, 1, 1, 1), changed, x0), augmented

    @torch.no_grad()
    def _latent(self, images: Tensor) -> Tensor | None:
        """z = h(v(x)), with h as it stands: no gradient reaches it from the energy (§3.1)."""
        return None if self.encoder is None else cast(Tensor, self.encoder(self.augment(images)))

    def _settle_encoder(self) -> None:
        """A pretrained h is frozen: no gradient, and no batch statistics of its own."""
        learning = self.encoder_stage is not None and self.encoder_stage.jointly
        if self.encoder is None or self.encoder.training == learning:
            return
        self.encoder.train(learning).requires_grad_(learning)
        if not learning and self._trainer is not None and self.trainer.world_size > 1:
            for buffer in self.encoder.buffers():  # one h for all processes, also in its batch statistics
                buffer.copy_(self.trainer.strategy.broadcast(buffer))

    def _train_encoder(self, images: Tensor, negatives: Tensor | None) -> Tensor:
        assert self.encoder is not None
        assert self.encoder_stage is not None
        loss = cast(Tensor, self.encoder_stage.objective(self.encoder, images, negatives=negatives))
        self.minimize(loss, "encoder")
        if self.optimization.steps_now:
            self.encoder_stage.objective.after_step(self.encoder, self.encoder_stage.progress(self.trainer))
        return loss.detach()

    def _train_generator(self, x: Tensor, z: Tensor | None, loss_generator: Tensor) -> LogValues:
        """The generator's step, and that of q where there is one (Eq. 8, 11, 26)."""
        if self.elbo is None or self.inference is None or z is None:
            self.minimize(loss_generator, "generator")
            return {}
        bound, values = self._negative_elbo(self.elbo, self.inference, x, z)
        if self.elbo.pixels:
            total = self.elbo.energy_weight * loss_generator + self.elbo.weight * bound
            self.minimize(total, "generator", "inference")
        else:
            self.minimize(bound, "inference")
            self.minimize(loss_generator, "generator")
        return values

    def _negative_elbo(self, elbo: LIEBMElbo, q: InferenceNet, x: Tensor, z: Tensor) -> tuple[Tensor, LogValues]:
        assert self.encoder is not None
        mu, logvar = q(x)
        m = gaussian.draw(mu, logvar)
        fixed = [self.encoder] if elbo.pixels else [self.encoder, self.generator]
        self.generator.train(elbo.pixels)  # where G does not learn from the bound, its batch statistics do not either
        with frozen(*fixed):
            generated = self.generator(m)
            latent = -elbo.rho * cosine_similarity(z, self.encoder(generated), dim=1).mean()
        self.generator.train()
        kl = gaussian.kl(mu, logvar).sum(1).mean()
        pixels = squared_error(x, self.range.inward(generated)).mean()
        bound = (pixels if elbo.pixels else 0) + latent + kl
        return bound, {"elbo_pixels": pixels.detach(), "elbo_latent": latent.detach(), "elbo_kl": kl.detach()}

    # ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────────────

    def energy(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network("energy_net")(self.range.inward(x)))

    def ood_score(self, x: Tensor) -> Tensor:
        """E(x) − γ_ood cos(g_ψ(f(x)), h(x)), the negative of Eq. 15, with h on the image as it is."""
        if self.encoder is None:
            return self.energy(x)
        energy, cos = self.joint_parts(x)
        return energy - self.gamma_ood * cos

    @property
    def joint_weight(self) -> float | None:
        return None if self.encoder is None else self.gamma_ood

    def joint_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.encoder is not None
        net = cast(LatentEnergy, self.network("energy_net"))
        f = net.features(self.range.inward(x))
        return net.marginal(f), agreement(net, f, self.encoder(x))

    def chain_energy(self) -> Energy:
        return self._chain_energy(cast(LatentEnergy, self.network("energy_net")))

    def restoration_energy(self) -> Energy:
        """E(x, h(x)) (Eq. 16 and 17), whichever the chain of training descends."""
        net = cast(LatentEnergy, self.network("energy_net"))
        return net if self.encoder is None else Informed(Joint(net, self.gamma), Outside(self.encoder, self.range))

    @property
    def can_infer(self) -> bool:
        return self.inference is not None

    @property
    def decoder_sigma(self) -> float | None:
        """√½ in units of `image_range`, of |x − G(m)|² (Eq. 14); where only q learns from the bound G is no density."""
        if self.elbo is None or not self.elbo.pixels:
            return None
        return math.sqrt(2) / (self.range.high - self.range.low)

    def inferred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q's mean and log variance.

        Raises:
            UserError: the model has no inference network.
        """
        if self.inference is None:
            raise UserError("model.inference is null: only LIEBM with an inference network reconstructs")
        return cast(tuple[Tensor, Tensor], self.network("inference")(self.range.inward(x)))

    def infer(self, x: Tensor) -> Tensor:
        """q's mean; errors as of `inferred`."""
        return self.inferred(x)[0]

    def representations(self) -> dict[str, Callable[[Tensor], Tensor]]:
        net = cast(LatentEnergy, self.network("energy_net"))
        found: dict[str, Callable[[Tensor], Tensor]] = {"energy": lambda x: net.features(self.range.inward(x))}
        return found if self.encoder is None else found | {"encoder": self.encoder.features}

    @property
    def can_condition_on_latents(self) -> bool:
        return self.encoder is not None

    @property
    def can_start_from_images(self) -> bool:
        return self.can_condition_on_latents and self.can_infer

    def encode(self, x: Tensor) -> Tensor:
        """h(x), with h on the image as it is.

        Raises:
            UserError: the model has no encoder.
        """
        return at_least_fp32(self._encoder()(x))

    def augmented(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.augment(x))

    def sample_from_latents(
        self,
        z: Tensor,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Samples:
        """x = G(m) + Y under E(x) − γ Σₖ cos(g_ψ(f(x)), zₖ), with Y and m in turn (§4.3; `LIEBMAlternation`).

        The first m is drawn from q(·|start); the paper's start is the mean of a class's augmented images, for which
        see the task `Conditional`. Without `start`, which a latent alone does not give, m ~ N(0, I). A chain on Y from
        0 is a chain on x from G(m). Without an inference network m stays fixed, and Y continues from round to round.

        `steps` are those of each round; `Samples` counts those of all.

        Raises:
            UserError: the model has no encoder, or there is a `start` and no inference network.
        """
        check_given(z, self._encoder().latent)
        z = z.to(self.device)
        sampler, rounds = self.sampler.lasting(steps), self.alternation.rounds
        with self.evaluating():
            joint = Joint(cast(LatentEnergy, self.network("energy_net")), self.alternation.gamma)
            energy = Composed(joint, z if z.dim() == 3 else z[:, None])
            if start is None:
                generated, nfe = self.decode(self.prior(len(z), None, generator)), 1
            else:
                generated, nfe = (
                    self.decode_inferred(self._infer_random(self.range.inward(start.to(self.device)), generator)),
                    2,
                )
            x = self.range.inward(generated)
            for chain in range(rounds):
                if chain > 0 and self.can_infer:
                    x = self.range.inward(self.decode_inferred(self._infer_random(x, generator)))
                    nfe += 2
                x = sampler(energy, x, generator=generator)
                nfe += sampler.steps
        return Samples(
            images=self.range.outward(x),
            nfe=nfe,
            start="generator" if start is None else "inference",
            steps=rounds * sampler.steps,
            temperature=sampler.temperature if sampler.steps else math.nan,
        )

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise UserError("model.encoder is null: only LIEBM with an encoder samples given latents")
        return self.encoder

    def _infer_random(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """m ~ q(·|x) of images in the method's range."""
        if self.inference is None:
            raise UserError("model.inference is null: only LIEBM with an inference network starts from images")
        mu, logvar = self.network("inference")(x)
        return gaussian.draw(at_least_fp32(mu), at_least_fp32(logvar), generator)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1)
