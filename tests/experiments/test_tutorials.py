"""The tutorials and experiments/minimal.py, in the short form that KD_SHORT=1 asks for."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TUTORIALS = sorted((ROOT / "experiments" / "tutorials").glob("*.py"))
LONG = ("choosing_a_method", "evaluation_and_report")  # over a minute even in the short form
SCRIPTS = [*TUTORIALS, ROOT / "experiments" / "minimal.py"]


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG), id=path.stem) for path in SCRIPTS]
)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KD_SHORT", "1")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert list((tmp_path / "runs").rglob("result.json"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_it_is_in_the_list_and_in_percent_format(path):
    assert f"](tutorials/{path.name})" in (ROOT / "experiments" / "README.md").read_text()
    text = path.read_text()
    assert text.startswith('# %% [markdown]\n"""\n# ')
    named = re.findall(r"\bexperiments/(?:results|tutorials)/[\w./]+\w", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_minimal_program_is_short():
    assert len((ROOT / "experiments" / "minimal.py").read_text().splitlines()) <= 65
