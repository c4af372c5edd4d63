"""The summary of a run: at most 20 lines of 80 columns, whose figures are those of the results."""

import json

import pytest
import yaml

from ebmzoo.report.comparison.records import read_records
from ebmzoo.report.comparison.summary import summaries, summary
from ebmzoo.tasks.base import Result

GENERATION = {
    "nfe": 97.0,
    "fd_pixels": 1.25,
    "fd_judge": 7.5,
    "precision_judge": 0.5,
    "recall_judge": 0.75,
    "no_mcmc/fd_judge": 22.5,
    "real/fd_judge": 0.5,
}
OOD = {
    "near/auroc_energy": 0.96,
    "far/auroc_energy": 0.87,
    "near/auroc_gradient": 0.95,
    "far/auroc_gradient": 0.99,
    "near/auroc_score": 0.96,
    "far/auroc_score": 0.5,
    "near/auroc_score_std": 0.9,
}
RESTORATION = {
    "sr4/start/psnr": 10.0,
    "sr4/levels/psnr": 11.0,
    "sr4/projected/psnr": 12.0,
    "sr4/levels/ssim": 99.0,
    "denoise/start/psnr": 20.0,
    "denoise/levels/psnr": 19.0,
}
STABILITY = {"times_1/fd_judge": 7.5, "times_10/fd_judge": 9.0, "times_10/fd_pixels": 1.0, "real/energy": 0.0}
LIKELIHOOD = {
    "temperature_1/bits_per_dimension_lower": 2.0,
    "temperature_1/bits_per_dimension_upper": 2.5,
    "gaussian/bits_per_dimension_lower": 6.66,
    "gaussian/bits_per_dimension_upper": 6.66,
}
EVERY = {
    "generation": GENERATION,
    "ood": OOD,
    "likelihood": LIKELIHOOD,
    "classification": {"clean/accuracy": 0.9},
    "conditional": {"all/accuracy": 0.8, "real/accuracy": 0.99},
    "representation": {"energy/knn": 0.9, "encoder/knn": 0.95},
    "restoration": RESTORATION,
    "stability": STABILITY,
}


def run(folder, results, notes=()):
    for task, figures in results.items():
        Result(task, figures, {"weights": "ema"}, notes=list(notes)).write(folder / "test")
    config = {"model": {"class_path": "ebmzoo.methods.CDRL"}, "data": {"class_path": "ebmzoo.data.Digits"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    training = {"iterations": 1000, "seconds": 90.0, "parameters": {"energy_net": 1000, "initializer": 34}}
    (folder / "training.json").write_text(json.dumps(training))
    return read_records([folder])[0]


def test_a_gaussian_is_no_likelihood_of_the_model(tmp_path):
    figures = {key: value for key, value in LIKELIHOOD.items() if key.startswith("gaussian")}
    assert "bits" not in summary(run(tmp_path, {"likelihood": figures}))
    bound = {"generator/bits_per_dimension_upper": 7.2}
    assert "≤ 7.2  of the generator; Gaussian 6.66" in summary(run(tmp_path, {"likelihood": figures | bound}))


def test_every_part_has_its_line(tmp_path):
    *lines, last = summary(run(tmp_path, EVERY)).splitlines()
    assert [" ".join(line.split()) for line in lines if "─" not in line] == [
        "CDRL on Digits, 1,034 parameters, 1,000 iterations, EMA weights",
        "cost: training 1.5 min, a sample 97 network evaluations",
        "distance by judge ↓ 7.5 0.5 real, 22.5 no chain",
        "precision / recall ↑ 0.50 / 0.75",
        "AUROC near / far by energy ↑ 0.960 / 0.870",
        "AUROC near / far by best score ↑ 0.950 / 0.990 gradient, of 3",
        "bits per dimension ↓ 2 to 2.5 at temperature 1; Gaussian 6.66",
        "classification accuracy ↑ 0.900",
        "samples of the class asked for ↑ 0.800 0.990 for real images",
        "k-NN accuracy ↑ 0.950 on features of the encoder",
        "PSNR gained by restoration ↑ +0.5 dB mean of 2 degradations",
        "distance after 10 × the chain ↓ 9 7.5 after 1 ×",
    ]
    assert last.startswith("details: ")


def test_it_fits_a_terminal_whatever_the_names(tmp_path):
    long = {name.replace("judge", "judge" * 30): value for name, value in GENERATION.items()}
    card = summary(run(tmp_path, EVERY | {"generation": long, "density": {"total_variation": 0.1}}, notes=["nothing"]))
    assert len(card.splitlines()) <= 20
    assert max(map(len, card.splitlines())) <= 80
    assert "! 9 notes on what could not be measured" in card


@pytest.mark.parametrize("results", [{}, {"cost": {"seconds": 1.0}}, {"generation": {"fd_judge": float("nan")}}])
def test_what_was_not_measured_is_left_out(tmp_path, results):
    card = summary(run(tmp_path, {"cost": {}} | results))
    assert "↓" not in card
    assert "CDRL on Digits" in card


def test_the_energy_alone_is_the_best_score_once(tmp_path):
    card = summary(run(tmp_path, {"ood": {"near/auroc_energy": 0.9, "far/auroc_energy": 0.9, "far/auroc_score": 1.0}}))
    assert card.count("AUROC") == 1


def test_runs_are_beside_each_other(tmp_path):
    records = [run(tmp_path / "a", {"generation": GENERATION}), run(tmp_path / "b", {"ood": OOD})]
    rows = [line.split() for line in summaries(records).splitlines()]
    assert rows[0] == ["a", "b"]
    assert ["distance", "by", "judge", "↓", "7.5", "–"] in rows
    assert summaries([run(tmp_path / "c", {"cost": {}})]) == ""
