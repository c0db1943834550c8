"""The floors: a module imports only from lower floors, and inside a folder only that folder's base.py."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kd_keras"
FLOORS = {"contracts": 0, "primitives": 0, "version": 0, "taps": 1, "adapters": 1, "methods": 2, "models": 2, "data": 2}
FLOORS |= {"weights": 1, "freezing": 2, "distribute": 2, "multiworker": 2, "teacher": 3, "watch": 3, "checkpoint": 3}
FLOORS |= {"recording": 3, "distiller": 4}
FLOORS |= {"schemes": 5, "callbacks": 5, "evaluation": 5, "report": 5, "export": 5}
FLOORS |= {"files": 0, "records": 1, "replay": 2, "deployed": 1, "exported": 4}
FLOORS |= {"drawing": 1, "plots": 2, "sections": 3}
BACKEND_FREE = ("contracts", "primitives", "taps", "adapters", "freezing", "methods", "models")
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            if node.module.startswith("kd_keras"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_lower_floors(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert parts[0] in FLOORS, f"{parts[0]} has no floor"
    for name in imported(path):
        assert name != "kd_keras", f"{path} imports the package's top"
        if not name.startswith("kd_keras."):
            continue
        target = name.split(".")[1]
        if target == parts[0]:
            sibling = (name.split(".") + [""])[2]
            allowed = sibling == "base" or not (PACKAGE / target / f"{sibling}.py").exists()
            assert len(parts) > 1 and (parts[-1] == "__init__" or allowed), f"{path} imports its sibling {name}"
        else:
            assert FLOORS[target] < FLOORS[parts[0]], f"{path} (floor {FLOORS[parts[0]]}) imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_maths_is_free_of_the_back_end(path):
    if path.relative_to(PACKAGE).with_suffix("").parts[0] in BACKEND_FREE:
        assert not [name for name in imported(path) if name.split(".")[0] == "tensorflow"]


def test_no_registries_and_no_asserts():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), f"{path}: an assert"
        for word in ("utils", "helpers", "misc", "common", "manager"):
            assert word not in path.stem, f"{path}: a name that says nothing"


def test_import_costs_no_more_than_tensorflow():
    import subprocess
    import sys

    heavy = {"tensorflow_datasets", "tensorboard", "matplotlib"}  # Keras itself imports matplotlib where there is one
    program = "import sys, tensorflow, keras; before = set(sys.modules); import kd_keras; "
    program += f"print(sorted({heavy} & set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]", ran.stderr
