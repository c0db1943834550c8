"""kd_keras.compare: the groups of runs, the statistics of a row, and sweeps that resume and survive a failed run."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import kd_keras as kd
from experiments.flags.recipes import parse_pair, parse_recipes, parse_shard
from kd_keras.evaluation.seeds import COLUMNS
from kd_keras.runs import Comparison, sweeps

TEACHER, BASELINE = 0.9, [0.70, 0.74, 0.72]
KD = [0.80, 0.83, 0.77]


def complete(directory, name, seed, accuracy, best, *lines):
    run = directory / name / f"seed{seed}"
    run.mkdir(parents=True)
    (run / "flags.txt").write_text("\n".join([f"--seed={seed}", "--epochs=4", *lines]) + "\n")
    result = {"last": {"val_accuracy": accuracy}, "best_val_accuracy": best, "seconds": 10.0 + seed}
    if "--teacher" in "".join(lines):
        result["teacher_accuracy"] = TEACHER
    (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.fixture
def runs(tmp_path):
    runs = [complete(tmp_path, "baseline", n, a, a + 0.01, "--model=resnet8") for n, a in enumerate(BASELINE)]
    for seed, accuracy in enumerate(KD):
        taught = [f"--teacher={tmp_path}/teachers/seed{seed}", "--student=resnet8", "--method=kd(temperature=4)"]
        runs.append(complete(tmp_path, "kd", seed, accuracy, accuracy, *taught))
    return runs


def test_runs_that_differ_only_in_their_seed_are_one_row(runs):
    comparison = kd.compare(runs)
    assert [len(group.results) for group in comparison.groups] == [3, 3] and comparison.unfinished == []
    baseline, row = comparison.rows
    assert (baseline["recipe"], row["recipe"], row["seeds"]) == ("baseline", "kd(temperature=4)", 3)
    assert row["last"] == pytest.approx(100 * np.mean(KD)) and row["spread"] == pytest.approx(100 * np.std(KD, ddof=1))
    assert baseline["best"] == pytest.approx(100 * np.mean(BASELINE) + 1) and row["seconds"] == pytest.approx(11)
    assert math.isnan(baseline["gain"])


def test_methods_of_the_users_with_other_arguments_are_other_rows(tmp_path):
    def own(seed, temperature):
        text = f"a Hellinger method (temperature={temperature})"
        line = f"# --method is not a flag of this run: {text}, given from Python"
        taught = [f"--teacher={tmp_path}/teachers/seed{seed}", "--student=resnet8", line]
        return complete(tmp_path, f"own{temperature}", seed, 0.8, 0.8, *taught)

    rows = kd.compare([own(seed, temperature) for temperature in (1, 8) for seed in (0, 1)]).rows
    assert [row["seeds"] for row in rows] == [2, 2]
    assert "temperature=1" in rows[0]["recipe"] and "temperature=8" in rows[1]["recipe"]


def test_a_network_that_taught_itself_is_no_baseline(runs, tmp_path):
    taught = ["--scheme=mean_teacher", "--student=resnet8"]
    itself = [complete(tmp_path, "mean", seed, a, a, *taught, "--decay=0.9") for seed, a in enumerate((0.91, 0.89))]
    peers = complete(tmp_path, "peers", 0, 0.8, 0.8, "--scheme=mutual", "--peer=resnet8", "--peer=mlp(hidden=(4,))")
    comparison = kd.compare([*itself, *runs, peers])
    assert [row["recipe"] for row in comparison.rows] == ["mean_teacher", "baseline", "kd(temperature=4)", "mutual"]
    gains = [row["gain"] for row in comparison.rows]
    assert gains[0] == pytest.approx(90 - 100 * np.mean(BASELINE))
    assert gains[2] == pytest.approx(100 * (np.mean(KD) - np.mean(BASELINE))) and math.isnan(gains[3])
    assert comparison.rows[3]["student"] == "resnet8 + mlp(hidden=(4,))"


def test_every_seed_can_have_its_own_recording(tmp_path):
    def recorded(name, seed, path):
        lines = [f"--teacher={tmp_path}/teacher", "--student=resnet8", "--method=kd", f"--recording={tmp_path}/{path}"]
        return complete(tmp_path, name, seed, 0.8, 0.8, *lines)

    own = [recorded("own", seed, f"recording/seed{seed}") for seed in (0, 1)]
    other = recorded("other", 0, "other/seed0")
    assert [row["seeds"] for row in kd.compare([*own, other]).rows] == [2, 1]


def test_the_gain_has_welchs_interval_and_the_closed_share_of_the_gap(runs):
    row = kd.compare(runs).rows[1]
    a, b = 100 * np.array(KD), 100 * np.array(BASELINE)
    assert row["gain"] == pytest.approx(a.mean() - b.mean())
    assert row["gap_closed"] == pytest.approx((a.mean() - b.mean()) / (90 - b.mean()))
    # Welch's interval by its own formula.
    parts = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert (row["low"], row["high"]) == pytest.approx((row["gain"] - half, row["gain"] + half))


def test_other_flags_make_another_row_and_are_named(runs, tmp_path):
    taught = [f"--teacher={tmp_path}/teachers/seed0", "--student=resnet8", "--method=kd(temperature=4)", "--mixup=1.0"]
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "flags.txt").write_text("--model=resnet8\n")
    comparison = kd.compare([*runs, complete(tmp_path, "mixed", 0, 0.9, 0.9, *taught), kd.Run(tmp_path / "no")])
    rows = comparison.rows
    assert [row["recipe"] for row in rows] == ["baseline", "kd(temperature=4)", "kd(temperature=4) --mixup=1.0"]
    assert math.isnan(rows[2]["spread"]) and math.isnan(rows[2]["low"]) and rows[2]["gain"] == pytest.approx(18)
    assert comparison.unfinished == [tmp_path / "no"]


def test_tables_and_figure(runs, tmp_path):
    comparison = kd.compare(f"{tmp_path}/*/seed*")
    rows, lines = comparison.rows, comparison.markdown().splitlines()
    assert lines[0] == f"resnet8, taught by {tmp_path}/teachers:"
    assert [cell.strip() for cell in lines[4].split("|")[1:5]] == ["baseline", "3", "72.00", "2.00"]
    assert {line.count("|") for line in lines[2:]} == {11}
    read = list(csv.DictReader(comparison.csv().splitlines()))
    assert float(read[1]["last"]) == rows[1]["last"] and list(read[0]) == list(COLUMNS)
    assert read[1]["first_run"] == str(runs[3])
    comparison.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_is_every_recipe_of_every_pair_and_seed():
    recipes = {"kd": {"methods": ["kd(temperature=4)"], "hard_weight": 0.1}, "at": {"methods": ["at"]}}
    runs = sweeps.plan("runs", [("t/seed{seed}", "resnet8"), ("t2", "mlp")], recipes, [0, 1], {"epochs": 3})
    assert len(runs) == len({run.path for run in runs}) == 2 * 3 * 2
    (run,) = [run for run in runs if run.path == Path("runs/t-resnet8/kd/seed1")]
    assert (run.teacher, run.student) == ("t/seed1", "resnet8")
    assert run.options == {"epochs": 3, "methods": ["kd(temperature=4)"], "hard_weight": 0.1, "seed": 1}
    (run,) = [run for run in runs if run.path == Path("runs/t-resnet8/baseline/seed0")]
    assert (run.teacher, run.options) == (None, {"epochs": 3, "seed": 0})
    recorded = {"kd": {"methods": ["kd"], "recording": "r/seed{seed}"}}
    recordings = [run.options.get("recording") for run in sweeps.plan("runs", [("t", "mlp")], recorded, [0, 1])]
    assert recordings == [None, "r/seed0", None, "r/seed1"]
    with pytest.raises(ValueError, match="names other than 'baseline'"):
        sweeps.plan("runs", [("t", "resnet8")], {"baseline": {"methods": ["kd"]}}, [0])
    with pytest.raises(ValueError, match="at least one pair"):
        sweeps.plan("runs", [], recipes, [0])
    with pytest.raises(ValueError, match=r"seeds of a sweep must differ, but received \[0, 0\]"):
        sweeps.plan("runs", [("t", "resnet8")], recipes, [0, 0])
    pairs = [(Path("a/seed{seed}/model.keras"), "mlp"), (["b/seed{seed}", "c"], "mlp")]
    teachers = [run.teacher for run in sweeps.plan("runs", pairs, {"kd": {"methods": ["kd"]}}, [4])]
    assert teachers == [None, Path("a/seed4/model.keras"), None, ["b/seed4", "c"]]
    for overwriting in ({"shared": {"overwrite": True}}, {"recipes": {"kd": {"methods": ["kd"], "overwrite": True}}}):
        with pytest.raises(ValueError, match="A sweep reuses its complete runs, but received overwrite=True"):
            sweeps.plan("runs", **{"pairs": [("t", "mlp")], "recipes": recipes, **overwriting})
    with pytest.raises(ValueError, match=r"(?s)different names.*two runs runs/t-mlp/baseline/seed0"):
        sweeps.plan("runs", [("a/t", "mlp"), ("b/t", "mlp")], recipes, [0])


@pytest.mark.parametrize("text, value", [("", True), ("=True", True), ("=1", True), ("=false", False), ("=F", False)])
def test_switches_have_the_values_that_absl_takes(text, value):
    assert parse_recipes([f"kd: --method=kd --flip{text}"])["kd"]["flip"] is value
    with pytest.raises(ValueError, match="--flip must be true or false, but received 'ja'"):
        parse_recipes(["kd: --method=kd --flip=ja"])


def test_the_texts_of_a_plan(tmp_path):
    (tmp_path / "budget.flags").write_text("# a comment\n--epochs=3\n--flip\n")
    texts = [
        "kd: --method='kd(temperature=4)' --hard_weight=0.1 --image_size=8,8",
        f"at: --flagfile={tmp_path}/budget.flags",
    ]
    assert parse_recipes(texts) == {
        "kd": {"methods": ["kd(temperature=4)"], "hard_weight": 0.1, "image_size": (8, 8)},
        "at": {"epochs": 3, "flip": True},
    }
    assert parse_pair("t/seed{seed}:resnet8") == ("t/seed{seed}", "resnet8") and parse_shard("1/3") == (1, 3)
    for wrong in (["kd --method=kd"], ["kd: --method=kd", "kd: --method=at"]):
        with pytest.raises(ValueError, match="NAME: FLAGS"):
            parse_recipes(wrong)
    with pytest.raises(ValueError, match="did you mean method"):
        parse_recipes(["kd: --methd=kd"])
    with pytest.raises(ValueError, match="TEACHER:STUDENT"):
        parse_pair("resnet8")
    for wrong in ("3/3", "one/2", "1"):
        with pytest.raises(ValueError, match="0/4"):
            parse_shard(wrong)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    splits = {"train_split": "train[:64]", "test_split": "test[:64]"}
    return {"data": "digits", "data_dir": str(directory), **splits, "epochs": 1, "batch_size": 32}


def test_a_sweep_survives_a_failed_run_and_resumes(small, tmp_path):
    teacher = kd.train(model="mlp(hidden=(16,))", run=tmp_path / "teacher", **small)
    plan = {"sweep": tmp_path / "sweep", "pairs": [(str(teacher.path), "mlp(hidden=(8,))")], "seeds": [0]}
    plan |= {"recipes": {"wrong": {"methods": ["nosuch"]}, "kd": {"methods": ["kd"]}}, **small}
    comparison = kd.compare(**plan)
    (failed,) = comparison.unfinished
    assert failed.parts[-2:] == ("wrong", "seed0")
    log = failed.with_name("seed0.log").read_text()
    assert "Traceback" in log and "There is no method 'nosuch'" in log
    results = sorted((tmp_path / "sweep").rglob("result.json"))
    assert [path.parts[-3] for path in results] == ["baseline", "kd"]
    assert "accuracy" in (results[1].parent.with_name("seed0.log")).read_text(), "the progress of a run is in its log"
    comparison.save(tmp_path / "table")
    table = (tmp_path / "table" / "compare.md").read_text()
    assert table == comparison.markdown() + "\n" and "| kd | 1 |" in table and "| baseline | 1 |" in table
    names = {path.name for path in (tmp_path / "table").iterdir()}
    assert names == {"compare.md", "compare.csv", "compare.tex", "compare.png"}
    before = [path.stat().st_mtime_ns for path in results]
    again = kd.compare(**plan, shard=(0, 3))  # the first of three runs: the baseline
    assert [path.stat().st_mtime_ns for path in results] == before and again.markdown() == comparison.markdown()
    assert failed.with_name("seed0.log").read_text() == log, "the failed run is in another shard"
    other = {**plan, "recipes": {"kd": {"methods": ["kd(temperature=2)"]}}, "shard": (0, 3)}
    with pytest.raises(ValueError, match=r"kd/seed0 has other settings: --method=kd \(before\)"):
        kd.compare(**other)  # though the run is in another shard
    with pytest.raises(ValueError, match=r"baseline/seed0 has other settings: .*--epochs=2 \(now\)"):
        kd.compare(**plan | {"epochs": 2})
    assert [path.stat().st_mtime_ns for path in results] == before


def test_a_run_without_test_images_is_refused(runs, tmp_path):
    untested = complete(tmp_path, "untested", 0, 0.5, 0.5, "--model=resnet8")
    (untested / "result.json").write_text(json.dumps({"last": {"kd": 0.5}, "best_val_accuracy": 0.0, "seconds": 1.0}))
    with pytest.raises(ValueError, match="untested/seed0 has no accuracy"):
        kd.compare([*runs, untested])


def test_a_gap_of_rounding_is_not_closed(tmp_path):
    teacher = [f"--teacher={tmp_path}/t", "--student=resnet8", "--method=kd"]
    runs = [complete(tmp_path, "baseline", 0, TEACHER - 1e-8, 0.9, "--model=resnet8")]
    rows = kd.compare([*runs, complete(tmp_path, "kd", 0, 0.8, 0.8, *teacher)]).rows
    assert rows[1]["gain"] == pytest.approx(-10) and math.isnan(rows[1]["gap_closed"])


def test_invalid_requests(runs, tmp_path):
    with pytest.raises(ValueError, match="received both"):
        kd.compare(runs, sweep=tmp_path)
    with pytest.raises(ValueError, match="received neither"):
        kd.compare()
    with pytest.raises(ValueError, match="No run matches"):
        kd.compare([tmp_path / "nothing*"])
    with pytest.raises(ValueError, match="needs recipes"):
        kd.compare(sweep=tmp_path, pairs=[("t", "mlp")])
    with pytest.raises(ValueError, match="0 <= i < n"):
        kd.compare(sweep=tmp_path, pairs=[("t", "mlp")], recipes={"kd": {"methods": ["kd"]}}, shard=(3, 3))


def test_two_runs_of_one_seed_are_one_seed(runs, tmp_path, caplog):
    again = complete(tmp_path / "again", "baseline", 1, 0.80, 0.81, "--model=resnet8")
    with caplog.at_level("WARNING", logger="kd_keras"):
        row = kd.compare([*runs[:3], again]).rows[0]
    values = [70, (74 + 80) / 2, 72]
    assert row["seeds"] == 3 and row["last"] == pytest.approx(np.mean(values))
    assert row["spread"] == pytest.approx(np.std(values, ddof=1))
    assert f"{runs[1]}, {again} have the same seed 1 and count as one seed" in caplog.text
    assert kd.compare([runs[0], runs[0].parent / ".." / "baseline" / "seed0"]).rows[0]["seeds"] == 1


def test_latex_and_names_of_recipes(runs, tmp_path):
    comparison = kd.compare(runs)
    named = [group._replace(name="" if group.is_baseline else "soft_50%") for group in comparison.groups]
    latex = Comparison(named, []).latex()
    assert r"soft\_50\% & 3 & 80.00 &" in latex and latex.count(r"\\") == 3 and r"\begin{tabular}" in latex
    assert len({line.count(" & ") for line in latex.splitlines() if line.endswith(r"\\")}) == 1
    comparison.save(tmp_path)
    assert (tmp_path / "compare.tex").read_text().startswith("% resnet8, taught by")


def test_a_baseline_on_other_images_is_no_baseline(tmp_path):
    shared = ["--optimizer=adam", "--learning_rate=0.01", "--model=resnet8"]
    digits = complete(tmp_path, "digits", 0, 0.97, 0.97, "--data=digits", *shared)
    cifar = complete(tmp_path, "cifar", 0, 0.40, 0.40, "--data=cifar10", "--model=resnet8")
    taught = [f"--teacher={tmp_path}/teachers/0", "--student=resnet8", "--method=kd", "--data=cifar10", *shared[:2]]
    student = complete(tmp_path, "kd", 0, 0.57, 0.57, *taught)
    gains = {row["recipe"]: row["gain"] for row in kd.compare([digits, cifar, student]).rows}
    assert gains["kd --data=cifar10"] == pytest.approx(17)
    gains = {row["recipe"]: row["gain"] for row in kd.compare([digits, student]).rows}
    assert list(gains) == ["baseline --data=digits", "kd --data=cifar10"] and math.isnan(gains["kd --data=cifar10"])


def test_a_result_without_settings_does_not_end_a_sweep(tmp_path):
    (planned,) = sweeps.plan(tmp_path, [("t", "mlp")], {"kd": {"methods": ["kd"]}}, [0])[:1]
    planned.path.mkdir(parents=True)
    (planned.path / "result.json").write_text("{}")
    assert "is not a run, because it has no flags.txt" in sweeps.finish(planned)
