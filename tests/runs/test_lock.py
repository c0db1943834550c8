"""The lock of a run's directory: who is refused, what is recovered, and two real programs at once."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from kd_keras.files import TEMPORARY, remove_abandoned, temporary_path
from kd_keras.runs.lock import LOCK, lock_directory
from tests.support.programs import ROOT


def test_a_second_lock_is_refused_and_names_the_process(tmp_path):
    with lock_directory(tmp_path / "run"):
        expected = f"is in use by process {os.getpid()} on .* since .* Wait until it ends, or choose another"
        with pytest.raises(ValueError, match=expected), lock_directory(tmp_path / "run"):
            pass
    with lock_directory(tmp_path / "run"):
        pass


def test_an_unused_directory_and_its_parents_are_removed_and_no_others(tmp_path):
    (tmp_path / "mine").mkdir()
    with lock_directory(tmp_path / "mine" / "runs" / "run"):
        assert (tmp_path / "mine" / "runs" / "run" / LOCK).exists()
    assert list((tmp_path / "mine").iterdir()) == []
    with lock_directory(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()


def test_a_directory_with_content_stays(tmp_path):
    with lock_directory(tmp_path / "run"):
        (tmp_path / "run" / "flags.txt").write_text("--epochs=3\n")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["flags.txt"]


HOLDER = """
import sys, time
from pathlib import Path
from kd_keras.runs.lock import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_recovered(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match=f"process {holder.pid} "), lock_directory(tmp_path / "run"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / "run" / LOCK).exists()
    with lock_directory(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_only_one_of_many_threads_has_the_lock(tmp_path):
    held, most, refused = [], [], []

    def try_often():
        for _ in range(200):
            try:
                with lock_directory(tmp_path / "parent" / "run"):
                    held.append(None)
                    most.append(len(held))
                    held.pop()
            except ValueError:
                refused.append(None)

    threads = [threading.Thread(target=try_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) + len(refused) == 800
    assert not list(tmp_path.rglob(LOCK))


def test_only_unfinished_files_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = temporary_path(tmp_path / "model.keras")
    abandoned = tmp_path / mine.name.replace(f"{TEMPORARY}{os.getpid()}-", f"{TEMPORARY}{dead.pid}-")
    elsewhere = tmp_path / re.sub(r"-[0-9a-f]{8}-", "-of-another-host-01234567-", abandoned.name)
    for path in (mine, abandoned, elsewhere):
        path.write_text("unfinished")
    remove_abandoned(tmp_path)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([mine, elsewhere])


@pytest.mark.slow
def test_two_programs_at_once_lose_nothing():
    """The short form of `python -m scripts.bench.two_programs --pairs 20`."""
    command = [sys.executable, "-m", "scripts.bench.two_programs", "--pairs=2", "--epochs=30"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert "2 pairs: nothing was lost." in ran.stdout
