"""The programs as a shell runs them: every flagfile one step, what a run leaves behind, and what is refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags

from experiments import arguments
from kd_keras.methods import KD, FitNet
from tests.support.programs import ROOT, program

CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.flags"))
SMALL = ["--dataset=digits", "--train_split=train[:64]", "--test_split=test[:64]", "--epochs=1", "--batch_size=32"]
RESULT = {"epochs", "seconds", "seed", "last", "best_val_accuracy", "parameters", "data", "versions"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, data_dir):
    run = tmp_path_factory.mktemp("runs") / "teacher"
    program("train", "--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={run}")
    return run


def test_what_a_run_leaves_behind(teacher, data_dir):
    result = json.loads((teacher / "result.json").read_text())
    assert set(result) == RESULT and set(result["versions"]) >= {"tensorflow", "keras", "kd_keras", "python"}
    assert result["data"]["classes"] == 10 and result["data"]["image_shape"] == [8, 8, 1]
    rows = list(csv.DictReader(open(teacher / "metrics.csv")))
    assert len(rows) == 1 and float(rows[0]["val_accuracy"]) == result["last"]["val_accuracy"]
    assert list((teacher / "tensorboard").rglob("events.*")) and not (teacher / "checkpoint").exists()
    model = keras.saving.load_model(teacher / "model.keras")
    assert model.output_shape == (None, 10) and getattr(model, "optimizer", None) is None


def test_a_flagfile_repeats_the_run(teacher, tmp_path):
    program("train", f"--flagfile={teacher / 'flags.txt'}", f"--run={tmp_path / 'again'}")
    one, other = (keras.saving.load_model(run / "model.keras") for run in (teacher, tmp_path / "again"))
    for a, b in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert (tmp_path / "again" / "flags.txt").read_text() == (teacher / "flags.txt").read_text()


def test_the_same_command_does_nothing_more_and_another_is_refused(teacher, data_dir):
    before = (teacher / "model.keras").read_bytes()
    again = program("train", "--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={teacher}")
    assert "complete: nothing to do" in again.stdout
    other = program("train", "--model=mlp(hidden=(9,))", *SMALL, data_dir, f"--run={teacher}", check=False)
    assert other.returncode != 0 and "--overwrite" in other.stderr and "hidden=(16,)" in other.stderr
    assert (teacher / "model.keras").read_bytes() == before


def test_a_run_may_be_older_than_a_flag(teacher, data_dir, tmp_path):
    run = Path(shutil.copytree(teacher, tmp_path / "older"))
    lines = (run / "flags.txt").read_text().splitlines()
    (run / "flags.txt").write_text("\n".join(line for line in lines if not line.startswith("--nodetermin")) + "\n")
    given = ["--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={run}"]
    assert "nothing to do" in program("train", *given).stdout
    assert "--deterministic (now)" in program("train", *given, "--deterministic", check=False).stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_flagfile_runs_one_step(config, teacher, data_dir, tmp_path):
    teaches = "--student" in config.read_text()
    extra = [f"--teacher={teacher}"] if teaches else []
    small = [*SMALL[:1], "--train_split=train[:32]", "--test_split=test[:32]", *SMALL[3:], data_dir]
    program("distill" if teaches else "train", f"--flagfile={config}", *small, *extra, f"--run={tmp_path / 'run'}")
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["last"]
    assert np.isfinite(list(metrics.values())).all()


def test_a_killed_run_goes_on_where_it_stopped(data_dir, tmp_path):
    command = ["--model=mlp(hidden=(16,), dropout=0.5)", *SMALL[:3], "--batch_size=32", "--shift=1", data_dir]
    program("train", *command, "--epochs=6", f"--run={tmp_path / 'whole'}")
    killed = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *command, "--epochs=6", f"--run={tmp_path / 'killed'}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in killed.stdout:
        if line.startswith("Epoch 3"):
            killed.kill()
            break
    killed.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    gone_on = program("train", *command, "--epochs=6", f"--run={tmp_path / 'killed'}")
    assert "Going on after epoch" in gone_on.stdout
    assert len(list(csv.DictReader(open(tmp_path / "killed" / "metrics.csv")))) == 6
    one, other = (keras.saving.load_model(tmp_path / run / "model.keras") for run in ("whole", "killed"))
    for a, b in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_folder_of_unlabelled_images_trains_a_student(teacher, data_dir, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(20):
        keras.utils.save_img(folder / f"{number}.png", random.integers(0, 256, (8, 8, 3)).astype("uint8"))
    colour = tmp_path / "teacher.keras"
    inputs = keras.Input((8, 8, 3))
    grey = keras.ops.mean(inputs, axis=-1, keepdims=True)
    keras.Model(inputs, keras.saving.load_model(teacher / "model.keras")(grey)).save(colour)
    run = tmp_path / "student"
    few = [f"--dataset={folder}", f"--teacher={colour}", "--student=mlp(hidden=(8,))", "--batch_size=8"]
    program("distill", *few, "--epochs=2", "--hard_weight=0", "--mixup=1", f"--run={run}")
    result = json.loads((run / "result.json").read_text())
    assert set(result["last"]) == {"epoch", "kd", "loss"} and np.isfinite(result["last"]["kd"])
    refused = program("distill", *few, f"--run={tmp_path / 'other'}", check=False)
    assert refused.returncode != 0 and "hard_weight=0" in refused.stderr


def test_a_network_starts_from_weights_of_a_file(teacher, data_dir, tmp_path):
    given = ["--model=mlp(hidden=(16,))", *SMALL, data_dir, "--learning_rate=0"]
    ran = program("train", *given, f"--weights={teacher / 'model.keras'}", f"--run={tmp_path / 'run'}")
    assert "2 layers loaded" in ran.stdout
    one, other = (keras.saving.load_model(run / "model.keras") for run in (teacher, tmp_path / "run"))
    for a, b in zip(one.get_weights(), other.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_recording_trains_the_student_of_the_live_run(teacher, data_dir, tmp_path):
    views = [*SMALL[:2], SMALL[4], data_dir, "--shift=1", "--views=2"]
    given = [f"--teacher={teacher}", *views, f"--output={tmp_path / 'recording'}"]
    cluster = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 1}}
    first = program("record", *given, "--shard=0/2")
    assert "others are missing" in first.stdout and "2 views of 64 examples at 64 bytes" in first.stdout
    ran = program("record", *given, environment={"TF_CONFIG": json.dumps(cluster)})
    assert "2 views of 64 examples, logits" in ran.stdout
    assert "every shard is whole" in program("record", *given, "--verify").stdout
    student = ["--student=mlp(hidden=(8,))", *views, SMALL[2], "--epochs=3"]
    program("distill", *student, f"--teacher={teacher}", f"--run={tmp_path / 'live'}")
    program("distill", *student, f"--recording={tmp_path / 'recording'}", f"--run={tmp_path / 'recorded'}")
    both = [f"--recording={tmp_path / 'recording'}", f"--teacher={teacher}"]
    assert "live teacher differs by" in program("distill", *student, *both, f"--run={tmp_path / 'both'}").stdout
    one, *others = (keras.saving.load_model(tmp_path / run / "model.keras") for run in ("live", "recorded", "both"))
    for other in others:
        for a, b in zip(one.get_weights(), other.get_weights()):
            np.testing.assert_allclose(a, b, atol=1e-5)
    refused = program("distill", *student, "--shift=2", both[0], f"--run={tmp_path / 'other'}", check=False)
    assert refused.returncode != 0 and "shift=1" in refused.stderr and "shift=2" in refused.stderr


def test_a_frozen_teacher_is_recorded_and_told_from_the_whole_one(teacher, data_dir, tmp_path):
    views = [*SMALL[:2], SMALL[4], data_dir, "--views=1", f"--teacher={teacher}"]
    half = "--teacher_precision=bfloat16"
    program("record", *views, half, f"--output={tmp_path / 'recording'}")
    given = [*views, "--student=mlp(hidden=(8,))", *SMALL[2:4], f"--recording={tmp_path / 'recording'}"]
    ran = program("distill", *given, half, f"--run={tmp_path / 'half'}")
    assert "the live teacher differs by 0.0e+00" in ran.stdout
    refused = program("distill", *given, f"--run={tmp_path / 'whole'}", check=False)
    assert refused.returncode != 0 and "weights: recorded" in refused.stderr


def test_the_zoo_and_its_taps(teacher):
    ran = program("models", "--model=resnet8", f"--model={teacher / 'model.keras'}", "--classes=10")
    assert "| resnet8 | 78,042 | 12,501,632 |" in ran.stdout and "32x32x16 16x16x32 8x8x64" in ran.stdout
    assert "| stages[2] | stage3_out | 8x8x64 | stage3_block1_sum |" in ran.stdout
    assert "| 1,210 | 1,184 |" in ran.stdout and "| logits | logits | 10 |" in ran.stdout


def test_the_methods_and_what_their_adapters_cost():
    ran = program("methods", "--teacher=resnet8", "--student=resnet8", "--image_size=8,8", "--classes=10")
    assert "| `kd` | logits | `logits` | `logits` | 0 | 0.9 | 0.1 | Hinton, Vinyals, Dean 2015, 1503" in ran.stdout
    adapters = {row.split("|")[1].strip(): row.split("|")[5].strip() for row in ran.stdout.splitlines() if "| `" in row}
    assert adapters["`fitnet`"] == "0" and int(adapters["`crd`"].replace(",", "")) == 2 * (64 * 128 + 128)
    assert adapters["`ld`"].startswith("needs the tap 'boxes'") and adapters["`byot`"] == "0"


def test_a_memory_of_examples_beside_kd(teacher, data_dir, tmp_path):
    methods = ["--method=crd(negatives=16)", "--method=lskd(host=dkd(beta=2), weight={0: 0, 1: 9})"]
    given = [f"--teacher={teacher}", "--student=mlp(hidden=(8,))", "--hard_weight={0: 1, 1: 0.5}", *methods]
    program("distill", *given, *SMALL[:3], "--epochs=2", "--batch_size=32", data_dir, f"--run={tmp_path / 'run'}")
    rows = list(csv.DictReader(open(tmp_path / "run" / "metrics.csv")))
    assert float(rows[0]["crd"]) > 0 and "--hard_weight={0: 1, 1: 0.5}" in (tmp_path / "run" / "flags.txt").read_text()
    for epoch, (hard, lskd) in enumerate([(1, 0), (0.5, 9)]):
        row = {name: float(value) for name, value in rows[epoch].items()}
        assert row["loss"] == pytest.approx(hard * row["hard"] + 0.8 * row["crd"] + lskd * row["lskd"], rel=1e-4)


def test_a_network_teaches_its_exits_and_they_are_compared(data_dir, tmp_path):
    given = ["--student=multi_exit/resnet8", "--method=byot", "--hard_weight=0", *SMALL, data_dir]
    program("distill", *given, f"--run={tmp_path / 'run'}")
    table = ["--test_split=test[:64]", "--thresholds=0.05,1.1", data_dir]
    ran = program("exits", f"--model={tmp_path / 'run'}", f"--alone={tmp_path / 'run'}", *table)
    assert all(f"| {row} | " in ran.stdout for row in ("exit 1", "exit 3", "sum of the exits", "the network alone"))
    assert "| 0.05 | 1.000 | 0.000 | 0.000 |" in ran.stdout and "| 1.1 | 0.000 | 0.000 | 1.000 |" in ran.stdout
    missing = program("distill", "--student=multi_exit/resnet8", *SMALL, data_dir, "--run=nowhere", check=False)
    assert missing.returncode != 0 and "--recording= for kd" in missing.stderr


def test_several_teachers_of_another_normalisation(teacher, data_dir, tmp_path):
    from experiments.teachers import renormalize
    from kd_keras.data import Normalisation

    images, own = np.random.default_rng(0).uniform(size=(2, 4, 4, 1)).astype("float32"), Normalisation((0.3,), (0.2,))
    convert = renormalize({"mean": [0.5], "std": [0.25]}, own)
    np.testing.assert_allclose(convert(own(images)), (images - 0.5) / 0.25, rtol=1e-4, atol=1e-5)
    assert renormalize({"mean": [0.3], "std": [0.2]}, own) is None
    twice = [f"--teacher={teacher}", f"--teacher={teacher}", "--teacher_weights=3,1", "--combine=logits"]
    ran = program("distill", "--student=mlp(hidden=(8,))", *SMALL, data_dir, *twice, f"--run={tmp_path / 'run'}")
    assert "into mlp(hidden=(8,)) (610)" in ran.stdout


def test_evaluate_and_export(teacher, data_dir, tmp_path):
    given = [f"--teacher={teacher}", f"--model={teacher}", data_dir, f"--output={tmp_path / 'table.json'}"]
    ran = program("evaluate", *given, "--min_agreement=1", "--max_accuracy_drop=0", "--max_parameters_ratio=1")
    assert ran.stdout.count("PASS  ") == 3 and "FAIL" not in ran.stdout
    row = json.loads((tmp_path / "table.json").read_text())[str(teacher)]
    assert row["agreement"] == 1.0 and row["kl"] == pytest.approx(0, abs=1e-6)
    assert row["parameters"] == 65 * 16 + 17 * 10
    assert "| accuracy | agreement |" in ran.stdout and f"| {teacher} | 1,210 |" in ran.stdout
    forms = "--formats=saved_model,litert_int8"
    ran = program("export", f"--model={teacher}", data_dir, forms, f"--output={tmp_path / 'out'}")
    table = json.loads((tmp_path / "out" / "export.json").read_text())
    assert table["images"] == 797 and list(table["forms"]) == ["saved_model", "litert_int8"]
    for form, name in (("saved_model", "saved_model"), ("litert_int8", "model_int8.tflite")):
        each = table["forms"][form]
        assert f"| {form} | {name} | {each['bytes'] / 1000:,.1f} | " in ran.stdout
        assert (tmp_path / "out" / name).exists()
        assert each["source_accuracy"] == pytest.approx(row["accuracy"]) and each["agreement"] > 0.95
    assert table["forms"]["saved_model"]["numbers"] == 1210 and table["forms"]["saved_model"]["agreement"] == 1.0
    recorded = np.load(tmp_path / "out" / "saved_model" / "check.npz")
    assert recorded["images"].dtype == np.uint8 and len(recorded["images"]) == 797
    command = [sys.executable, ROOT / "scripts" / "check_saved_model.py", tmp_path / "out" / "saved_model"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert checked.returncode == 0 and "797 of 797" in checked.stdout


def test_evaluate_judges_the_last_model(teacher, data_dir, tmp_path):
    few = tmp_path / "few"  # a worse one of the same kind, from fewer images
    program("train", "--model=mlp(hidden=(16,))", *SMALL, "--train_split=train[:8]", data_dir, f"--run={few}")
    models = [f"--teacher={teacher}", f"--model={teacher}", f"--model={few}", data_dir, "--examples=40"]
    check_requirements = ["--min_accuracy=0.999", "--max_size_ratio=1.5", "--max_mce=0.001"]
    output = f"--output={tmp_path / 'found.json'}"
    ran = program("evaluate", *models, *check_requirements, "--questions=generalisation", output, check=False)
    assert ran.returncode == 3, ran.stderr[-3000:]
    verdict = [line.split(":")[0] for line in ran.stdout.splitlines() if line[:4] in ("PASS", "FAIL")]
    assert verdict == ["FAIL  min_accuracy", "FAIL  max_mce", "PASS  max_size_ratio"]
    found = json.loads((tmp_path / "found.json").read_text())[str(few)]
    assert len(found["error_jpeg"]) == 5 and np.shape(found["confusion"]) == (10, 10)
    assert found["gap"] == pytest.approx(found["accuracy_train"] - found["accuracy"])
    assert f"| {few} | 8 | {found['accuracy']:.4f} |" in ran.stdout and "| mce | gap |" in ran.stdout


@pytest.mark.parametrize(
    "name", ["train", "distill", "evaluate", "compare", "export", "models", "methods", "exits", "record"]
)
def test_help_says_what_the_program_does(name):
    text = program(name, "--help", check=False).stdout
    assert f"python -m experiments.{name}" in text
    assert ("--test_split: Split to test on" in text) == (name not in ("models", "methods", "compare"))
    assert ("--learning_rate" in text) == (name in ("train", "distill"))


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("train", ["--model=resnet21"], "did you mean"),
        ("train", ["--dataset=digit"], "digits"),
        ("train", ["--model=mlp(hidden=open('x'))"], "literal values"),
        ("distill", ["--teacher=nowhere"], "train it first"),
        ("distill", [], "--teacher= or --recording="),
        ("distill", ["--recording=nowhere"], "a complete recording"),
        ("distill", ["--teacher=nowhere", "--method=kdd"], "did you mean kd"),
        ("distill", ["--teacher=nowhere", "--method=kd(temprature=3)"], "did you mean temperature"),
        ("distill", ["--teacher=nowhere", "--method=kd(temperature='hot')"], "as a number"),
    ],
)
def test_what_is_refused(name, given, message, data_dir, tmp_path):
    ran = program(name, *SMALL, data_dir, *given, f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode != 0 and message in ran.stderr


def test_a_damaged_model_and_a_directory_of_something_else(teacher, data_dir, tmp_path):
    broken = tmp_path / "broken.keras"
    broken.write_bytes((teacher / "model.keras").read_bytes()[:500])
    ran = program("evaluate", f"--teacher={broken}", data_dir, check=False)
    assert ran.returncode != 0 and "a whole model file" in ran.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    ran = program("train", *SMALL, data_dir, f"--run={tmp_path / 'mine'}", "--overwrite", check=False)
    assert ran.returncode != 0 and (tmp_path / "mine" / "thesis.txt").exists()


def test_methods_from_text():
    assert isinstance(arguments.parse_method("kd"), KD) and isinstance(arguments.parse_method("fitnet()"), FitNet)
    assert arguments.parse_method("fitnet(student_tap='a/b', weight=3)").taps.student == ("a/b",)
    hosted = arguments.parse_method("lskd(host=kd(temperature=3))", examples=5)
    assert hosted.host.temperature == 3 and arguments.parse_method("crd", examples=5).examples == 5
    assert arguments.parse_method("crd(examples=None)", examples=5).examples is None
    with pytest.raises(ValueError, match="did you mean dkd"):
        arguments.parse_method("lskd(host=dkdd())")
    for text in ("-1", "much", "{0: 'a'}"):
        with pytest.raises(ValueError, match="hard_weight"):
            arguments.parse_weight(text, "hard_weight")
    for text in ("kd(4)", "kd(**{})", "kd(weight=__import__('os'))", "kd(", "kd)", "kd(temperature=4) or 1"):
        with pytest.raises(ValueError, match="literal"):
            arguments.parse_method(text)
    assert not flags.FLAGS.is_parsed()


def test_the_quickstart_end_to_end(tmp_path):
    if "KD_VENV" not in os.environ:
        pytest.skip("scripts/test.sh names the environment that the quickstart installs into")
    environment = {**os.environ, "RUNS": str(tmp_path / "runs")}
    first, second = (
        subprocess.run(["bash", ROOT / "scripts" / "quickstart.sh"], capture_output=True, text=True, env=environment)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stderr[-3000:]
    assert "797 of 797 images classified identically, kd_keras not loaded" in first.stdout
    table = [line for line in first.stdout.partition("== 5.")[2].splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].rsplit("/", 1)[-1] for line in table[1:]] == ["teacher", "alone", "distilled"]
    column = table[0].split(" | ").index("accuracy")
    accuracy = [float(line.split(" | ")[column]) for line in table[1:]]
    assert accuracy[0] > 0.97 and min(accuracy) > 0.9
    assert second.returncode == 0 and second.stdout.count("complete: nothing to do") == 3


def test_a_slip_leaves_no_run_in_the_way(data_dir, tmp_path):
    run = f"--run={tmp_path / 'run'}"
    assert program("train", "--model=mlq", *SMALL, data_dir, run, check=False).returncode != 0
    program("train", "--model=mlp(hidden=(4,))", *SMALL, data_dir, run)


def test_evaluate_knows_a_run_by_its_model_and_by_its_own_order_of_classes(teacher, data_dir, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(teacher, turned)
    model = keras.saving.load_model(turned / "model.keras")
    head = model.get_layer("logits")
    head.set_weights([weights[..., ::-1] for weights in head.get_weights()])
    model.save(turned / "model.keras")
    result = json.loads((turned / "result.json").read_text())
    result["data"]["class_names"] = result["data"]["class_names"][::-1]
    (turned / "result.json").write_text(json.dumps(result))
    others = [f"--model={teacher / 'model.keras'}", f"--model={turned}"]
    program("evaluate", f"--teacher={teacher}", *others, data_dir, f"--output={tmp_path / 'table.json'}")
    rows = list(json.loads((tmp_path / "table.json").read_text()).values())
    assert [row["agreement"] for row in rows] == [1.0, 1.0, 1.0]
    assert len({row["accuracy"] for row in rows}) == 1


def test_several_teachers_stay_in_their_order(teacher, data_dir, tmp_path):
    second = tmp_path / "a_second"  # before "teacher" in the alphabet
    shutil.copytree(teacher, second)
    given = [f"--teacher={teacher}", f"--teacher={second}", "--teacher_weights=3,1", *SMALL, data_dir]
    program("distill", "--student=mlp(hidden=(4,))", *given, f"--run={tmp_path / 'run'}")
    lines = (tmp_path / "run" / "flags.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("--teacher=")] == given[:2]
    swapped = [given[1], given[0], *given[2:]]
    ran = program("distill", "--student=mlp(hidden=(4,))", *swapped, f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode != 0 and "another order" in ran.stderr


def test_photographs_of_several_sizes(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for kind in ("cat", "dog"):
            folder = tmp_path / "photos" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (10 + number, 12, 3)).astype("uint8")
                keras.utils.save_img(folder / f"{number}.png", pixels)
    given = [f"--dataset={tmp_path / 'photos'}", "--model=mlp(hidden=(4,))", "--epochs=1", "--batch_size=4"]
    refused = program("train", *given, f"--run={tmp_path / 'run'}", check=False)
    assert refused.returncode != 0 and "--image_size" in refused.stderr
    program("train", *given, "--image_size=8,8", "--label_smoothing=0.1", f"--run={tmp_path / 'run'}")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["data"]["class_names"] == ["cat", "dog"]
