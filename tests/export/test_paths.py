"""The paths of exports: a directory that is replaced is not lost, whenever the process is interrupted."""

import os
import signal
import subprocess
import sys

import pytest

from kd_keras.export.paths import replace, staging_path

KILLED = """
import os, pathlib, signal, sys
from kd_keras.export.paths import replace, staging_path

rename = pathlib.Path.rename

def rename_and_die(self, target):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)

pathlib.Path.rename = rename_and_die
path = pathlib.Path(sys.argv[1])
with staging_path(path) as staging:
    staging.mkdir()
    (staging / "saved_model.pb").write_text("new")
    replace(staging, path)
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "saved_model.pb").write_text("old")
    return path


def content(path):
    return {file.name: (file / "saved_model.pb").read_text() for file in path.parent.iterdir()}


def write(path):
    with staging_path(path) as staging:
        staging.mkdir()
        (staging / "saved_model.pb").write_text("new")
        replace(staging, path)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_a_saved_model_survives_a_kill_while_it_is_replaced(is_accepted, path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL and not path.exists()
    if is_accepted:
        write(path)
    else:
        with pytest.raises(ValueError, match="rejected"), staging_path(path):
            raise ValueError("rejected")
    assert content(path) == {"saved_model": "new" if is_accepted else "old"}


def test_a_saved_model_survives_an_error_while_it_is_replaced(path):
    with pytest.raises(FileNotFoundError), staging_path(path) as staging:
        replace(staging, path)  # nothing has been written
    assert content(path) == {"saved_model": "old"}


def test_a_copy_that_could_not_be_deleted_does_not_hinder_the_next_export(path):
    """As after a kill between the second rename and the deletion."""
    left = path.with_name(".earlier-saved_model")
    left.mkdir()
    (left / "saved_model.pb").write_text("older")
    write(path)
    assert content(path) == {"saved_model": "new"}
