"""experiments.choose and scripts/measure_on_device.sh."""

import inspect
import os
import subprocess
from pathlib import Path

import pytest

import kd_keras
from kd_keras import Run
from kd_keras.schemes.sizes import read_latencies
from tests.support.programs import SMALL, program

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in ("The teacher is right", "After training")]
SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "measure_on_device.sh"
CANDIDATES = ["--candidate=mlp(hidden=(4,))", "--candidate=mlp(hidden=(900,))"]
# Stand-ins for what is on a phone: adb that copies and runs files here, and LiteRT's program with its output's form.
ADB = """#!/usr/bin/env bash
case "$1" in
    push) cp "$2" "$3" ;;
    shell) shift; eval "$*" ;;
esac
"""
BENCHMARK = """#!/usr/bin/env bash
size="$(stat -c %s "${1#--graph=}")"
echo "INFO: Inference timings in us: Init: 900, First inference: 700, Warmup (avg): 600, Inference (avg): $size.5"
"""


def test_the_choice_of_a_student(teacher, data_dir, tmp_path):
    command = [f"--teacher={teacher}", *CANDIDATES, "--max_kilobytes=60", "--form=litert_float16", "--views=1"]
    command += ["--recipe=soft: --method='kd(temperature=4)' --hard_weight=0.1", *SMALL, data_dir]
    lines = program("choose", *command, f"--run={tmp_path / 'choice'}").stdout.splitlines()
    assert any("| teacher |" in line for line in lines[-7:])
    assert "does not fit" in lines[-3] and lines[-2] == "2 epochs in all."
    assert lines[-1].startswith(f"Chosen: {tmp_path / 'choice' / 'rung0' / '0-mlp-soft'}")
    assert Run(tmp_path / "choice" / "rung0" / "0-mlp-soft").settings["hard_weight"] == "0.1"


def test_the_program_has_the_epochs_of_the_function():
    text = " ".join(program("choose", "--help").stdout.split())
    default = inspect.signature(kd_keras.choose).parameters["epochs"].default
    assert f"its baseline. (default: '{default}')" in text and "not overwritten as a whole" in text


def test_what_is_missing_is_named(tmp_path):
    ran = program("choose", *CANDIDATES, f"--run={tmp_path / 'choice'}", check=False)
    assert ran.returncode == 2 and "a teacher to learn from" in ran.stderr and not (tmp_path / "choice").exists()


def test_measuring_alone_takes_no_flags_of_the_choice(tmp_path):
    ran = program("choose", "--measure_only", "--max_kilobytes=3", f"--run={tmp_path / 'choice'}", check=False)
    assert ran.returncode == 2 and "but received --max_kilobytes" in ran.stderr


def test_the_exports_are_measured_on_a_device(data_dir, tmp_path):
    run = tmp_path / "choice"
    shown = program("choose", "--measure_only", *CANDIDATES, *SMALL, data_dir, f"--run={run}").stdout
    assert "mlp(hidden=(4,)): " in shown and not (run / "recording").exists()
    for name, text in (("adb", ADB), ("benchmark_model", BENCHMARK)):
        (tmp_path / name).write_text(text.replace("/data/local/tmp", str(tmp_path / "device")))
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "measure.sh"
    script.write_text(SCRIPT.read_text().replace("/data/local/tmp", str(tmp_path / "device")))
    tools = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BENCHMARK": str(tmp_path / "benchmark_model")}
    ran = subprocess.run(["bash", script, run / "exports"], capture_output=True, text=True, env=tools)
    sizes = [(run / "exports" / f"mlp(hidden=({width},)).tflite").stat().st_size for width in (4, 900)]
    times = [f"{(size + 0.5) / 1000:.4f}" for size in sizes]
    expected = ["candidate,milliseconds", f'"mlp(hidden=(4,))",{times[0]}', f'"mlp(hidden=(900,))",{times[1]}']
    assert ran.stdout.splitlines() == expected, ran.stderr


def test_names_with_quotes_and_a_program_that_fails(tmp_path):
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / 'vit(head="a").tflite').write_bytes(b"1234")
    for name, text in (("adb", ADB), ("benchmark_model", BENCHMARK)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "measure.sh"
    script.write_text(SCRIPT.read_text().replace("/data/local/tmp", str(tmp_path / "device")))
    tools = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BENCHMARK": str(tmp_path / "benchmark_model")}
    command = ["bash", script, tmp_path / "exports"]
    times = tmp_path / "times.csv"
    times.write_text(subprocess.run(command, capture_output=True, text=True, env=tools, check=True).stdout)
    assert read_latencies(times, ['vit(head="a")']) == {'vit(head="a")': 0.0045}
    (tmp_path / "benchmark_model").write_text("#!/bin/sh\necho not executable: 64-bit ELF file\nexit 126\n")
    ran = subprocess.run(command, capture_output=True, text=True, env=tools)
    assert ran.returncode == 1 and "printed no time" in ran.stderr and "64-bit ELF" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "usage"), (["missing"], "is not a directory"), (["."], "adb is missing")],
    ids=["nothing", "no directory", "no adb"],
)
def test_what_the_script_cannot_do_is_named(arguments, message, tmp_path):
    (tmp_path / "bin").mkdir()
    for tool in ("dirname", "find", "sort"):
        (tmp_path / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    ran = subprocess.run(
        ["/bin/bash", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
    )
    assert ran.returncode in (1, 2) and message in ran.stderr
