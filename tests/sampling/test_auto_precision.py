"""The precision `auto`, on machines with and without units for bf16."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ebmzoo.sampling import Langevin, RecoveryChain, auto_precision
from ebmzoo.training.differences import changes_line, conditions
from ebmzoo.training.trainer import ZooTrainer

QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


@pytest.fixture(params=[True, False], ids=["AMX", "no AMX"])
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    auto_precision._say.cache_clear()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return bool(request.param)


class Watched(nn.Module):
    """A linear energy that notes in which dtypes it is asked, and runs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        self.seen.add((x.dtype, y.dtype))
        return y.float().squeeze(1)  # type: ignore[no-any-return]


def test_a_chain_runs_its_network_in_what_the_flags_say_and_keeps_fp32_states(
    amx: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    energy, x = Watched(), torch.randn(3, 4)
    same = Langevin(3, 0.1, 0.01, precision="bf16" if amx else "fp32")
    got = Langevin(3, 0.1, 0.01, precision="auto")(energy, x, generator=torch.Generator().manual_seed(0))
    assert energy.seen == {(torch.float32, torch.bfloat16 if amx else torch.float32)}
    assert got.dtype == torch.float32
    assert torch.equal(got, same(energy, x, generator=torch.Generator().manual_seed(0)))
    taken = "bf16, because this CPU has matrix" if amx else "fp32, because this CPU has no matrix"
    assert capsys.readouterr().err == f"precision: auto takes {taken} units for bf16 (AMX)\n"


def test_the_line_is_said_once(amx: bool, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        RecoveryChain(steps=1, precision="auto")(Watched(), torch.randn(2, 4), unit=torch.ones(2))
    ZooTrainer(precision="auto", accelerator="cpu", devices=1, **QUIET)
    assert capsys.readouterr().err.count("precision: auto takes") == 1


def test_fp32_of_auto_does_without_the_callers_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    energy = Watched()
    with torch.autocast("cpu", torch.bfloat16):
        Langevin(1, 0.1, precision="auto")(energy, torch.randn(2, 4))
    assert energy.seen == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_trainer_resolves_it(amx: bool, accelerator: str) -> None:
    trainer = ZooTrainer(precision="auto", accelerator=accelerator, devices=1, **QUIET)
    assert trainer.precision == ("bf16-mixed" if amx else "32-true")


def test_other_precisions_of_a_trainer_are_lightnings() -> None:
    assert ZooTrainer(accelerator="cpu", devices=1, **QUIET).precision == "32-true"
    assert ZooTrainer(precision="bf16-mixed", accelerator="cpu", devices=1, **QUIET).precision == "bf16-mixed"


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_asked_without_emulation(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return there

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert auto_precision.has_bf16("cuda")[0] is there
    assert asked == [False]


def test_a_gpu_that_is_not_there_counts_as_one_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert auto_precision.has_bf16("cuda")[0]
    assert not auto_precision.has_bf16("mps")[0]


def test_a_resume_on_another_machine_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = ZooTrainer(accelerator="cpu", devices=1, **QUIET)
    module = nn.Module()
    module.sampler = Langevin(1, 0.1, precision="auto")
    module.other = Langevin(1, 0.1, precision="fp32")
    monkeypatch.setattr(type(trainer), "lightning_module", property(lambda _: module))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    before = copy.deepcopy(conditions(trainer))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    line = changes_line({}, {}, before, conditions(trainer), step=7)
    assert line == "changed since the checkpoint: precision of model.sampler bf16 → fp32 applies from iteration 7 on"
