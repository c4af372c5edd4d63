"""LIEBM on given images for the minutes that are left: a grid, a distance, and the way there."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ebmzoo.data import ImageFolder
from ebmzoo.data.images import to_uint8
from ebmzoo.methods import LIEBM
from ebmzoo.metrics import ClassifierFeatures, FeatureExtractor, Pixels, extract, frechet_distance
from ebmzoo.networks.base import Encoder
from ebmzoo.report.pictures import save_grid
from ebmzoo.sampling.randomness import repeatable
from ebmzoo.training.checkpoint import read
from ebmzoo.training.config import build_model, sections
from ebmzoo.training.config_files import config_path, read_config
from ebmzoo.training.migration import KEY
from ebmzoo.training.trainer import DEFAULTS, ZooTrainer
from profiling.gpu import device as at
from profiling.gpu.options import Options
from profiling.gpu.record import Record
from profiling.iterations import QUIET

SAMPLES, GRID, SNAPSHOTS = 10_000, 64, 12
FOR_THE_END = 0.2
"""The share of the time that is kept for samples and distances."""


class EncoderFeatures(FeatureExtractor):
    """The features of an encoder, below its head."""

    name, fingerprint = "encoder", None

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.eval()

    def available(self) -> str | None:
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.encoder.features(images), None


class Snapshots(Callback):
    """Stops the fit at `end`, and until then regularly records the logged values and draws a grid."""

    def __init__(self, record: Record, options: Options, end: float) -> None:
        self.record, self.path, self.end = record, options.out / "samples.png", end
        self.most = 3 if options.rehearse else math.inf
        self.every = 0.0
        self.begun = self.due = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = time.monotonic()
        self.every = (self.end - self.begun) / SNAPSHOTS
        self.due = self.begun

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        trainer.should_stop = trainer.should_stop or now >= self.end or trainer.global_step >= self.most
        if now >= self.due or trainer.should_stop:
            self.due = now + self.every
            assert isinstance(pl_module, LIEBM)
            self.draw(trainer, pl_module, now - self.begun)

    def draw(self, trainer: Trainer, method: LIEBM, seconds: float) -> None:
        """Record the values at this iteration, and draw from the averages, always from the same noise."""
        values = {k.removeprefix("train/"): round(float(v), 5) for k, v in trainer.callback_metrics.items()}
        point = {"iteration": trainer.global_step, "seconds": round(seconds, 1)} | values
        print(point, flush=True)
        self.record.put(
            iterations=trainer.global_step,
            training_seconds=round(seconds, 1),
            peak_gib=at.peak_gib(),
            curve=[*self.record.told.get("curve", []), point],
        )
        with repeatable(seed=0):
            save_grid(method.sample(GRID).images, self.path)


def encoder_of(path: Path) -> tuple[Any, int]:
    """The config and the latents of the encoder in a checkpoint, which states both.

    Raises:
        UserError: The file is not a checkpoint of ebmzoo.
        KeyError: It has no encoder.
    """
    encoder = sections(read(path)[KEY]["config"])["model"]["init_args"]["encoder"]
    return encoder, encoder["init_args"].get("latent", 64)


def model_config(options: Options) -> dict[str, Any]:
    """The model of LIEBM on CIFAR-10 with the encoder of a file, or without latents where none is given."""
    config: dict[str, Any] = read_config(config_path("liebm_small_narrow_cifar" if options.rehearse else "liebm_cifar"))
    arguments = config["model"]["init_args"]
    arguments.pop("encoder_stage", None)
    if options.encoder is None:
        arguments |= {"encoder": None, "encoder_checkpoint": None, "gamma": 0.0, "gamma_ood": 0.0}
    else:
        encoder, latent = encoder_of(options.encoder)
        arguments |= {"encoder": encoder, "encoder_checkpoint": str(options.encoder)}
        arguments["energy_net"]["init_args"]["latent"] = latent
    arguments["ema_decay"] = 0.999  # of thousands of iterations, not of the paper's hundred thousand
    if options.rehearse:
        arguments["energy_net"]["init_args"]["features"]["init_args"] |= {"width": 8, "out_features": 16}
        arguments["generator"]["init_args"]["width"] = 8
        arguments["sampler"]["steps"] = 3
        arguments["ema_decay"] = 0.5
    return config


def measure(record: Record, options: Options) -> None:
    """Train until the time for the end is left, then sample and compare."""
    if options.images is None:
        record.put(skipped="no --images were given")
        return
    config = model_config(options)
    batch = 8 if options.rehearse else config["data"]["init_args"]["batch_size"]
    torch.manual_seed(0)
    module = build_model(yaml.safe_dump(config))
    assert isinstance(module, LIEBM)
    record.put(machine=at.facts(), config=config["model"], images=options.images.name, batch=batch)
    data = ImageFolder(str(options.images), 32, 3, batch_size=batch)
    data.setup("fit")
    record.put(train_images=len(data.train_set), reading_seconds=round(record.seconds - record.left, 1))
    save_grid(data.test_set.float(slice(GRID)), options.out / "real.png")

    end = time.monotonic() + record.left - FOR_THE_END * record.seconds
    at.forget_peak()
    settings = DEFAULTS | QUIET | {"max_epochs": -1, "limit_val_batches": 0, "devices": 1, "precision": "bf16-mixed"}
    with tempfile.TemporaryDirectory() as folder:
        watch = Snapshots(record, options, end)
        trainer = ZooTrainer(**settings, accelerator="auto", default_root_dir=folder, callbacks=[watch])
        trainer.fit(module, data)
    module = module.to(at.device()).eval()
    record.put(images_a_second=round(record.told["iterations"] * batch / record.told["training_seconds"], 1))
    compare(record, options, module, data)


def compare(record: Record, options: Options, method: LIEBM, data: ImageFolder) -> None:
    """Sample as many images as there is time for, and compare them with those of the test set."""
    most, batch, began = (16, 8, record.left) if options.rehearse else (SAMPLES, 500, record.left)
    made: list[Tensor] = []
    start = time.monotonic()
    with torch.autocast(at.device().type, torch.bfloat16), repeatable(seed=1):
        while sum(map(len, made)) < most and (not made or record.left > 0.4 * began):
            made.append(to_uint8(method.sample(batch).images.cpu()))
    images = torch.cat(made)
    record.put(samples=len(images), sampling_seconds=round(time.monotonic() - start, 1))
    real = data.test_set.images
    extractors: list[FeatureExtractor] = [EncoderFeatures(e)] if isinstance(e := method.encoder, nn.Module) else []
    if options.classifier is not None:
        extractors.append(ClassifierFeatures(str(options.classifier)))
    for extractor in extractors or [Pixels()]:
        with record.failures_of("distances", extractor.name):
            features, fake = (extract(extractor, of, device=at.device())[0] for of in (real, images))
            # what images of one kind have at this number, as the distance is biased
            halves = round(frechet_distance(features[::2], features[1::2]), 4)
            told = {extractor.fd_name: round(frechet_distance(features, fake), 4), "of_halves_of_the_real": halves}
            record.add("distances", extractor.name, told | {"n": len(fake), "real": len(features), "split": "test"})
