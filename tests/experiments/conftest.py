"""A trained teacher that the tests of programs share."""

import pytest

from tests.support.programs import SMALL, program


@pytest.fixture(scope="package")
def teacher(tmp_path_factory, data_dir):
    """A run of `experiments.train`; copy it to change it."""
    run = tmp_path_factory.mktemp("runs") / "teacher"
    program("train", "--model=mlp(hidden=(16,))", *SMALL, data_dir, f"--run={run}")
    return run
