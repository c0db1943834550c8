"""The structure of the package: which room may import which, as the picture in CONTRIBUTING.md shows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kd_keras"
# A room imports only rooms before it in this list.
ROOMS = (
    "version",
    "errors",
    "contracts",
    "primitives",
    "detection",
    "faces",
    "files",
    "private_api",
    "networks",
    "distribute",
    "segmentation",
    "data",
    "models",
    "methods",
    "functions",
    "recording",
    "ensembles",
    "teacher",
    "training",
    "distiller",
    "evaluation",
    "export",
    "report",
    "tasks",
    "runs",
    "schemes",
)
WITHOUT_TENSORFLOW = (
    "errors", "contracts", "primitives", "detection", "faces", "networks", "segmentation", "methods", "models",
)  # fmt: skip
LISTS = {
    "methods": ("__init__", "base", "adapters", "class_memory", "hard_weight", "labels", "positions", "schedules"),
    "models": (
        "__init__",
        "base",
        "detection_model",
        "feature_pyramid",
        "deeplab_head",
        "gfl_head",
        "hub_detector",
        "hub_encoders",
        "hub_segmenters",
        "retinanet_head",
    ),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in MODULES}


def imports(path, at_the_top=False):
    """Names of the modules that a file imports; with `at_the_top` only those imported when it is loaded."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if at_the_top else ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ({name if name in NAMES else node.module for name in inner})


def room(name):
    return name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_below_it(path):
    own_room = room(module_name(path))
    assert own_room in ROOMS, f"{own_room} is not in the list of rooms"
    for name in imports(path):
        assert name != "kd_keras", f"{path} imports the package's top"
        if name.startswith("kd_keras.") and room(name) != own_room:
            assert ROOMS.index(room(name)) < ROOMS.index(own_room), f"{path} imports {name}, of a room above it"


def test_no_cycle_within_a_room():
    graph = {
        name: {target for target in imports(path, at_the_top=True) if target in NAMES and room(target) == room(name)}
        for name, path in NAMES.items()
        if path.name != "__init__.py"
    }

    def visit(name, trail):
        assert name not in trail, f"a cycle: {' -> '.join([*trail, name])}"
        for imported in graph.get(name, ()):
            visit(imported, [*trail, name])

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("folder", LISTS)
def test_a_method_or_model_imports_only_the_shared_files_of_its_room(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        if path.stem in LISTS[folder]:
            continue
        for name in imports(path):
            if name.startswith(f"kd_keras.{folder}."):
                assert name.split(".")[2] in LISTS[folder], f"{path} imports the entry {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_of_pure_keras_do_not_import_tensorflow(path):
    if room(module_name(path)) in WITHOUT_TENSORFLOW:
        assert not [name for name in imports(path) if name.split(".")[0] == "tensorflow"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_does_not_import_flags_or_programs(path):
    assert not [name for name in imports(path) if name.split(".")[0] in ("absl", "experiments")]


def test_no_asserts_and_no_names_that_say_nothing():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), f"{path}: an assert"
        for word in ("utils", "helpers", "misc", "common", "manager"):
            assert word not in path.stem, f"{path}: a name that says nothing"


def test_the_import_loads_no_heavy_package_besides_tensorflow():
    heavy = {"tensorflow_datasets", "tensorboard", "matplotlib"}  # Keras itself imports matplotlib if it is installed
    program = "import sys, tensorflow, keras; before = set(sys.modules); import kd_keras; "
    program += f"print(sorted({heavy} & set(sys.modules) - before))"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert process.stdout.strip() == "[]", process.stderr
