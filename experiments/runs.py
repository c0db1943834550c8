"""A run's directory: what was asked, what happened, what came of it.

    flags.txt        a flagfile that repeats the run
    metrics.csv      every epoch's metrics
    tensorboard/     the same as events
    checkpoint/      what an interrupted run goes on from
    model.keras      the trained network alone
    best.keras       the same as it was at its best on the test images
    nonfinite_*.npz  a batch at which loss or gradients were not finite
    result.json      the outcome, the data, the seed and the software; a run without it is not complete
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from absl import flags

import kd_keras
from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically

PACKAGES = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
NOT_RECORDED = ("overwrite", "run", "flagfile", "worker_timeout")


class Run:
    """One run's directory, new or to be gone on with.

    Attributes:
        complete: whether it has its result already.

    Raises:
        ValueError: where the directory holds something else, or a run with other flags, and nothing allows to
            overwrite it.
    """

    def __init__(self, directory: str, overwrite: bool = False):
        self.path = Path(directory)
        flagfile = self.path / "flags.txt"
        if overwrite and flagfile.exists():
            shutil.rmtree(self.path)
        if flagfile.exists():
            self._check_same(flagfile.read_text().splitlines())
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(explain_mismatch("--run= a new directory or a run", f"{self.path}, which holds something else"))
        self.complete = (self.path / "result.json").exists()

    def _check_same(self, before: list[str]) -> None:
        known = {line.split("=")[0] for line in before}
        # A flag that there was not yet when the run began, and that is at its default now, changes nothing.
        asked = [line for name, lines in recorded_flags().items() for line in lines
                 if {f"--{name}", f"--no{name}"} & known or flags.FLAGS[name].value != flags.FLAGS[name].default]
        if asked != before:
            changed = [f"{line} (before)" for line in before if before.count(line) != asked.count(line)]
            changed += [f"{line} (now)" for line in asked if before.count(line) != asked.count(line)]
            changed = changed or ["the same in another order"]
            remedy = "name another --run, or --overwrite to delete it"
            raise ValueError(explain_mismatch(f"the flags that {self.path} was run with", ", ".join(changed), remedy))

    def begin(self) -> None:
        """Writes down the flags; not before everything that they name was found, so that a slip leaves no run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "flags.txt", "\n".join(sum(recorded_flags().values(), [])) + "\n")

    def callbacks(self, start_epoch: int) -> list[keras.callbacks.Callback]:
        """What writes the metrics, going on after `start_epoch` epochs."""
        metrics = self.path / "metrics.csv"
        if metrics.exists():  # an epoch that was logged but not saved is run again
            lines = metrics.read_text().splitlines()
            write_text(metrics, "\n".join(lines[: start_epoch + 1]) + "\n")
        return [
            keras.callbacks.CSVLogger(str(metrics), append=start_epoch > 0),
            keras.callbacks.TensorBoard(str(self.path / "tensorboard"), write_graph=False),
        ]

    def metrics(self) -> dict[str, Any]:
        """The metrics of the last epoch, and the best accuracy on the test set, from the whole run's record."""
        with open(self.path / "metrics.csv", newline="") as lines:
            rows = list(csv.DictReader(lines))
        rows = [{name: float(value) for name, value in row.items() if value != "NA"} for row in rows]
        return {"last": rows[-1], "best_val_accuracy": max((row.get("val_accuracy", 0.0) for row in rows))}

    def finish(self, model: keras.Model, result: dict[str, Any], best: Callable[[], Any]) -> None:
        """Saves the network as it is, then as `best` makes it again, and the result; the run is then complete."""
        write_atomically(self.path / "model.keras", model.save)
        if "val_accuracy" in result["last"]:
            best()
            write_atomically(self.path / "best.keras", model.save)
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        versions |= {"python": platform.python_version(), "kd_keras": kd_keras.__version__}
        write_text(self.path / "result.json", json.dumps({**result, "versions": versions}, indent=1))
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it there."""
    write_atomically(path, lambda name: Path(name).write_text(text))


def recorded_flags() -> dict[str, list[str]]:
    """The flags of the program and of this package, the defaults too, by name the lines of a flagfile."""
    found = {}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if "experiments" in module or "__main__" in module or module.endswith(".py"):
            found |= {f.name: f.serialize() for f in defined if f.value is not None and f.name not in NOT_RECORDED}
    return {name: [line for line in found[name].splitlines() if line] for name in sorted(found)}


def load_model(run: str) -> keras.Model:
    """The trained network of a run, or of a `.keras` file.

    Raises:
        ValueError: where there is none, or the file is damaged.
    """
    path = Path(run)
    path = path / "model.keras" if path.is_dir() else path
    if not path.exists():
        raise ValueError(explain_mismatch("a finished run or a .keras file", str(run), "train it first"))
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(explain_mismatch(f"a whole model file at {path}", f"{type(error).__name__}: {error}")) from error


def load_result(run: str) -> dict[str, Any]:
    """What a run recorded of itself, named by its directory or its model; empty for a bare `.keras` file."""
    path = (Path(run) if Path(run).is_dir() else Path(run).parent) / "result.json"
    return json.loads(path.read_text()) if path.exists() else {}


def saved_flags(run: str) -> dict[str, str]:
    """What a run's flagfile says, by the flag's name; of one that is repeated, all values; empty for a bare file."""
    path = (Path(run) if Path(run).is_dir() else Path(run).parent) / "flags.txt"
    found: dict[str, str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.removeprefix("--").partition("=")
        found[name] = f"{found[name]} {value}" if name in found else value
    return found
