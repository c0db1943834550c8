"""TODO"""

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
        ("train", ["--data=digit"], "digits"),
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


def test_a_slip_leaves_no_run_in_the_way(data_dir, tmp_path):
    run = f"--run={tmp_path / 'run'}"
    assert program("train", "--model=mlq", *SMALL, data_dir, run, check=False).returncode != 0
    program("train", "--model=mlp(hidden=(4,))", *SMALL, data_dir, run)

