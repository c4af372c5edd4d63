"""`ebmzoo compare`: comparable figures share a column, others do not; and the tables."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.report.comparison.compare import Column, Words, columns_of, compare
from ebmzoo.report.comparison.figures import known, number
from ebmzoo.report.comparison.formats import comma_separated, escaped, latex, markdown, terminal
from ebmzoo.report.comparison.records import MARKS, is_untrained, read_records
from ebmzoo.tasks.base import Result
from support.command_line import fails

PROTOCOL = {
    "n": 1000,
    "split": "train",
    "real_images": 1500,
    "extractors": {"pixels": {"sha256": None, "features": 64}, "judge": {"sha256": "aa", "features": 128}},
    "chains": {"full": {"start": "noise", "steps": 60, "temperature": 1e-6}},
    "weights": "ema",
    "seed": 0,
    "checkpoint_sha256": "123",
    "device": "x86_64 cpu",
    "threads": 1,
    "precision": "32-true",
    "settings": {"n": 1000, "batch_size": 250},
}
FIGURES = {"seconds": 2.0, "nfe": 60.0, "fd_pixels": 4.0, "fd_judge": 9.0, "precision_pixels": 0.5}
OUTSIDE = {
    "in": "digits",
    "in_images": 297,
    "out_images": {"uniform": 297, "interpolation": 198},
    "kinds": {"uniform": "far", "interpolation": "near"},
    "scores": {"score": "|f(x)|"},
    "weights": "ema",
    "seed": 0,
}
TRAINING = {"iterations": 10, "seconds_per_iteration_median": 0.5, "parameters": {"energy_net": 30, "generator": 12}}


def made(folder, figures=None, protocol=None, spread=None, notes=(), data=None, **training):
    """A run folder with a result of `generation`, as the task writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": {"class_path": "ebmzoo.methods.LIEBM"}}
    config["data"] = {"class_path": "ebmzoo.data.Digits", "init_args": {"batch_size": 100, **(data or {})}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = Result("generation", FIGURES | (figures or {}), PROTOCOL | (protocol or {}), notes=list(notes))
    result.spread = spread or {}
    result.write(folder / "test")
    (folder / "training.json").write_text(json.dumps(TRAINING | {"device": "x86_64", "threads": 1} | training))
    return folder


def with_ood(folder, figures, protocol=None):
    """The same folder with a result of `ood`."""
    Result("ood", figures, OUTSIDE | (protocol or {})).write(folder / "test")
    return folder


def by_qualifier(records, key):
    return {column.qualifier: set(column.cells) for column in columns_of(records, key)}


def test_real_images_have_a_column_and_neither_a_best_run_nor_a_chain(tmp_path):
    runs = read_records([made(tmp_path / "a", {"real/fd_pixels": 0.5}), made(tmp_path / "b", {"real/fd_pixels": 0.4})])
    found = compare(runs, ["generation/fd_pixels", "generation/real/fd_pixels"])
    assert [column.heading for column in found.columns] == ["FD pixels ↓", "NFE", "chain", "FD pixels of real images"]
    assert found.columns[-1].best == set()


def test_one_protocol_is_one_column(tmp_path):
    runs = read_records(
        [made(tmp_path / "a"), made(tmp_path / "b", {"fd_pixels": 3.0}, {"seed": 7, "checkpoint": "x"})]
    )
    (column,) = columns_of(runs, "generation/fd_pixels")
    assert {name: cell.value for name, cell in column.cells.items()} == {"a": 4.0, "b": 3.0}
    assert (column.qualifier, column.best) == ("", {"b"})
    assert compare(runs).refusals == []


@pytest.mark.parametrize(
    ("change", "qualifier"),
    [
        ({"n": 250}, "n = 250"),
        ({"split": "test"}, "split = test"),
        ({"real_images": 100}, "real images = 100"),
        ({"weights": "raw"}, "weights = raw"),
        ({"image_range": [0, 1]}, "range = [0, 1]"),
        ({"extractors": PROTOCOL["extractors"] | {"pixels": {"sha256": "bb", "features": 64}}}, "pixels sha256 = bb"),
    ],
)
def test_different_protocols_need_different_columns(tmp_path, change, qualifier):
    runs = read_records([made(tmp_path / "a"), made(tmp_path / "b"), made(tmp_path / "c", protocol=change)])
    columns = columns_of(runs, "generation/fd_pixels")
    assert [set(column.cells) for column in columns] == [{"a", "b"}, {"c"}]
    assert columns[1].qualifier == qualifier
    assert columns[1].heading == f"FD pixels ↓ ({qualifier})"
    comparison = compare(runs, ["generation/fd_pixels"])
    (refusal,) = comparison.refusals
    assert refusal.startswith("generation/fd_pixels: 2 columns, not one, because protocols differ: ")
    assert f"{qualifier} for c" in refusal
    for text in (terminal(comparison), markdown(comparison).replace("\\", ""), latex(comparison)):
        assert refusal in text
    with pytest.raises(UserError, match="generation/fd_pixels needs 2 columns"):
        compare(runs, ["generation/fd_pixels"], strict=True)


def test_another_extractor_of_the_same_task_does_not_matter(tmp_path):
    judges = {"judge": {"sha256": "other", "features": 128}}
    runs = read_records(
        [made(tmp_path / "a"), made(tmp_path / "b", protocol={"extractors": PROTOCOL["extractors"] | judges})]
    )
    assert len(columns_of(runs, "generation/fd_pixels")) == 1
    assert by_qualifier(runs, "generation/fd_judge") == {"judge sha256 = aa": {"a"}, "judge sha256 = other": {"b"}}


def test_inception_figures_depend_on_their_extractor(tmp_path):
    one, other = ({"extractors": {"inception": {"sha256": sha, "features": 2048}}} for sha in ("aa", "bb"))
    runs = read_records([made(tmp_path / "a", {"fid": 5.0}, one), made(tmp_path / "b", {"fid": 6.0}, other)])
    assert by_qualifier(runs, "generation/fid") == {"inception sha256 = aa": {"a"}, "inception sha256 = bb": {"b"}}


def test_other_data_is_another_column(tmp_path):
    same = {"batch_size": 50, "flip": True, "seed": 3}
    runs = read_records(
        [made(tmp_path / "a"), made(tmp_path / "b", data=same), made(tmp_path / "c", data={"max_train": 9})]
    )
    columns = by_qualifier(runs, "generation/fd_pixels")
    assert list(map(sorted, columns.values())) == [["a", "b"], ["c"]]
    assert "max train = 9" in list(columns)[1]


def test_settings_of_the_method_itself_do_not_split_columns(tmp_path):
    chain = {"chains": {"full": {"start": "generator", "steps": 15, "temperature": 5e-5}}}
    runs = read_records([made(tmp_path / "a"), made(tmp_path / "b", {"nfe": 16.0}, chain)])
    comparison = compare(runs, ["generation/fd_pixels"])
    assert comparison.refusals == []
    assert [column.key for column in comparison.columns] == [
        "generation/fd_pixels",
        "generation/nfe",
        "generation/chain",
    ]
    words = comparison.columns[2]
    assert isinstance(words, Words)
    assert words.cells == {
        "a": "60 steps from noise, temperature 1e-06",
        "b": "15 steps from generator, temperature 5e-05",
    }
    assert comparison.columns[1].best == set()


def test_seconds_of_two_machines_are_two_columns(tmp_path):
    runs = read_records([made(tmp_path / "a"), made(tmp_path / "b", protocol={"threads": 2}, threads=2)])
    assert by_qualifier(runs, "generation/seconds") == {"threads = 1": {"a"}, "threads = 2": {"b"}}
    assert by_qualifier(runs, "training/seconds_per_iteration") == {"threads = 1": {"a"}, "threads = 2": {"b"}}
    assert len(columns_of(runs, "training/parameters")) == len(columns_of(runs, "generation/fd_pixels")) == 1


def test_seconds_are_not_split_by_extractors(tmp_path):
    runs = read_records([made(tmp_path / "a"), made(tmp_path / "b", protocol={"extractors": {}})])
    assert len(columns_of(runs, "generation/seconds")) == 1


def test_detection_counts_only_the_sets_of_the_figure(tmp_path):
    figures = {"uniform/auroc_score": 0.9, "interpolation/auroc_score": 0.6, "near/auroc_score": 0.6}
    figures |= {"far/auroc_score": 0.9}
    a = with_ood(made(tmp_path / "a"), figures)
    other = {"out_images": {"uniform": 50, "interpolation": 198}, "scores": {"score": "another"}, "resamples": 10}
    b = with_ood(made(tmp_path / "b", data={"max_train": 9}), figures, other)
    runs = read_records([a, b])
    for of_near in ("interpolation", "near"):
        assert len(columns_of(runs, f"ood/{of_near}/auroc_score")) == 1
    for of_far in ("uniform", "far"):
        assert set(by_qualifier(runs, f"ood/{of_far}/auroc_score")) == {
            "images of uniform = 297",
            "images of uniform = 50",
        }


def test_what_the_task_writes_is_what_is_read(tmp_path):
    """The protocol above is written by hand; the task itself writes this one."""
    from ebmzoo.data import Inverted, UniformNoise
    from ebmzoo.tasks import OutOfDistributionDetection
    from support.tiny import TinyData, without_latent

    data = TinyData(ood=[UniformNoise(), Inverted()])
    runs = []
    for name, scores in (("a", ["energy"]), ("b", ["energy", "gradient"])):
        made(tmp_path / name)
        task = OutOfDistributionDetection(n=16, scores=scores, resamples=20, near=["inverted"])
        task(without_latent(), data).write(tmp_path / name / "test")
        runs.append(tmp_path / name)
    records = read_records(runs)
    for figure in ("near/auroc_energy", "far/auroc_energy", "uniform/fpr95_energy"):
        (column,) = columns_of(records, f"ood/{figure}")
        assert set(column.cells) == {"a", "b"}, figure


def test_means_over_other_sets_are_other_columns(tmp_path):
    figures = {"far/auroc_score": 0.9}
    more = {"out_images": {"uniform": 297, "inverted": 297}, "kinds": {"uniform": "far", "inverted": "far"}}
    runs = read_records([with_ood(made(tmp_path / "a"), figures), with_ood(made(tmp_path / "b"), figures, more)])
    assert len(columns_of(runs, "ood/far/auroc_score")) == 2


def test_spread_over_seeds_stands_beside_the_mean(tmp_path):
    runs = read_records([made(tmp_path / "a", spread={"fd_pixels": 0.25}), made(tmp_path / "b", {"fd_pixels": 3.0})])
    comparison = compare(runs, ["generation/fd_pixels"])
    assert "4 ± 0.25" in terminal(comparison)
    assert "standard deviation over seeds" in markdown(comparison)
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparison))))
    assert [row["generation/fd_pixels std"] for row in rows] == ["0.25", ""]


