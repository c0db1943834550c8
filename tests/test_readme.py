"""README and CONTRIBUTING: their Python runs as it stands, and what they link to exists."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from kd_keras import Distiller
from tests.support.networks import compiled, convolutional, examples

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
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


def test_it_opens_with_a_short_example():
    assert len(BLOCKS[0].strip().splitlines()) <= 14


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
    assert links and [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_every_program_is_named():
    programs = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    assert [name for name in sorted(programs) if f"`{name}`" not in TEXT and f"experiments/{name}.py" not in TEXT] == []


def test_the_picture_is_what_the_script_draws(tmp_path):
    drawn = tmp_path / "picture.svg"
    command = [sys.executable, "-m", "scripts.picture", f"--output={drawn}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert drawn.read_text() == (ROOT / "experiments/results/picture.svg").read_text()
