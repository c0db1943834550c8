"""What every test starts with: four logical CPUs (to be made before TensorFlow runs), a seed, and the data."""

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import pytest
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)

# A trace makes many objects that stay: by default Python would search all of TensorFlow for garbage again and again.
gc.freeze()
gc.set_threshold(100_000, 20, 20)

PREPARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)
    yield
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session(free_memory=False)  # collecting garbage after each test took a quarter of a second


@pytest.fixture
def prepared() -> str:
    """The folder of prepared datasets."""
    if not PREPARED.exists():
        pytest.skip("no prepared datasets beside the project")
    return str(PREPARED)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The flag of a folder in which the digits are prepared once."""
    return f"--data_dir={tmp_path_factory.mktemp('datasets')}"