def test_best_is_lowest_or_highest_and_none_where_all_are_equal(tmp_path):
    runs = read_records(
        [made(tmp_path / "a", {"is_judge": 3.0}), made(tmp_path / "b", {"is_judge": 4.0, "fd_judge": 1.0})]
    )
    best = {c.key: c.best for c in compare(runs, ["*"]).columns if isinstance(c, Column)}
    assert (best["generation/is_judge"], best["generation/fd_judge"]) == ({"b"}, {"b"})
    assert best["generation/fd_pixels"] == best["generation/nfe"] == best["training/parameters"] == set()


def test_a_value_that_is_not_finite_is_never_best(tmp_path):
    nan = float("nan")
    runs = read_records(
        [made(tmp_path / "a", {"fd_pixels": nan}), made(tmp_path / "b"), made(tmp_path / "c", {"fd_pixels": 5})]
    )
    (column,) = columns_of(runs, "generation/fd_pixels")
    assert (column.best, column.text("a")) == ({"b"}, "nan")


def test_a_failed_run_is_a_row_that_says_so(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "failed.json").write_text(json.dumps({"stage": "fit", "error": "the chain diverged"}))
    comparison = compare(read_records([made(tmp_path / "good"), tmp_path / "bad"]))
    assert "bad (failed)" in terminal(comparison)
    assert "! bad: failed: the chain diverged" in terminal(comparison)
    assert "| bad | failed: the chain diverged | – |" in markdown(comparison)
    assert "bad & failed: the chain diverged & -- &" in latex(comparison)
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparison))))
    assert [row["failed"] for row in rows] == ["", "the chain diverged"]


