"""README and CONTRIBUTING: their Python runs as it stands, and what they link to exists."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kd_keras import Distiller
from tests.support.networks import compiled, convolutional, examples
from tests.support.programs import parse, program

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
PROGRAMS = (ROOT / "experiments/README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_the_python_runs_as_it_stands(tmp_path):
    program = "\n".join(BLOCKS)
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    exported = tmp_path / "runs/readme/student/export"
    assert (exported / "saved_model").is_dir() and list(exported.glob("*int8*.tflite"))


def test_the_method_of_contributing_trains_a_student():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    indented = re.search(r"^   ```python\n(.*?)^   ```$", text, re.DOTALL | re.MULTILINE)
    definitions = {}
    exec(textwrap.dedent(indented[1]), definitions)
    teacher, student = convolutional(6), convolutional(4)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[definitions["Hint"]()]))
    history = distiller.fit(*examples(), epochs=3, verbose=0).history
    assert history["hint"][-1] < history["hint"][0]


COMMAND = re.compile(r"^ *(?:\$ )?python -m experiments\.(\w+) (.*)$", re.MULTILINE)


def commands(text):
    """The programs in the blocks of a text, with their arguments, as a shell splits them."""
    blocks = "\n".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [(name, shlex.split(arguments, comments=True)) for name, arguments in COMMAND.findall(blocks)]


def test_every_command_has_flags_that_exist_and_files_that_exist():
    found = [*commands(TEXT), *commands((ROOT / "CONTRIBUTING.md").read_text())]
    assert len(found) > 9
    for name, arguments in found:
        parse(name, *arguments)  # an unknown flag or a missing flagfile is an error
    for script in re.findall(r"bash (scripts/\S+\.sh)", TEXT):
        assert (ROOT / script).exists(), script


def test_the_commands_run_in_their_order(tmp_path):
    """The blocks as they are pasted, with few images and epochs."""
    few = ["--train_split=train[:64]", "--test_split=test[:64]", "--epochs=2", "--test_every=1", "--batch_size=32"]
    for name, arguments in commands(TEXT):
        if any(part.startswith("--flagfile=RUN") for part in arguments):
            continue
        short = [*few, f"--data_dir={tmp_path / 'data'}"] if name in ("train", "distill") else []
        program(name, *(part.replace("runs/", f"{tmp_path}/runs/") for part in arguments), *short)
    runs = tmp_path / "runs"
    assert (runs / "quickstart/export/saved_model").is_dir() and (runs / "comparison/compare.tex").exists()
    assert (runs / "mine/result.json").exists() and (runs / "tuned/result.json").exists()


def test_it_opens_with_a_short_example():
    assert len(BLOCKS[0].strip().splitlines()) <= 14


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_every_link_leads_to_a_file(page):
    path = ROOT / page
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()) if "://" not in link]
    assert links and [link for link in links if not (path.parent / link.partition("#")[0]).exists()] == []


def test_every_program_is_named():
    files = (ROOT / "experiments").glob("*.py")
    programs = {path.stem for path in files if "def main" in path.read_text()}
    assert len(programs) >= 9
    named = {name for name in programs if f"`{name}`" in PROGRAMS or f"experiments/{name}.py" in TEXT}
    assert named == programs


def test_the_picture_is_what_the_script_draws(tmp_path):
    drawn = tmp_path / "picture.svg"
    command = [sys.executable, "-m", "scripts.picture", f"--output={drawn}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert drawn.read_text() == (ROOT / "experiments/results/picture.svg").read_text()
