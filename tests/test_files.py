"""Atomic writes: complete files, old files that survive a failure, and no temporary files left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_keras import files
from kd_keras.files import TEMPORARY, write_atomically, write_json, write_text


def test_the_file_is_complete_when_it_gets_its_name(tmp_path):
    path, names = tmp_path / "model.keras", []

    def write(name):
        names.append(Path(name))
        names[0].write_bytes(b"new")
        assert not path.exists()

    write_atomically(path, write)
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]
    assert names[0].parent == tmp_path and names[0].suffix == ".keras" and names[0].name.startswith(TEMPORARY)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no shape")])
def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path, error):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail(name):
        Path(name).write_text("new and hal")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_is_written_is_the_error_that_the_caller_sees(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file.txt", lambda name: 1 / 0)
    assert not list(tmp_path.iterdir())


def test_a_half_written_directory_is_removed_too(tmp_path):
    def fail(name):
        Path(name).mkdir()
        (Path(name) / "part").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "saved_model", fail)
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "file.txt", "text")


def test_temporary_names_differ_between_calls_and_name_the_process(tmp_path):
    names = []
    for _ in range(2):
        write_atomically(tmp_path / "a.txt", lambda name: (names.append(name), Path(name).touch()))
    assert names[0] != names[1]
    assert all(Path(name).name.startswith(f"{TEMPORARY}{os.getpid()}-") for name in names)


WRITER = """
import runpy, sys
write_text = runpy.run_path(sys.argv[1])["write_text"]  # without the package, which takes seconds to import
for _ in range(40):
    write_text(sys.argv[2], sys.argv[3] * 100_000)
"""


def test_processes_that_write_the_same_file_never_mix_their_contents(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "a" * 100_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, files.__file__, path, letter]) for letter in "bc"]
    while any(writer.poll() is None for writer in writers):
        content = path.read_text()
        assert len(content) == 100_000 and len(set(content)) == 1
    assert [writer.returncode for writer in writers] == [0, 0] and list(tmp_path.iterdir()) == [path]


def test_text_is_utf_8_whatever_the_locale_and_keeps_its_line_ends(tmp_path):
    write_text(tmp_path / "a.html", "κ = 3\r\nend\n")
    assert (tmp_path / "a.html").read_bytes() == b"\xce\xba = 3\r\nend\n"


def test_json_is_read_back_and_a_value_without_a_form_in_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    value = {"shape": [1, 2], "name": "κ", "loss": 0.1, "none": None}
    write_json(path, value)
    assert json.loads(path.read_text()) == value and path.read_text().endswith("}\n")
    with pytest.raises(TypeError):
        write_json(path, {"shape": {1, 2}})
    assert json.loads(path.read_text()) == value and list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    write_text(tmp_path / "table.csv", os.fsdecode(b"caf\xe9.png,cat\n"))
    assert (tmp_path / "table.csv").read_bytes() == b"caf\xe9.png,cat\n"
