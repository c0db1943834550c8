"""experiments.scheme: every scheme as a command."""

import pytest

from kd_keras import Run
from tests.support.programs import SMALL, program

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]


def test_assistants(teacher, data_dir, tmp_path):
    command = [
        "--scheme=assistants",
        f"--teacher={teacher}",
        "--assistant=mlp(hidden=(8,))",
        "--method=kd(temperature=2)",
    ]
    command += ["--hard_weight=0.5", "--student=mlp(hidden=(4,))", *SMALL, data_dir, f"--run={tmp_path / 'chain'}"]
    lines = program("scheme", *command).stdout.splitlines()
    assert [line.split(":")[0] for line in lines[-2:]] == [
        str(tmp_path / "chain" / name) for name in ("1-mlp", "2-mlp")
    ]
    settings = Run(tmp_path / "chain" / "2-mlp").settings
    assert (settings["method"], settings["hard_weight"]) == ("kd(temperature=2)", "0.5")
    again = program("scheme", *command)
    assert again.stdout.count("complete: nothing to do") == 2


def test_generations(data_dir, tmp_path):
    command = ["--scheme=born_again", "--generations=1", "--student=mlp(hidden=(4,))", *SMALL, data_dir]
    ran = program("scheme", *command, f"--run={tmp_path / 'born'}")
    assert "Ensemble of generations 1 to 1: accuracy" in ran.stdout


@pytest.mark.parametrize(
    "flags",
    [
        ["--scheme=virtual_teacher", "--accuracy=0.95", "--share=0.5"],
        ["--scheme=past_student", "--alpha=0.5"],
        ["--scheme=mean_teacher", "--decay=0.9", "--consistency=2", "--rampup_epochs=1"],
        ["--scheme=mutual", "--peer=mlp(hidden=(4,))", "--peer=mlp(hidden=(6,))", "--temperature=2"],
    ],
    ids=lambda flags: flags[0],
)
def test_without_a_teacher_and_again_from_the_flagfile(flags, data_dir, tmp_path):
    student = [] if "mutual" in flags[0] else ["--student=mlp(hidden=(4,))"]
    command = [*flags, *student, *SMALL, data_dir, f"--run={tmp_path / 'run'}"]
    assert "parameters, accuracy" in program("scheme", *command).stdout
    again = "train" if "virtual" in flags[0] else "scheme"
    repeated = program(again, f"--flagfile={tmp_path / 'run' / 'flags.txt'}", f"--run={tmp_path / 'run'}")
    assert "complete: nothing to do" in repeated.stdout


@pytest.mark.parametrize(
    "given, message",
    [
        (["--scheme=born_again", "--dense"], "but received --dense"),
        (["--scheme=assistants", "--generations=2"], "but received --generations"),
        (["--scheme=assistants", "--assistant=resnet14"], "The teacher must be"),
        (["--scheme=born_again", "--weights=some.keras"], "takes no weights"),
        (["--scheme=chain"], "scheme"),
        (["--scheme=mutual", "--peer=mlp"], "two or more peers"),
        (["--scheme=mutual", "--student=mlp"], "but received --student"),
        (["--scheme=past_student", "--alpha=2"], "alpha"),
        (["--scheme=mean_teacher", "--weights=some.keras"], "weights"),
    ],
)
def test_flags_of_another_scheme_are_refused(given, message, tmp_path):
    ran = program("scheme", *given, f"--run={tmp_path / 'run'}", check=False)
    assert ran.returncode == 2 and message in ran.stderr and not (tmp_path / "run").exists()
