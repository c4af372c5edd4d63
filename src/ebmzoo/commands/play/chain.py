"""What the page of `ebmzoo play` shows of a model: samples and their chains, scores and restorations of a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from threading import Event, RLock

import torch
from torch import Tensor

from ebmzoo.commands.conditions import OfClass
from ebmzoo.commands.play.controls import (
    IMAGES,
    PAINTED,
    SEED,
    Painted,
    classes_of,
    degradations_of,
    guidance_of,
    steps_of,
    temperature_of,
)
from ebmzoo.commands.play.outcomes import Moment, PictureScore, RestoredPicture, Walk
from ebmzoo.commands.watching import Recorder, watched
from ebmzoo.data import ImageData, prepare, to_uint8
from ebmzoo.data.decode import Frame, decode
from ebmzoo.data.degradations import Masking, Operator
from ebmzoo.data.masks import masked
from ebmzoo.energy import frozen
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.methods.base.capabilities import (
    HasChain,
    Inpaints,
    RestorationSettings,
    Restores,
    SamplesInStages,
    SampleStage,
)
from ebmzoo.methods.base.samples import Samples
from ebmzoo.methods.families.recovery_likelihood import RecoveryLikelihood
from ebmzoo.metrics import fidelity
from ebmzoo.reading import read_bytes
from ebmzoo.sampling.noise_schedule import column
from ebmzoo.tasks.conditioning import has_classes, sample_classes, sample_latents
from ebmzoo.tasks.generation import draw
from ebmzoo.tasks.restoration import RANGE

BATCH = 250
"""The `batch_size` of `ebmzoo sample`, by which a seed gives its images."""
FRAMES = 40
"""The most states of a chain that are shown."""
PICTURE_MIB = 8
"""The largest file that is scored or restored."""
REFERENCE = 250
"""The number of test images that a score is compared with."""


class Player:
    """A model, and what is computed with it; one computation at a time, since all share its chain and torch's seed.

    Args:
        method: The model, on its device, with the weights to evaluate.
        data: The data that it was trained on; None where they are not at hand.
        no_data: Why they are not.
    """

    def __init__(self, method: Method, data: ImageData | None = None, no_data: str = "") -> None:
        self.method = method
        self.data = data
        self.no_data = no_data
        self.steps = steps_of(method)
        self.temperature = temperature_of(method)
        self.guidance = guidance_of(method)
        self.classes, self.no_classes = classes_of(method, data, no_data)
        self.degradations, self.no_degradations = degradations_of(method)
        self._lock, self._stop = RLock(), Event()
        self._latents: dict[str, Tensor] = {}
        self._of_test: tuple[Tensor, Tensor] | None = None

    def sample(
        self,
        n: object = IMAGES.value,
        seed: object = 0,
        steps: object = None,
        temperature: object = 1.0,
        class_: str | None = None,
        guidance: object = 0.0,
    ) -> Walk:
        """The images of `ebmzoo sample` with the same n, seed, steps, class and guidance, and their chains.

        Args:
            n: The number of images.
            seed: The seed.
            steps: Langevin steps; None for the model's own number.
            temperature: The factor of the temperature of the chain.
            class_: One of `classes`; None for none.
            guidance: w, of the class.

        Raises:
            UserError: A value is out of range, or the model has no such class.
        """
        count, number = int(IMAGES.read(n)), int(SEED.read(seed))
        length, factor, w = self._length(steps), self._noise(temperature), self.guidance.read(guidance)
        if class_ is not None and class_ not in self.classes:
            raise UserError(self.no_classes or f"the model has no class {class_}")
        if w and class_ is None:
            raise UserError("guidance leads towards a class; choose one")
        with self._lock, watched(self.method, factor, FRAMES, self._stop) as recorder:
            self._stop.clear()
            torch.manual_seed(number)
            if class_ is not None:
                images, made = self._of_class(class_, count, length, w)
            elif isinstance(self.method, SamplesInStages):
                with_states = self.method.stages(count, image_steps=length, keep=FRAMES // 2)
                made = self.method.chain_info(length).samples(with_states[-1].states[-1])
                return self._walk(to_uint8(made.images).cpu(), made, self._of_stages(with_states))
            else:
                images, made = draw(self.method, count, BATCH, length)
            return self._walk(images, made, self._seen(recorder))

    def stop(self) -> None:
        """End the chain that walks now, if one does, with a `UserError`."""
        self._stop.set()

    def score(self, picture: Tensor) -> PictureScore:
        """The energy and the score of a picture, uint8 `(1, C, H, W)`, and those of the first `REFERENCE` test images.

        Raises:
            UserError: The test images cannot be read.
        """
        with self._lock:
            if self._of_test is None and self.data is not None:
                self._of_test = self._scores(self.data.test_set.images[:REFERENCE])
            energy, score = self._scores(picture)
        return PictureScore(float(energy), float(score), self._of_test)

    def restore(
        self,
        picture: Tensor,
        degradation: str,
        n: object = 4,
        seed: object = 0,
        steps: object = None,
        temperature: object = 1.0,
        painted: Tensor | None = None,
    ) -> RestoredPicture:
        """Degrade a picture, uint8 `(1, C, H, W)`, and restore it n times, as `ebmzoo restore --degrade` does.

        What is hidden by a mask is filled in as by `ebmzoo sample --inpaint` where the model has a way of its own.
        With `PAINTED` for the degradation, `painted` is the mask, `(H, W)` bool, true where hidden.

        Raises:
            UserError: A value is out of range, nothing is painted, or the model does not restore images.
        """
        operator = self._operator(degradation, painted)
        count, number = int(IMAGES.read(n)), int(SEED.read(seed))
        length, factor = self._length(steps), self._noise(temperature)
        method, clean = self.method, prepare(picture)
        with self._lock, watched(method, factor, FRAMES, self._stop) as recorder:
            self._stop.clear()
            torch.manual_seed(number)
            y = operator.degraded(clean)
            left = operator.pinv(y)
            if isinstance(operator, Masking) and isinstance(method, Inpaints):
                hidden = operator.mask(picture.shape[-1])[None, None]
                left = masked(clean, hidden)
                known = left.repeat(count, 1, 1, 1).to(method.device)
                made, stages = method.inpaint(known, hidden.to(method.device), steps=length), list[SampleStage]()
            else:
                assert isinstance(method, Restores)
                settings = RestorationSettings(steps=length)
                stages = method.restored(y.repeat_interleave(count, 0).to(method.device), operator, settings)
                made = Samples(stages[-1].states[-1], stages[-1].nfe[-1], "what was left", 0, float("nan"))
            moments = self._seen(recorder) or self._of_stages(stages)
            walk = self._walk(to_uint8(made.images).cpu(), made, moments)
        ends = made.images.float().cpu().clamp(-1, 1)
        psnr = [
            float(fidelity(x, clean.expand(len(x), -1, -1, -1), RANGE)["psnr"].double().mean())
            for x in (left.clamp(-1, 1), ends)
        ]
        return RestoredPicture(picture, to_uint8(left), walk, (psnr[0], psnr[1]))

    def picture(self, path: str | None, index: object = 0) -> Tensor:
        """A file as uint8 `(1, C, H, W)`, its central square at the model's size; without one, a test image.

        Raises:
            UserError: It is no image, or too large; or there is no file and no such test image.
        """
        channels, size, _ = self.method.image_shape
        if path is not None:
            entry = Path(path).name, partial(read_bytes, path, PICTURE_MIB * 2**20)
            return decode([entry], Frame(size, channels), max_gib=1)[1]
        if self.data is None:
            raise UserError(f"drop a picture in; there are no test images at hand: {self.no_data}")
        images = self.data.test_set.images
        if not (isinstance(index, int | float) and 0 <= index < len(images) and index == int(index)):
            shown = "empty" if index is None else index
            raise UserError(f"the test image is {shown}; it must be a whole number from 0 to {len(images) - 1}")
        return images[int(index)][None]

    def _operator(self, degradation: str, painted: Tensor | None) -> Operator:
        if self.degradations and degradation == PAINTED:
            if painted is None or not painted.any():
                raise UserError("nothing is painted yet: draw on the picture what is to be hidden")
            return Masking(Painted(painted))
        if degradation not in self.degradations:
            raise UserError(self.no_degradations or f"there is no degradation {degradation!r}")
        return self.degradations[degradation]

    def _noise(self, temperature: object) -> float:
        """The factor of the noise."""
        return math.sqrt(self.temperature.read(temperature))

    def _length(self, steps: object) -> int | None:
        """The steps as `sample` takes them: None for the model's own, as where no flag is given."""
        if steps is None or (length := int(self.steps.read(steps))) == self.steps.value:
            return None
        return length

    def _of_class(self, class_: str, n: int, steps: int | None, guidance: float) -> tuple[Tensor, Samples]:
        if has_classes(self.method):
            labels = torch.full((n,), self.classes.index(class_))
            return sample_classes(self.method, labels, BATCH, steps, guidance)
        if class_ not in self._latents:
            assert self.data is not None
            data = self.data
            self._latents[class_] = OfClass(class_).latents(self.method, lambda: data, BATCH)
        z = self._latents[class_]
        return sample_latents(self.method, z.expand(n, *z.shape), BATCH, steps)

    def _scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = prepare(images.to(self.method.device))
        with self.method.evaluating(), frozen(self.method):
            return self.method.energy(x).detach().cpu(), self.method.ood_score(x).detach().cpu()

    def _energies(self, x: Tensor) -> Tensor:
        with self.method.evaluating(), frozen(self.method):
            return self.method.energy(x.to(self.method.device)).detach().cpu()

    def _moment(self, caption: str, x: Tensor) -> Moment:
        x = x.float().cpu()
        return Moment(caption, x, self._energies(x))

    def _walk(self, images: Tensor, made: Samples, moments: list[Moment]) -> Walk:
        last = self._moment("the images", made.images)
        if moments and torch.equal(moments[-1].images, last.images):  # nothing follows the chain
            moments = moments[:-1]
        cost = f"from {made.start.rstrip(',')}, {made.nfe} network evaluation{'s' * (made.nfe != 1)} for each image"
        if made.steps:
            cost = f"{made.steps} Langevin steps at temperature {made.temperature:.3g}, {cost}"
        return Walk(images, last.energies, [*moments, last], made.steps, cost)

    def _seen(self, recorder: Recorder) -> list[Moment]:
        """The states of a chain on images, or of one at each noise level."""
        method, found = self.method, list[Moment]()
        for state in recorder.states():
            if isinstance(method, RecoveryLikelihood):
                i = torch.full((len(state.x),), method.schedule.levels - state.run, device=state.x.device)
                x = state.x / column(method.schedule.scale(i), state.x)
                x = x if method.coder is None else method.coder.decode(x)
                found.append(self._moment(f"step {state.step}, noise level {int(i[0]) - 1}", x))
            else:
                assert isinstance(method, HasChain)
                found.append(self._moment(f"step {state.step}", method.range.outward(state.x)))
        return found

    def _of_stages(self, stages: Iterable[SampleStage]) -> list[Moment]:
        return [
            self._moment(f"{stage.name}, {nfe} network evaluations", x)
            for stage in stages
            for nfe, x in zip(stage.nfe, stage.states, strict=True)
        ]
