"""Laws of the contrastive loss and the schedule; encoder pre-training from the first step to the loaded checkpoint."""

import math

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI

from ebmzoo.data.datamodule import ImageData
from ebmzoo.data.images import ImageSet
from ebmzoo.errors import UserError
from ebmzoo.networks import Encoder, ResNetEncoder
from ebmzoo.ssrl import Augment, Objective, Pretraining, SimCLR, load_encoder, nt_xent, warmup_then_drops

UNCHANGED = Augment((1.0, 1.0), (1.0, 1.0), jitter_prob=0.0, grayscale_prob=0.0, flip_prob=0.0)


@pytest.mark.parametrize("temperature", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("extras", [None, 1, 5])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_nt_xent_of_orthonormal_pairs(n, extras, temperature):
    eye = torch.eye(n + (extras or 0))
    z, negatives = eye[:n], None if extras is None else eye[n:]
    loss = nt_xent(z, z, temperature=temperature, negatives=negatives)
    expected = math.log(1 + (2 * n - 2 + (extras or 0)) * math.exp(-1 / temperature))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_nt_xent_at_the_printed_value():
    assert nt_xent(torch.eye(8), torch.eye(8), temperature=0.2).item() == pytest.approx(0.0901434, abs=1e-6)


def test_nt_xent_is_the_equation():
    torch.manual_seed(0)
    z1, z2, negatives = torch.randn(3, 5), torch.randn(3, 5), torch.randn(2, 5)
    views = [*z1, *z2]
    total = 0.0
    for i, z in enumerate(views):
        cosines = {k: torch.cosine_similarity(z, key, dim=0) / 0.3 for k, key in enumerate([*views, *negatives])}
        others = [c.exp() for k, c in cosines.items() if k != i]
        total += (sum(others).log() - cosines[(i + 3) % 6]).item()
    assert nt_xent(z1, z2, temperature=0.3, negatives=negatives).item() == pytest.approx(total / 6, rel=1e-5)


def test_nt_xent_gradients():
    torch.manual_seed(0)
    z1, z2, negatives = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    nt_xent(z1, z2, temperature=0.3, negatives=negatives).backward()
    assert negatives.grad is None
    for z in (z1, z2):
        assert z.grad.abs().max() > 0
        # The loss does not depend on the length of z, so its gradient is orthogonal to z.
        torch.testing.assert_close((z.grad * z).sum(1), torch.zeros(4), rtol=0, atol=1e-6)


def test_nt_xent_is_float32_under_autocast():
    torch.manual_seed(0)
    z1, z2, negatives = torch.randn(3, 16, 8)
    expected = nt_xent(z1, z2, temperature=0.1, negatives=negatives)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nt_xent(z1, z2, temperature=0.1, negatives=negatives), expected)


class Recorder(Encoder):
    """Flattens the image and remembers the batches that it received."""

    latent = feature_dim = 16

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.batches = []

    def features(self, x):
        return self.scale * x.flatten(1)

    def forward(self, x):
        self.batches.append(x)
        return torch.nn.functional.normalize(self.features(x), dim=1)


def test_simclr_contrasts_two_views_in_one_batch():
    torch.manual_seed(0)
    encoder, x = Recorder(), torch.rand(4, 1, 4, 4) * 2 - 1
    loss = SimCLR(UNCHANGED, temperature=0.3)(encoder, x)
    (batch,) = encoder.batches
    torch.testing.assert_close(batch, torch.cat([x, x]))
    torch.testing.assert_close(loss, nt_xent(x.flatten(1), x.flatten(1), temperature=0.3))
    negatives = torch.randn(3, 16)
    with_negatives = SimCLR(UNCHANGED, temperature=0.3)(encoder, x, negatives=negatives)
    torch.testing.assert_close(
        with_negatives, nt_xent(*batch.flatten(1).chunk(2), temperature=0.3, negatives=negatives)
    )
    assert with_negatives > loss


