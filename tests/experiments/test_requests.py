"""What programs refuse, with which message and exit code, and what they say of themselves."""

import pytest

from tests.support.programs import SMALL, process, program


@pytest.mark.parametrize(
    "name", ["train", "distill", "evaluate", "compare", "export", "models", "methods", "exits", "record"]
)
def test_help_says_what_the_program_does(name):
    text = program(name, "--help").stdout
    assert f"python -m experiments.{name}" in text
    assert ("--test_split: Split to test on" in text) == (name not in ("models", "methods", "compare"))
    assert ("--learning_rate" in text) == (name in ("train", "distill"))


@pytest.mark.parametrize(
    "name, given, message",
    [
        ("train", ["--model=resnet21"], "did you mean"),
        ("train", ["--data=digit"], "digits"),
        ("train", ["--model=mlp(hidden=open('x'))"], "literal values"),
        ("distill", ["--teacher=nowhere"], "train it first"),
        ("distill", [], "teacher= or recording="),
        ("distill", ["--recording=nowhere"], "a complete recording"),
        ("distill", ["--teacher=nowhere", "--method=kdd"], "did you mean kd"),
        ("distill", ["--teacher=nowhere", "--hard_weight="], "--hard_weight must be a number"),
        ("distill", ["--teacher=nowhere", "--method=kd(temprature=3)"], "did you mean temperature"),
        ("distill", ["--teacher=nowhere", "--method=kd(temperature='hot')"], "must be a number"),
    ],
)
def test_what_is_refused(name, given, message, data_dir, tmp_path):
    ran = program(name, *SMALL, data_dir, *given, f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode == 2 and message in ran.stderr.lower() and "Traceback" not in ran.stderr
    assert not (tmp_path / "run").exists()


def test_a_damaged_model_and_a_directory_of_something_else(teacher, data_dir, tmp_path):
    broken = tmp_path / "broken.keras"
    broken.write_bytes((teacher / "model.keras").read_bytes()[:500])
    ran = program("evaluate", f"--teacher={broken}", "--data=digits", data_dir, check=False)
    assert ran.returncode == 2 and "damaged or not a model file" in ran.stderr and str(broken) in ran.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    ran = program("train", *SMALL, data_dir, f"--run={tmp_path / 'mine'}", "--overwrite", check=False)
    assert ran.returncode == 2 and (tmp_path / "mine" / "thesis.txt").exists()


def test_pairs_are_refused_for_a_classifier(teacher, data_dir):
    ran = program("evaluate", f"--teacher={teacher}", "--pairs=pairs.txt", data_dir, check=False)
    assert ran.returncode == 2
    assert "the task 'faces' to verify pairs of images, but received pairs=pairs.txt" in ran.stderr


def test_a_wrong_request_leaves_no_run_in_the_way(data_dir, tmp_path):
    run = f"--run={tmp_path / 'run'}"
    assert program("train", "--model=mlq", *SMALL, data_dir, run, check=False).returncode == 2
    program("train", "--model=mlp(hidden=(4,))", *SMALL, data_dir, run)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--learning_rat=0.1"], "learning_rate"),
        (["word"], "the word 'word'"),
        (["--flip", "true"], "write --flip or --noflip"),
        (["--epochs=0"], "a positive integer"),
        (["--image_size=8"], "image_size must be 2 whole numbers"),
        (["--warmup_epochs=1", "--schedule=steps"], "schedule='cosine'"),
    ],
)
def test_a_wrong_command_line_is_refused(given, message, tmp_path):
    ran = program("train", f"--run={tmp_path / 'run'}", *given, check=False)
    assert ran.returncode == 2 and message in ran.stderr.lower() and "Traceback" not in ran.stderr
    assert not (tmp_path / "run").exists()


def test_an_argument_of_a_megabyte_is_not_printed_whole(data_dir, tmp_path):
    for given in (f"--model={'x' * 1_000_000}", f"--data={'y' * 1_000_000}"):
        ran = program("train", *SMALL, data_dir, given, f"--run={tmp_path / 'run'}", check=False)
        assert ran.returncode == 2 and len(ran.stderr) < 4000 and "..." in ran.stderr


def test_a_word_in_a_flagfile_is_refused(tmp_path):
    (tmp_path / "some.flags").write_text("--epochs=3\nword\n")
    ran = program("train", f"--flagfile={tmp_path / 'some.flags'}", f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode == 2 and "the word 'word'" in ran.stderr and "Traceback" not in ran.stderr


def test_a_failure_and_a_traceback(data_dir, tmp_path):
    given = ["--model=mlp(hidden=(4,))", *SMALL, data_dir, f"--run={tmp_path / 'run'}", "--learning_rate=1e30"]
    ran = program("train", *given, "--epochs=8", check=False)
    assert ran.returncode == 1 and "finite" in ran.stderr and "Traceback" not in ran.stderr
    ran = program("train", "--model=mlq", *SMALL, data_dir, f"--run={tmp_path / 'other'}", "--debug", check=False)
    assert ran.returncode == 2 and "Traceback" in ran.stderr and "Error: " in ran.stderr


def test_the_process_exits_with_the_code_of_its_error(tmp_path):
    ran = process("train", "--model=mlq(", f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode == 2 and "Error: Expected name(argument=value, ...)" in ran.stderr
    assert "Traceback" not in ran.stderr and not (tmp_path / "run").exists()
    assert process("train", "--help").stdout.startswith("Trains a network on labels, without distillation")
