"""The likelihood of test data: log Z between two bounds for low-dimensional energies, and a bound for generators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ebmzoo.data.datamodule import ImageData, prepare
from ebmzoo.data.image_range import dequantized
from ebmzoo.data.plane import PlaneData
from ebmzoo.energy import Energy, frozen
from ebmzoo.errors import UserError
from ebmzoo.methods.base.capabilities import DecodesGaussian
from ebmzoo.methods.base.method import Method
from ebmzoo.methods.base.samples import Samples
from ebmzoo.metrics import FeatureExtractor
from ebmzoo.metrics.gaussian import gaussian_log_likelihood
from ebmzoo.progress import tracked
from ebmzoo.sampling.ais import AnnealedImportanceSampling, LogZ
from ebmzoo.sampling.base_densities import Box
from ebmzoo.sampling.energies import Tempered
from ebmzoo.sampling.importance import importance_bound
from ebmzoo.sampling.langevin import ChainDivergedError
from ebmzoo.tasks.base import Result, Task
from ebmzoo.tasks.budget import Budget
from ebmzoo.tasks.generation import chain_protocol

CELLS = 400
"""Cells on each axis of the grid on the plane over which log Z is summed."""
WIDTH = 2 / 256
"""Width of a pixel level in dequantised images."""
CERTAIN = 10.0
"""Nats by which the lower bound may exceed the upper by chance, with probability below 2e⁻⁵."""


class Likelihood(Task):
    """Bounds on log p(x) in nats and on bits per dimension, of test images or points.

    For an energy, log p(x) = −E(x)/T − log Z on the box [−1, 1]^D and 0 outside: there every finite energy has a Z,
    even if exp(−E) has no finite integral over the whole space. On the plane the box has the half-width of the data.
    Rows: `temperature_1`, the density exp(−E), and `temperature_chain`, the sampler's law exp(−E/T), T = τ²/2η, if T ≠
    1; and `temperature_<T>` for each T of `at`.

        log_z_lower, log_z_upper               by annealed importance sampling from the uniform density, forward and
                                               reverse (`AnnealedImportanceSampling`); the reverse chains start from
                                               the method's samples after `settle` exact transitions, so that the
                                               upper bound holds only if those are draws of exp(−E/T)/Z
        log_likelihood_lower, _upper           mean log p(x), from log_z_upper and log_z_lower
        bits_per_dimension_lower, _upper       the same in bits, for images with 256 levels per pixel
        log_z_test_bins                        for images: log Σ exp(−E(x)/T) (2/256)^D over distinct test images, an
                                               unbiased estimate of the mass of exp(−E/T) in their bins alone and so
                                               another lower bound: log_z_lower is the larger of both
        ess_forward, ess_reverse               (Σw)²/Σw² of the weights of `chains`
        log_z_grid, log_likelihood_grid        on the plane: by a sum over a grid, exact up to the size of its cells
        truth/log_likelihood                   on the plane: for the density that the points were drawn from

    Each of log_z_lower and log_z_upper violates its bound by t nats with probability below e^{−t}; if the lower bound
    is far above the upper, the starts of the reverse chains were not draws of the density, and the upper bound is
    omitted. Without log_z_test_bins a cold energy could have fewer than 0 bits.

    Row `gaussian`, for comparison: N(μ, Σ) on the whole space, the mean and the covariance of the dequantised training
    images; it is exact, and both of its bounds are alike.

    For a generator with a Gaussian decoder, row `generator`: log_likelihood_lower by `samples` draws of q(z|x)
    (`importance_bound`), and bits_per_dimension_upper.

    The level u of a pixel is dequantised to x = (255 u' + 2 v)/256 − 1, u' = 2u/255 and v ~ U(0, 1): a bin of width
    2/256. P(image) ≥ exp E_v[log p(x)] (2/256)^D, hence

        bits per dimension ≤ −E_v[log p(x)]/(D log 2) + 7

    which is 8 for the uniform density on the box. Source: Theis et al. 2016, A note on the evaluation of generative
    models, Eq. 5; Grosse et al. 2015; Burda et al. 2016.

    Args:
        images: The largest number of test images or points.
        temperatures: K, distributions between the uniform one and exp(−E/T).
        chains: Annealed chains in each direction.
        leapfrog: Leapfrog steps per transition.
        settle: Transitions at β = 1 before the reverse chains start, 0 or more.
        samples: K of the importance bound.
        max_dimension: The largest dimension for which log Z is estimated; above it the bounds would be far apart.
        batch_size: Images per evaluation.
        at: Further temperatures T of exp(−E/T), above 0 and finite.

    Raises:
        UserError: A number is out of range.
    """

    name = "likelihood"
    data_types = (ImageData, PlaneData)

    def __init__(
        self,
        images: int = 500,
        temperatures: int = 50,
        chains: int = 32,
        leapfrog: int = 3,
        settle: int = 25,
        samples: int = 64,
        max_dimension: int = 256,
        batch_size: int = 250,
        at: Sequence[float] = (),
    ) -> None:
        least = {"images": 1, "settle": 0, "samples": 1, "max_dimension": 0, "batch_size": 1}
        values = {"images": images, "settle": settle, "samples": samples, "max_dimension": max_dimension}
        for key, value in {**values, "batch_size": batch_size}.items():
            if value < least[key]:
                raise UserError(f"likelihood.{key} is {value}; it must be {least[key]} or more")
        try:
            AnnealedImportanceSampling(temperatures, chains, leapfrog)
        except UserError as error:
            raise UserError(f"likelihood.{error}") from error
        if bad := [t for t in at if not 0 < t < math.inf]:
            raise UserError(f"likelihood.at has the temperature {bad[0]}; each must be above 0 and finite")
        self.at = tuple(at)
        self.images = images
        self.temperatures = temperatures
        self.chains = chains
        self.leapfrog = leapfrog
        self.settle = settle
        self.samples = samples
        self.max_dimension = max_dimension
        self.batch_size = batch_size

    @classmethod
    def standard(cls, extractors: list[FeatureExtractor]) -> Self | None:
        return cls()

    def apply_budget(self, budget: Budget) -> None:
        self.images = budget.images_of(self.images)
        self.temperatures = budget.share_of(self.temperatures)
        self.samples = budget.share_of(self.samples, least=1)

    def supports(self, method: Method) -> bool:
        return method.has_density or decoder_of(method) is not None

    def __call__(self, method: Method, data: ImageData | PlaneData, folder: Path | None = None) -> Result:
        result = Result(self.name)
        x, box = self._test_points(data, method.device, result)
        if method.has_density:
            if x[0].numel() <= self.max_dimension:
                self._measure_energy(method, data, x, box, result)
            else:
                result.notes.append(
                    f"log Z: the data have {x[0].numel()} dimensions, more than likelihood.max_dimension, "
                    f"{self.max_dimension}, so it is not estimated"
                )
        if (decoder := decoder_of(method)) is not None:
            self._measure_generator(decoder, data, x, result)
        if isinstance(data, ImageData) and x[0].numel() <= self.max_dimension:
            self._measure_gaussian(data.train_set.images, x.cpu(), result)
        return result

    def _test_points(self, data: ImageData | PlaneData, device: torch.device, result: Result) -> tuple[Tensor, Box]:
        """The test data as points of a density, `(n, C, H, W)`, and the box that contains them."""
        result.protocol["data"] = data.name
        if isinstance(data, PlaneData):
            points = data.test_set.take(slice(self.images)).images
            result.protocol["test_points"] = len(points)
            half = data.half_width()
            return points.to(device), Box(-half, half)
        images = torch.unique(data.test_set.images[: self.images], dim=0)  # bins are counted once
        result.protocol |= {"images": len(images), "levels": "256, dequantised uniformly"}
        return dequantized(prepare(images.to(device))), Box(-1.0, 1.0)

    # ── energies ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure_energy(self, method: Method, data: Any, x: Tensor, box: Box, result: Result) -> None:
        try:
            sampled = method.sample(self.chains)
        except ChainDivergedError as error:
            result.notes.append(f"log Z: {error}")
            return
        rows = {"temperature_1": 1.0}
        if sampled.temperature > 0 and not math.isclose(sampled.temperature, 1.0, rel_tol=1e-6):
            rows["temperature_chain"] = sampled.temperature
        rows |= {f"temperature_{t:g}": t for t in self.at}
        result.protocol |= {
            "temperature": rows,
            "base": f"uniform on [{box.low:g}, {box.high:g}]^{x[0].numel()}",
            "annealed": f"{self.chains} chains over {self.temperatures} temperatures, {self.leapfrog} leapfrog steps",
            "reverse": f"{self.settle} exact transitions after the method's samples: the upper is approximate",
            "reverse_chains": chain_protocol(sampled),
        }
        with method.evaluating(), frozen(method):
            for row, temperature in rows.items():
                try:
                    found = self._bracket(Tempered(method.energy, temperature), box, sampled)
                except ChainDivergedError as error:
                    result.notes.append(f"{row}: {error}")
                    continue
                energies = self._energies(method.energy, x) / temperature
                mean = float(energies.mean())
                self._record(row, found, energies, x[0].numel(), isinstance(data, ImageData), result)
                if isinstance(data, PlaneData):
                    log_z = self._by_grid(Tempered(method.energy, temperature), box, x.device)
                    result.figures |= {f"{row}/log_z_grid": log_z, f"{row}/log_likelihood_grid": -mean - log_z}
        if isinstance(data, PlaneData):
            truth = data.density(x.flatten(1).cpu()).log().mean()
            result.figures["truth/log_likelihood"] = float(truth)

    def _bracket(self, energy: Energy, box: Box, sampled: Samples) -> LogZ:
        ais = AnnealedImportanceSampling(self.temperatures, self.chains, self.leapfrog)
        starts = sampled.images.to(torch.promote_types(sampled.images.dtype, torch.float32)).clamp(box.low, box.high)
        ladder = ais.pilot(energy, box, starts)
        forward = ais.forward(energy, box, starts, ladder)
        ends = ais.settled(energy, box, starts, ladder, self.settle)
        return LogZ(forward, ais.reverse(energy, box, ends, ladder))

    def _energies(self, energy: Energy, x: Tensor) -> Tensor:
        """E(x), `(n,)` float64 on the CPU."""
        batches = tracked(torch.split(x, self.batch_size), "test images", unit="batch")
        return torch.cat([energy(batch).double().cpu() for batch in batches])

    def _record(self, row: str, found: LogZ, energies: Tensor, dimension: int, levels: bool, result: Result) -> None:
        mean, lower, upper = float(energies.mean()), found.lower, found.upper
        if levels:
            test_bins = float((-energies).logsumexp(0)) + dimension * math.log(WIDTH)
            result.figures[f"{row}/log_z_test_bins"] = test_bins
            lower = max(lower, test_bins)
        if lower > upper + CERTAIN:
            reason = (
                f"{row}: the upper estimate of log Z, {upper:.4g}, is below the lower one, {lower:.4g}: it is no bound"
            )
            result.protocol["refuted"] = "; ".join([*filter(None, [result.protocol.get("refuted")]), reason])
            upper = math.nan
        elif lower > upper:
            result.protocol["crossed"] = "; ".join(
                [
                    *filter(None, [result.protocol.get("crossed")]),
                    f"{row}: log_z_lower is {lower - upper:.2g} nats above log_z_upper, which chance explains: each is "
                    "off by t nats with a probability below e^{−t}",
                ]
            )
        figures = {"log_z_lower": lower, "log_z_upper": upper}
        figures |= {"log_likelihood_lower": -mean - upper, "log_likelihood_upper": -mean - lower}
        if levels:
            figures |= {
                "bits_per_dimension_lower": bits_per_dimension(-mean - lower, dimension),
                "bits_per_dimension_upper": bits_per_dimension(-mean - upper, dimension),
            }
        assert found.reverse is not None
        figures |= {"ess_forward": found.forward.ess, "ess_reverse": found.reverse.ess}
        result.figures |= {f"{row}/{name}": value for name, value in figures.items()}
        result.curves[f"{row}/acceptance"] = found.forward.acceptance

    def _by_grid(self, energy: Energy, box: Box, device: torch.device) -> float:
        """log Σ exp(−E) times the area of a cell, over the midpoints of a grid's cells."""
        width = (box.high - box.low) / CELLS
        midpoints = box.low + width * (torch.arange(CELLS) + 0.5)
        points = torch.cartesian_prod(midpoints, midpoints)[:, :, None, None].to(device)
        found = torch.cat([energy(batch).double() for batch in torch.split(points, 10 * self.batch_size)])
        return float((-found).logsumexp(0)) + 2 * math.log(width)

    # ── generators ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure_generator(self, method: DecodesGaussian, data: Any, x: Tensor, result: Result) -> None:
        assert isinstance(method, Method)
        sigma = method.decoder_sigma
        assert sigma is not None
        bounds = []
        with method.evaluating():
            for batch in tracked(torch.split(x, self.batch_size), "importance bound", unit="batch"):
                mu, logvar = method.inferred(batch)
                bounds.append(importance_bound(method.decode_inferred, sigma, batch, mu, logvar, self.samples).cpu())
        bound = float(torch.cat(bounds).mean())
        result.figures["generator/log_likelihood_lower"] = bound
        if isinstance(data, ImageData):
            result.figures["generator/bits_per_dimension_upper"] = bits_per_dimension(bound, x[0].numel())
        result.protocol["importance_samples"] = self.samples
        result.protocol["decoder_sigma"] = sigma

    # ── a Gaussian ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure_gaussian(self, train: Tensor, x: Tensor, result: Result) -> None:
        dimension = x[0].numel()
        if len(train) <= dimension:
            result.protocol["gaussian"] = f"{len(train)} training images have no covariance of {dimension} dimensions"
            return
        mean = gaussian_log_likelihood(dequantized(prepare(train)), x)
        for side in ("lower", "upper"):  # exact, in the columns of the bounds
            result.figures[f"gaussian/log_likelihood_{side}"] = mean
            result.figures[f"gaussian/bits_per_dimension_{side}"] = bits_per_dimension(mean, dimension)


def decoder_of(method: Method) -> DecodesGaussian | None:
    """Return the method if it was trained with a Gaussian decoder, and None otherwise."""
    return method if isinstance(method, DecodesGaussian) and method.decoder_sigma is not None else None


def bits_per_dimension(log_likelihood: float, dimension: int) -> float:
    """−log p(x)/(D log 2) − log₂(2/256), for x in [−1, 1] with 256 levels, each of width 2/256."""
    return -log_likelihood / (dimension * math.log(2)) - math.log2(WIDTH)
