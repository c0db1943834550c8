"""Comparing runs: what is one row, the statistics of a row, and a sweep that goes on and outlives a run that fails."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import compare, comparison, sweeps
from tests.support.programs import program

TEACHER, ALONE = 0.9, [0.70, 0.74, 0.72]
KD = [0.80, 0.83, 0.77]


def finished(place, name, seed, accuracy, best, *lines):
    run = place / name / f"seed{seed}"
    run.mkdir(parents=True)
    (run / "flags.txt").write_text("\n".join([f"--seed={seed}", "--epochs=4", *lines]) + "\n")
    result = {"last": {"val_accuracy": accuracy}, "best_val_accuracy": best, "seconds": 10.0 + seed}
    if "--teacher" in "".join(lines):
        result["teacher_accuracy"] = TEACHER
    (run / "result.json").write_text(json.dumps(result))
    return run


@pytest.fixture
def runs(tmp_path):
    found = [finished(tmp_path, "alone", n, a, a + 0.01, "--model=resnet8") for n, a in enumerate(ALONE)]
    for seed, accuracy in enumerate(KD):
        taught = [f"--teacher={tmp_path}/teachers/seed{seed}", "--student=resnet8", "--method=kd(temperature=4)"]
        found.append(finished(tmp_path, "kd", seed, accuracy, accuracy, *taught))
    return found


def test_runs_that_differ_in_their_seed_alone_are_one_row(runs):
    groups, unfinished = comparison.grouped(runs)
    assert [len(group.results) for group in groups] == [3, 3] and unfinished == []
    alone, kd = comparison.rows(groups)
    assert (alone["recipe"], kd["recipe"], kd["seeds"]) == ("alone", "kd(temperature=4)", 3)
    assert kd["last"] == pytest.approx(100 * np.mean(KD)) and kd["spread"] == pytest.approx(100 * np.std(KD, ddof=1))
    assert alone["best"] == pytest.approx(100 * np.mean(ALONE) + 1) and kd["seconds"] == pytest.approx(11)
    assert math.isnan(alone["beyond"])


def test_the_gain_has_welchs_interval_and_the_share_of_the_gap(runs):
    kd = comparison.rows(comparison.grouped(runs)[0])[1]
    a, b = 100 * np.array(KD), 100 * np.array(ALONE)
    assert kd["beyond"] == pytest.approx(a.mean() - b.mean())
    assert kd["closed"] == pytest.approx((a.mean() - b.mean()) / (90 - b.mean()))
    # Welch's interval by its own formula.
    parts = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    assert (kd["low"], kd["high"]) == pytest.approx((kd["beyond"] - half, kd["beyond"] + half))


def test_other_flags_make_another_row_and_are_named(runs, tmp_path):
    taught = [f"--teacher={tmp_path}/teachers/seed0", "--student=resnet8", "--method=kd(temperature=4)", "--mixup=1.0"]
    groups, unfinished = comparison.grouped([*runs, finished(tmp_path, "mixed", 0, 0.9, 0.9, *taught), tmp_path / "no"])
    rows = comparison.rows(groups)
    assert [row["recipe"] for row in rows] == ["alone", "kd(temperature=4)", "kd(temperature=4) --mixup=1.0"]
    assert math.isnan(rows[2]["spread"]) and math.isnan(rows[2]["low"]) and rows[2]["beyond"] == pytest.approx(18)
    assert unfinished == [tmp_path / "no"]


def test_tables_and_picture(runs, tmp_path):
    groups, _ = comparison.grouped(runs)
    rows = comparison.rows(groups)
    lines = comparison.markdown(rows).splitlines()
    assert lines[0] == f"resnet8, taught by {tmp_path}/teachers:"
    assert [cell.strip() for cell in lines[4].split("|")[1:5]] == ["alone", "3", "72.00", "2.00"]
    assert {line.count("|") for line in lines[2:]} == {11}
    read = list(csv.DictReader(comparison.as_csv(rows).splitlines()))
    assert float(read[1]["last"]) == rows[1]["last"] and list(read[0]) == list(comparison.COLUMNS)
    assert read[1]["first_run"] == str(runs[3])
    comparison.plot(groups, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_is_every_recipe_of_every_pair_and_seed():
    recipes = ["kd: --method='kd(temperature=4)' --hard_weight=0.1", "at: --method=at"]
    found = sweeps.plan("runs", ["t/seed{seed}:resnet8", "t2:mlp"], recipes, [0, 1], ["--epochs=3"])
    assert len(found) == len({run.path for run in found}) == 2 * 3 * 2
    (run,) = [run for run in found if run.path == Path("runs/t-resnet8/kd/seed1")]
    own = ("--student=resnet8", "--teacher=t/seed1", "--method=kd(temperature=4)", "--hard_weight=0.1")
    assert run.flags == (*own, "--epochs=3", "--seed=1")
    for wrong in (["kd --method=kd"], ["kd: --method=kd", "kd: --method=at"], ["alone: --method=kd"]):
        with pytest.raises(ValueError, match="NAME: FLAGS"):
            sweeps.plan("runs", ["t:resnet8"], wrong, [0], [])
    with pytest.raises(ValueError, match="TEACHER:STUDENT"):
        sweeps.plan("runs", ["resnet8"], recipes, [0], [])


def test_a_sweep_outlives_a_run_that_fails_and_goes_on(data_dir, tmp_path):  # noqa: F811
    small = ["--dataset=digits", "--train_split=train[:64]", "--test_split=test[:64]", "--epochs=1", "--batch_size=32"]
    (tmp_path / "budget.flags").write_text("\n".join(small))
    teacher = tmp_path / "teacher"
    program("train", "--model=mlp(hidden=(16,))", *small, data_dir, f"--run={teacher}")
    plan = [f"--sweep={tmp_path / 'sweep'}", f"--pair={teacher}:mlp(hidden=(8,))", "--seeds=0", data_dir]
    plan += [f"--budget={tmp_path / 'budget.flags'}", "--recipe=wrong: --method=nosuch", "--recipe=kd: --method=kd"]
    first = program("compare", *plan, f"--output={tmp_path / 'table'}", check=False)
    assert first.returncode == 1 and "1 of 3 runs have no result" in first.stderr
    assert "wrong/seed0.log" in first.stderr and "Needed: --method= a method" in first.stdout + first.stderr
    results = sorted((tmp_path / "sweep").rglob("result.json"))
    assert [path.parts[-3] for path in results] == ["alone", "kd"]
    table = (tmp_path / "table" / "compare.md").read_text()
    assert table in first.stdout and "| kd | 1 |" in table and "| alone | 1 |" in table
    assert {path.name for path in (tmp_path / "table").iterdir()} == {"compare.md", "compare.csv", "compare.png"}
    before = [path.stat().st_mtime_ns for path in results]
    again = program("compare", *plan, "--part=0/3", check=False)  # the first of three: the student alone
    assert "1/1" in again.stdout and [path.stat().st_mtime_ns for path in results] == before
    assert [run.parent.name for run in compare.named([f"{tmp_path}/sweep/*/*/seed*"])] == ["alone", "kd"]
    with pytest.raises(ValueError, match="which finds none"):
        compare.named([f"{tmp_path}/none*"])
