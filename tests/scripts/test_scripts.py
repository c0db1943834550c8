"""Rules for the files of scripts/, and their help texts."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "scripts"
PROGRAMS = sorted(SCRIPTS.rglob("*.py"))
SHELL = sorted(SCRIPTS.rglob("*.sh"))


def names(paths):
    return [str(path.relative_to(SCRIPTS)) for path in paths]


@pytest.mark.parametrize("path", PROGRAMS, ids=names(PROGRAMS))
def test_a_script_imports_no_tests_and_no_private_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
            assert not any(alias.name.startswith("_") for alias in node.names)
        for module in modules:
            assert module.partition(".")[0] != "tests"
            assert not module.startswith(("keras.src", "tensorflow.python"))
        if isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not private or ast.unparse(node.value) == "self" or node.attr in ("_asdict", "_replace"), node.attr


@pytest.mark.parametrize("path", PROGRAMS, ids=names(PROGRAMS))
def test_the_command_in_the_docstring_is_the_scripts_own(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    commands = re.findall(r"^    python (?:-m )?(\S+)", ast.get_docstring(ast.parse(path.read_text())), re.MULTILINE)
    assert all(command in (module, str(path.relative_to(ROOT))) for command in commands)


def test_every_command_of_a_results_page_exists():
    for page in (ROOT / "experiments" / "results").glob("*.md"):
        text = page.read_text()
        for module in re.findall(r"python -m (scripts\.[\w.]+|experiments\.\w+)", text):
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), f"{page.name}: {module}"
        for script in re.findall(r"\bscripts/[\w/]+\.(?:sh|py)\b", text):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


@pytest.mark.parametrize("path", SHELL, ids=names(SHELL))
def test_a_shell_script_parses(path):
    ran = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_matrix_names_the_versions_of_setup_cfg():
    ran = subprocess.run(
        ["bash", SCRIPTS / "test_matrix.sh"], capture_output=True, text=True, env={"ONLY": "neither", "PATH": "/bin"}
    )
    assert ran.returncode == 2 and "oldest or newest" in ran.stderr


def test_the_reading_of_measurements_from_a_test_report(tmp_path):
    """What scripts/reproduce/methods_table.py reads: the largest value of each property, and what failed."""
    report = tmp_path / "report.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase name="test_value_and_gradient[kd-one]"><properties>
        <property name="value_error" value="1e-7"/></properties></testcase>
        <testcase name="test_value_and_gradient[kd-two]"><properties>
        <property name="value_error" value="3e-7"/></properties></testcase>
        <testcase name="test_several_replicas_compute_the_same_update_as_one[2-KD]"><properties>
        <property name="weight_difference" value="4e-8"/></properties></testcase>
        <testcase name="test_the_loss_is_finite_in_edge_cases[at-one]"><failure>no</failure></testcase>
        </testsuite></testsuites>"""
    )
    program = (
        "import sys, json; from scripts.reproduce.methods_table import read_report; "
        "print(json.dumps(read_report(sys.argv[1])))"
    )
    ran = subprocess.run([sys.executable, "-c", program, report], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1].replace("Infinity", "1e999").startswith('{"kd": {"value_error": 3e-07}'), (
        ran.stderr
    )
    assert '"KD": {"weight_difference": 4e-08}' in ran.stdout and '"at": {"failed": Infinity}' in ran.stdout
