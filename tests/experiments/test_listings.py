"""The programs that print tables: models, methods, exits."""

from tests.support.programs import SMALL, program


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
    assert adapters["`ld`"].startswith("does not fit: ") and adapters["`byot`"] == "0"


def test_a_network_teaches_its_exits_and_they_are_compared(data_dir, tmp_path):
    given = ["--student=multi_exit/resnet8", "--method=byot", "--hard_weight=0", *SMALL, data_dir]
    program("distill", *given, f"--run={tmp_path / 'run'}")
    table = ["--test_split=test[:64]", "--thresholds=0.05,1.1", data_dir]
    ran = program("exits", f"--model={tmp_path / 'run'}", f"--baseline={tmp_path / 'run'}", *table)
    assert all(
        f"| {row} | " in ran.stdout for row in ("exit 1", "exit 3", "sum of the exits", "baseline without exits")
    )
    assert "| 0.05 | 1.000 | 0.000 | 0.000 |" in ran.stdout and "| 1.1 | 0.000 | 0.000 | 1.000 |" in ran.stdout
    missing = program("distill", "--student=multi_exit/resnet8", *SMALL, data_dir, "--run=nowhere", check=False)
    assert missing.returncode == 2 and "kd needs teacher= or recording=" in missing.stderr