def test_runs_that_were_not_tested_make_a_table_that_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("{}")
    (tmp_path / "a" / "last.ckpt").touch()
    comparison = compare(read_records([tmp_path / "a"]))
    assert comparison.columns == []
    assert "a: no results of `ebmzoo test`" in terminal(comparison)


UNTRAINED = {
    "config alone": {"config.yaml": "{}"},
    "no iteration": {"config.yaml": "{}", "training.json": '{"iterations": 0, "finished": false}'},
    "logs": {"config.yaml": "{}", "csv/version_0/hparams.yaml": "{}", "wandb/offline-run/x.wandb": ""},
    "an empty test": {"config.yaml": "{}", "test/scores.txt": ""},
}
"""What a fit leaves that fails before its first iteration."""


def untrained(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("files", UNTRAINED.values(), ids=UNTRAINED)
def test_a_fit_that_failed_before_its_first_iteration_leaves_no_run(tmp_path, capsys, files):
    good, bad = made(tmp_path / "good"), untrained(tmp_path / "bad", files)
    assert (is_untrained(bad), is_untrained(good)) == (True, False)
    with pytest.raises(UserError, match="bad holds no run: its fit ended before the first iteration"):
        read_records([bad])
    main(["compare", str(good), str(bad), "--out", str(tmp_path / "out")])
    assert capsys.readouterr().err == f"{bad} holds no run, but a fit that ended before its first iteration: skipped\n"
    with (tmp_path / "out" / "compare.csv").open() as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["good"]


def test_what_a_real_fit_leaves_that_fails_before_its_first_iteration_is_no_run(tmp_path, capsys):
    settings = ["--data.batch_size", "100000", "--trainer.enable_progress_bar", "false"]
    error = fails(capsys, "fit", "--config", "vae_digits", "--run_dir", tmp_path / "run", *settings)
    assert "batch_size" in error
    assert not (tmp_path / "run").exists() or is_untrained(tmp_path / "run")


@pytest.mark.parametrize(
    "more",
    [
        {"last.ckpt": ""},
        {"failed.json": '{"stage": "fit", "error": "x"}'},
        {"training.json": '{"iterations": 1}'},
        {"training.json": '{"parameters": {"net": 3}}'},
        {"test/generation.json": "{}"},
    ],
)
def test_whatever_came_of_a_fit_makes_its_folder_a_run(tmp_path, more):
    folder = untrained(tmp_path / "a", {"config.yaml": "{}"} | more)
    assert not is_untrained(folder)
    assert [record.name for record in read_records([folder])] == ["a"]


def test_latex_has_the_rules_of_booktabs_and_conditions_below_the_headings(tmp_path):
    runs = read_records([made(tmp_path / "a_1"), made(tmp_path / "b", {"fd_pixels": 3.0}, {"n": 250})])
    lines = latex(compare(runs, ["training/parameters", "generation/fd_pixels"])).splitlines()
    assert lines[:2] == [r"% needs \usepackage{booktabs}", r"\begin{tabular}{llrrrrl}"]
    assert lines[2:9] == [
        r"\toprule",
        r"run & method & parameters & FD pixels $\downarrow$ & FD pixels $\downarrow$ & NFE & chain \\",
        r" &  &  & {\small n = 1000} & {\small n = 250} &  &  \\",
        r"\midrule",
        r"a\_1 & LIEBM & 42 & 4 & -- & 60 & 60 steps from noise, temperature 1e-06 \\",
        r"b & LIEBM & 42 & -- & 3 & 60 & 60 steps from noise, temperature 1e-06 \\",
        r"\bottomrule",
    ]
    assert not any(r"\hline" in line for line in lines)
    plain = latex(compare(runs[:1], ["training/parameters"])).splitlines()
    assert plain[2:5] == [r"\toprule", r"run & method & parameters \\", r"\midrule"], "no conditions, no second line"


def test_every_table_has_the_chosen_columns_alone(tmp_path):
    run = with_ood(made(tmp_path / "a"), {"uniform/auroc_score": 0.9})
    flags = ["--columns", "ood/*/auroc_score", "training/parameters", "--out", str(tmp_path / "out")]
    main(["compare", str(run), *flags])
    tables = {kind: (tmp_path / "out" / f"compare.{kind}").read_text() for kind in ("tex", "md", "csv")}
    assert r"run & method & AUROC uniform $\uparrow$ & parameters \\" in tables["tex"]
    assert "| run | method | AUROC uniform ↑ | parameters |" in tables["md"]
    assert tables["csv"].splitlines()[0] == "run,method,data,failed,ood/uniform/auroc_score,training/parameters"


def test_runs_with_one_name_are_distinguished(tmp_path):
    runs = read_records([made(tmp_path / "x" / "run"), made(tmp_path / "y" / "run"), tmp_path / "x" / "run"])
    assert [run.name for run in runs] == ["x/run", "y/run"]


def test_notes_of_several_runs_appear_once(tmp_path):
    note = "no Inception weights"
    runs = read_records([made(tmp_path / "a", notes=[note]), made(tmp_path / "b", notes=[note])])
    assert f"a, b: generation: {note}" in compare(runs).notes


def test_csv_has_all_digits(tmp_path):
    runs = read_records([made(tmp_path / "a", {"fd_pixels": 1 / 3})])
    (row,) = csv.DictReader(io.StringIO(comma_separated(compare(runs, ["generation/fd_pixels", "training/*"]))))
    assert float(row["generation/fd_pixels"]) == 1 / 3
    assert row["training/parameters"] == "42"
    assert (row["method"], row["data"]) == ("LIEBM", "Digits")


def test_names_cannot_break_the_tables(tmp_path):
    runs = read_records([made(tmp_path / "a|b_c&d%"), made(tmp_path / "e")])
    comparison = compare(runs, ["generation/fd_pixels"])
    rows = [line for line in markdown(comparison).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    body = [line for line in latex(comparison).splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert escaped("a_b{\\}~^") == r"a\_b\{\textbackslash{}\}\textasciitilde{}\textasciicircum{}"


def test_a_terminals_width_is_kept(tmp_path):
    runs = read_records([made(tmp_path / "a"), made(tmp_path / "b", protocol={"n": 250})])
    comparison = compare(runs, ["*"])
    lines = [line for line in terminal(comparison, 60).splitlines() if not line.startswith("!")]
    assert max(map(len, lines)) <= 60
    for column in comparison.columns:
        assert column.heading.split()[0] in "\n".join(lines)


@pytest.mark.parametrize(
    ("key", "label", "better"),
    [
        ("generation/fid", "FID", "lower"),
        ("generation/fd_classifier_digits", "FD classifier digits", "lower"),
        ("generation/no_mcmc/is_judge", "IS judge w/o MCMC", "higher"),
        ("generation/real/fd_judge", "FD judge of real images", None),
        ("ood/svhn/auroc_score", "AUROC svhn", "higher"),
        ("ood/svhn/fpr95_energy", "FPR95 energy svhn", "lower"),
        ("reconstruction/inference/mse", "reconstruction MSE inference", "lower"),
        ("representation/encoder/knn", "k-NN encoder", "higher"),
        ("generation/nfe", "NFE", None),
        ("something/else", "something else", None),
    ],
)
def test_labels_and_directions_of_figures(key, label, better):
    assert known(key) == (label, better)


def test_numbers_as_tables_show_them():
    shown = [number(v) for v in (None, float("nan"), 3.0, 0.123456, 12_345_678.0)]
    assert shown == ["–", "nan", "3", "0.1235", "12.3M"]
    assert number(3.0, 0.5) == "3 ± 0.5"


def test_the_command_writes_all_and_prints_the_table(tmp_path, capsys):
    runs = [str(made(tmp_path / name)) for name in "ab"]
    main(["compare", *runs, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "FD" in printed
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        f"compare.{kind}" for kind in ("md", "csv", "tex", "html")
    }
    flags = ["--format", "csv", "--columns", "generation/fd_*"]
    main(["compare", *runs, str(tmp_path / "out"), "--out", str(tmp_path / "out"), *flags])
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "out" / "compare.csv").read_text()
    assert "skipped" in printed.err


def test_a_comparison_replaces_that_of_the_same_runs_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b -->", "other/a"):
        made(Path(name))
    main(["compare", "a", "b -->", "--out", "out"])
    main(["compare", "./b -->", str(tmp_path / "a"), "a", "--out", "out", "--all"])
    before = Path("out/compare.csv").read_text()
    for runs in (["a"], ["other/a", "b -->"]):
        with pytest.raises(SystemExit):
            main(["compare", *runs, "--out", "out"])
        assert "out/compare.md and 3 more would be overwritten" in capsys.readouterr().err
        assert Path("out/compare.csv").read_text() == before
    main(["compare", "a", "--out", "out", "--overwrite"])
    assert Path("out/compare.csv").read_text() != before
    Path("paper").mkdir()
    Path("paper/compare.tex").write_text("mine")
    with pytest.raises(SystemExit):
        main(["compare", "a", "--out", "paper"])
    assert [path.name for path in Path("paper").iterdir()] == ["compare.tex"]
    assert "paper/compare.tex would be overwritten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["empty"], "empty is not a run's folder"),
        (["began"], "began holds no run, but a fit that ended before its first iteration; name the folders of runs"),
        (["a/config.yaml"], "a/config.yaml is a file; give the run's folder, such as a"),
        (["a", "--columns", "generation/fd_pixel"], "did you mean 'generation/fd_pixels'"),
        (["a", "b", "--strict"], "generation/fd_pixels needs 2 columns, not one, because protocols differ"),
        (["a", "--format", "pdf"], "invalid choice: 'pdf'"),
        ([], "the following arguments are required: RUN"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    made(Path("a"))
    made(Path("b"), protocol={"n": 250})
    Path("empty").mkdir()
    untrained(Path("began"), UNTRAINED["config alone"])
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *args])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ebmzoo: ")
    assert message in line
    assert not Path("compare").exists()


def test_odd_folders_and_files_are_named_and_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    made(Path("good"))
    odd = made(Path("odd"), {"fd_pixels": 5.0})
    (odd / "training.json").write_text("{")
    (odd / "config.yaml").write_text("- a list\n")
    (odd / "test" / "ood.json").write_text(json.dumps({"task": "ood", "figures": {"far": "good"}, "protocol": {}}))
    (odd / "test" / "real.png").mkdir()
    (odd / "test" / "samples.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(8) + (2000).to_bytes(4, "big") * 2)
    (odd / "csv" / "version_0").mkdir(parents=True)
    (odd / "csv" / "version_0" / "metrics.csv").write_text("step,train/energy_gap\nfirst,1\n")
    Path("loop").symlink_to("loop")
    Path("empty").mkdir()
    Path("file").write_text("")
    main(["compare", "good", "odd", "loop", "empty", "file", "nowhere"])
    out, err = capsys.readouterr()
    for line in (
        "there is no run folder loop: skipped",
        f"empty is not a run's folder: it has none of {', '.join(MARKS)}: skipped",
        "file is a file; give the run's folder, such as .: skipped",
        "there is no run folder nowhere: skipped",
        "odd/csv/version_0/metrics.csv holds no curves (ValueError: invalid literal for int() with base 10: 'first')",
    ):
        assert line in err.splitlines()
    assert "odd/test/samples.png is no picture (" in err
    assert "! odd: odd/training.json is not JSON (" in out
    assert "! odd: odd/config.yaml holds no config, which is a mapping of keys" in out
    assert (
        "! odd: odd/test/ood.json is no result of a task: its figure far is 'good', and must be a number or null" in out
    )
    assert "no training.json" not in out
    rows = {line.split()[0]: line.split()[1:3] for line in out.splitlines() if line.startswith(("good ", "odd "))}
    assert rows == {"good": ["4", "–"], "odd": ["–", "5"]}, "two columns: nobody knows on which data the odd one was"


def test_characters_that_a_terminal_does_not_have_are_replaced(tmp_path):
    run = made(tmp_path / "a", spread={"fd_pixels": 0.25})
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    made_of = [sys.executable, "-m", "ebmzoo", "compare", str(run), "--out", str(tmp_path / "out")]
    done = subprocess.run(made_of, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"4 ? 0.25" in done.stdout
    assert "4 ± 0.25" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_it_needs_no_torch(tmp_path):
    run = made(tmp_path / "a")
    code = (
        "import sys; from ebmzoo.commands.cli import main;"
        f"main(['compare', {str(run)!r}, '--out', {str(tmp_path / 'out')!r}]);"
        "heavy = {'torch', 'lightning', 'numpy', 'wandb'} & {name.partition('.')[0] for name in sys.modules};"
        "print('loaded:', sorted(heavy))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "loaded: []"