def test_simclr_views_differ_by_default():
    torch.manual_seed(0)
    encoder = Recorder()
    SimCLR()(encoder, torch.rand(4, 1, 4, 4) * 2 - 1)
    first, second = encoder.batches[0].chunk(2)
    assert ((first - second).abs().amax((1, 2, 3)) > 1e-3).all()


def test_simclr_refuses_temperature_zero():
    with pytest.raises(UserError, match="temperature"):
        SimCLR(temperature=0.0)


def test_schedule_table():
    factors = [warmup_then_drops(step, warmup=4, drops=[6, 8], factor=0.5) for step in range(10)]
    assert factors == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert warmup_then_drops(0, warmup=0, drops=[]) == 1.0
    assert warmup_then_drops(10, warmup=1, drops=[10]) == 0.2


RIGHT = 0.8


class Blobs(ImageData):
    """Four classes, each a bright quadrant with noise; a fifth of the test labels are false."""

    name, size, channels = "blobs", 8, 1

    def load(self):
        train, test = self.part(64, 0), self.part(40, 1)
        test.labels[:8] = (test.labels[:8] + 1) % 4
        return train, test

    def part(self, n, seed):
        noise = torch.randint(0, 60, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(n) % 4
        for i, label in enumerate(labels.tolist()):
            top, left = 4 * (label // 2), 4 * (label % 2)
            noise[i, :, top : top + 4, left : left + 4] += 150
        return ImageSet(noise.to(torch.uint8), labels, tuple("abcd"), self.name)


class Counted(SimCLR):
    """SimCLR that remembers the calls of `after_step`."""

    def __init__(self):
        super().__init__(Augment(flip_prob=0.0, crop_scale=(0.6, 1.0)))
        self.progress = []

    def after_step(self, encoder, progress):
        self.progress.append(progress)


class Rates(Pretraining):
    """Pretraining that remembers the learning rate of each step."""

    rates: list

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        self.rates.append(optimizer.param_groups[0]["lr"])
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


def encoder():
    return ResNetEncoder(1, 8, (1, 1), latent=4, hidden=16, mean=None, std=None)


def trainer(tmp_path, **kwargs):
    options = {"max_epochs": 6, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "default_root_dir": tmp_path, "num_sanity_val_steps": 1}
    return Trainer(**options | kwargs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    seed_everything(0)
    path = tmp_path_factory.mktemp("run")
    model = Rates(encoder(), Counted(), warmup_steps=4, drop_epochs=(50, 3, 1))
    model.rates = []
    run = trainer(path, use_distributed_sampler=False)
    data = Blobs(batch_size=16)
    run.fit(model, data)
    run.save_checkpoint(path / "last.ckpt")
    return model, run, data, path / "last.ckpt"


def test_rates_follow_the_schedule(trained):
    model, run, *_ = trained
    assert run.global_step == 24
    expected = [1e-3 * warmup_then_drops(step, warmup=4, drops=[12, 20]) for step in range(24)]
    assert model.rates == pytest.approx(expected, rel=1e-6)


def test_objective_is_called_after_each_step(trained):
    assert trained[0].objective.progress == pytest.approx([step / 24 for step in range(1, 25)])


def test_accumulated_steps_count_once(tmp_path):
    seed_everything(0)
    model = Rates(encoder(), Counted(), warmup_steps=1, drop_epochs=(1,))
    model.rates = []
    run = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=3, limit_val_batches=0, use_distributed_sampler=False)
    run.fit(model, Blobs(batch_size=16))
    assert model.rates == pytest.approx([1e-3, 1e-3, 2e-4, 2e-4])
    assert model.objective.progress == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_steps_may_limit_the_run(tmp_path):
    seed_everything(0)
    model = Rates(encoder(), Counted(), warmup_steps=1, drop_epochs=(1,))
    model.rates = []
    run = trainer(tmp_path, max_epochs=-1, max_steps=6, limit_val_batches=0, use_distributed_sampler=False)
    run.fit(model, Blobs(batch_size=16))
    assert model.rates == pytest.approx([1e-3] * 2 + [2e-4] * 4)
    assert model.objective.progress[-1] == 1.0


def test_what_is_logged(trained):
    model, run, data, _ = trained
    assert run.logged_metrics["train/ssrl_loss"].isfinite()
    assert run.logged_metrics["val/probe_knn"].item() == pytest.approx(RIGHT)
    (result,) = trainer(None, use_distributed_sampler=False).test(model, data, verbose=False)
    assert result == pytest.approx({"test/probe/knn": RIGHT, "test/probe/linear": RIGHT})


def test_training_changes_the_encoder_and_its_checkpoint_is_read_back(trained):
    model, _, data, path = trained
    seed_everything(0)
    other = encoder().eval()
    x = data.test_set.float()
    expected = model.encoder.eval()(x)
    assert not torch.allclose(other(x), expected, atol=1e-2)
    load_encoder(other, path)
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (lambda: ResNetEncoder(1, 16, (1, 1), 4, 16, None, None), r"is \(8,.*must be \(16,"),
        (lambda: ResNetEncoder(1, 8, (1,), 4, 16, None, None), "must be absent"),
        (lambda: ResNetEncoder(1, 8, (1, 1), 4, 16, (0.5,), (0.5,)), "mean is missing"),
    ],
)
def test_another_encoder_is_refused(trained, other, reason):
    other = other()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(UserError, match=rf"last.ckpt: holds another encoder .* {reason}"):
        load_encoder(other, trained[3])
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


class Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def test_files_that_are_no_encoder_are_refused(tmp_path):
    path = tmp_path / "e.ckpt"
    with pytest.raises(UserError, match=r"e.ckpt: no such file"):
        load_encoder(encoder(), path)
    for content in (b"", b"not a checkpoint at all", b"PK\x03\x04 half a zip"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"e.ckpt(: not a| is not a readable) checkpoint"):
            load_encoder(encoder(), path)
    torch.save({"state_dict": {"encoder.x": Harm()}}, path)
    with pytest.raises(UserError, match=r"e.ckpt is refused: it holds a"):
        load_encoder(encoder(), path)
    for content in ({"state_dict": encoder().state_dict()}, {}, [1], {"state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"e.ckpt: a checkpoint without an encoder"):
            load_encoder(encoder(), path)


def test_command_line_builds_it(tmp_path):
    config = tmp_path / "simclr.yaml"
    config.write_text(f"""
model:
  class_path: ebmzoo.ssrl.Pretraining
  init_args:
    encoder:
      class_path: ebmzoo.networks.ResNetEncoder
      init_args: {{in_channels: 1, width: 8, blocks: [1, 1], latent: 4, hidden: 16, mean: [0.5], std: null}}
    objective:
      class_path: ebmzoo.ssrl.SimCLR
      init_args:
        temperature: 0.2
        augment: {{class_path: ebmzoo.ssrl.Augment, init_args: {{jitter: [0.8, 0.8, 0.8, 0.4], crop_scale: [0.5, 1]}}}}
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 3.0e-3, weight_decay: 1.0e-6}}}}
    warmup_steps: 2
    drop_epochs: [5]
data: {{class_path: {__name__}.Blobs, init_args: {{batch_size: 16}}}}
trainer:
  {{max_epochs: 1, accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false,
    use_distributed_sampler: false, enable_checkpointing: false}}
""")
    cli = LightningCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        args=["fit", "--config", str(config)],
    )
    model = cli.model
    assert isinstance(model, Pretraining)
    assert isinstance(model.objective, Objective)
    assert model.objective.temperature == 0.2
    assert tuple(model.objective.augment.jitter) == (0.8, 0.8, 0.8, 0.4)
    (group,) = cli.trainer.optimizers[0].param_groups
    assert (group["initial_lr"], group["weight_decay"]) == (3e-3, 1e-6)
    assert cli.trainer.global_step == 4
    assert cli.trainer.logged_metrics["val/probe_knn"] > 0.5
