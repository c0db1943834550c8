"""What `import kd_keras` gives: functions and rooms, of which `export` is both."""

import subprocess
import sys

import pytest

import kd_keras
from tests.support.programs import ROOT

ORDERS = (
    "import kd_keras; from kd_keras.export import saved_model",
    "from kd_keras.export import saved_model; import kd_keras",
    "import kd_keras.export.formats; from kd_keras.export import saved_model; import kd_keras",
    "from kd_keras import export; from kd_keras.export import saved_model; import kd_keras",
)


@pytest.mark.parametrize(
    "name", ["train", "distill", "record", "evaluate", "compare", "export", "frozen", "predict", "embed"]
)
def test_the_functions(name):
    assert callable(vars(kd_keras)[name]) and name in kd_keras.__all__


def test_the_rooms():
    for name in ("methods", "models", "data", "distribute", "evaluation", "recording", "callbacks"):
        assert vars(kd_keras)[name].__name__.startswith("kd_keras.") and name in kd_keras.__all__


def test_export_is_a_function_and_a_room_in_every_order_of_imports():
    program = "import importlib, sys\n"
    program += "def forget():\n    for name in [n for n in sys.modules if n.split('.')[0] == 'kd_keras']:\n"
    program += "        del sys.modules[name]\n"
    # Each order in a fresh package, in one process: TensorFlow is imported once. Keras refuses no second registration.
    for order in ORDERS:
        program += f"{order}\nassert callable(kd_keras.export) and callable(saved_model), {order!r}\nforget()\n"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr[-2000:]
