"""A run's directory: its settings, its progress and its result.

flags.txt        a flagfile that repeats the run
inputs.json      what identifies the images and the teacher, whose names flags.txt has
metrics.csv      the metrics of every epoch
tensorboard/     the same metrics for TensorBoard
checkpoint/      the state from which an interrupted run resumes
model.keras      the trained network
best.keras       the network after its best epoch: with the highest accuracy or other `metric` on the test images
nonfinite_*.npz  a batch for which the loss or a gradient was not finite
.lock            the process that trains the run, while it does
result.json      the outcome, the data, the seed and the software; a run without it is not complete
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras

from kd_keras.distiller import Distiller
from kd_keras.files import write_atomically, write_text
from kd_keras.networks.weight_files import check_model_file
from kd_keras.runs.directory import check_place, empty_run
from kd_keras.runs.files import MetricsFile, read_lines, read_metrics, read_result
from kd_keras.runs.settings import Settings, from_lines, given_objects
from kd_keras.version import __version__

NETWORKS = ("model.keras", "best.keras")  # what a complete run has, and an interrupted one may have
PACKAGES = ("tensorflow", "keras", "tensorflow-datasets", "numpy")


class Run:
    """A run, opened for reading.

    Args:
        path: the run's directory.

    Attributes:
        path: the run's directory.

    Raises:
        ValueError: if the directory is not a run.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._settings: Settings | None = None
        self._is_new = self._overwrites = False
        if not self._flagfile.exists():
            raise ValueError(
                f"{self.path} is not a run, because it has no flags.txt. Train it first, or name another directory."
            )

    @classmethod
    def prepare(cls, path: str | os.PathLike, settings: Settings, overwrite: bool = False) -> Run:
        """Prepares a run that is new or will be resumed; nothing is written before `begin`.

        Args:
            path: a new or empty directory, or a run with the same settings.
            settings: the settings of the run.
            overwrite: whether to delete a run that already exists, when `delete_earlier` is called.

        Raises:
            ValueError: if the directory contains something other than a run, or a run with other settings, or if a run
                to overwrite has another run in its directory.
        """
        run = cls.__new__(cls)
        run.path, run._settings, run._is_new, run._overwrites = Path(path), settings, False, overwrite
        check_place(run.path, overwrite)
        if run._flagfile.exists() and not overwrite:
            run._check_settings(settings)
        return run

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    # ---- reading

    @property
    def _flagfile(self) -> Path:
        return self.path / "flags.txt"

    @property
    def is_complete(self) -> bool:
        """Whether the run has its result."""
        return (self.path / "result.json").exists() and not self._overwrites

    @property
    def result(self) -> dict[str, Any]:
        """The result: `task`, `metric`, `best_val_<metric>`, `last` metrics, `seconds`, `seed`, `parameters`, ...

        The metric is the one that decides which epoch is the best: "accuracy" for classification.

        Raises:
            ValueError: if the run is not complete, or its result.json is damaged.
        """
        if not (self.path / "result.json").exists():
            raise ValueError(
                f"Run {self.path} is not complete: it has no result.json. Resume it with the same command."
            )
        return read_result(self.path / "result.json")

    def check_result(self) -> None:
        """Raises a ValueError if the run is not complete or its result.json is damaged."""
        _ = self.result

    @property
    def settings(self) -> dict[str, str | list[str]]:
        """The lines of flags.txt by flag name: texts, "true" or "false" for a boolean, a list for a repeated flag."""
        return from_lines(read_lines(self._flagfile))

    @property
    def given_objects(self) -> dict[str, list[str]]:
        """The settings that were Python objects, which flags.txt cannot repeat, with their descriptions."""
        return given_objects(read_lines(self._flagfile))

    @property
    def history(self) -> dict[str, list[float]]:
        """The metrics of every epoch by name; NaN for a metric that an epoch does not have.

        Raises:
            ValueError: if metrics.csv is damaged.
        """
        file = self.path / "metrics.csv"
        return read_metrics(file) if file.exists() else {}

    def model(self) -> keras.Model:
        """The trained network.

        Raises:
            ValueError: if the run is not complete, or the file is damaged.
        """
        return load_network(self.path)

    def best_model(self) -> keras.Model:
        """The network after the epoch with the highest `result["metric"]` on the test images.

        Raises:
            ValueError: if the run is not complete or had no test images, or the file is damaged.
        """
        return load_network(self.path / "best.keras")

    # ---- writing

    def _check_settings(self, settings: Settings) -> None:
        changed = settings.differences(read_lines(self._flagfile))
        if changed:
            raise ValueError(
                f"Run {self.path} has other settings: {', '.join(changed)}. Choose another directory, or delete"
                " this run with overwrite=True (in the shell --overwrite)."
            )

    def delete_earlier(self) -> None:
        """Deletes the run that is to be overwritten; called after everything that the new one needs has been built."""
        if self._overwrites and self._flagfile.exists():
            empty_run(self.path)
        self._overwrites = False

    def begin(self) -> None:
        """Creates the directory and records the settings; called after everything that they name has been loaded.

        Raises:
            ValueError: if the run is opened for reading only.
        """
        if self._settings is None:
            raise ValueError(f"Run {self.path} is opened for reading only. Use Run.prepare to start or resume it.")
        self.path.mkdir(parents=True, exist_ok=True)
        self._is_new = self._is_new or not self._flagfile.exists()
        write_text(self._flagfile, "\n".join(self._settings.lines()) + "\n")

    def withdraw(self) -> None:
        """Removes what `begin` and `loggers` wrote if this object created the run; called if its first step fails."""
        if self._is_new:
            empty_run(self.path)

    def loggers(self, start_epoch: int, columns: Sequence[str] = ()) -> list[keras.callbacks.Callback]:
        """The callbacks that write the metrics.

        Args:
            start_epoch: the number of epochs after which the run starts or resumes.
            columns: names of metrics that a callback adds to the logs of some epochs only; metrics.csv has a column for
                each of them from the first epoch.
        """
        metrics = self.path / "metrics.csv"
        if metrics.exists():  # an epoch that was logged but not saved is trained again
            lines = metrics.read_text().splitlines()
            write_text(metrics, "\n".join(lines[: start_epoch + 1]) + "\n")
        return [
            MetricsFile(metrics, columns, append=start_epoch > 0),
            keras.callbacks.TensorBoard(str(self.path / "tensorboard"), write_graph=False),
        ]

    def final_metrics(self, metric: str = "accuracy") -> dict[str, Any]:
        """The metrics of the last epoch, and the highest value of a metric on the test images over all epochs."""
        history = self.history
        last = {name: values[-1] for name, values in history.items() if values[-1] == values[-1]}
        best = max((value for value in history.get(f"val_{metric}", ()) if value == value), default=0.0)
        return {"metric": metric, "last": last, f"best_val_{metric}": best}

    def finish(self, model: keras.Model, result: dict[str, Any], restore_best: Callable[[], object]) -> None:
        """Saves the last network, the best network and the result; the run is then complete.

        Args:
            model: the trained network; it has its last weights afterwards, too.
            result: as the attribute `result`; the versions of the software are added.
            restore_best: restores the best weights into `model`; called only if there were tests.
        """
        write_atomically(self.path / "model.keras", model.save)
        if f"val_{result['metric']}" in result["last"]:
            last = model.get_weights()
            restore_best()
            write_atomically(self.path / "best.keras", model.save)
            model.set_weights(last)  # the user may have passed the model
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        versions |= {"python": platform.python_version(), "kd_keras": __version__}
        write_text(self.path / "result.json", json.dumps({**result, "versions": versions}, indent=1))
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)


Trained: TypeAlias = Run | str | os.PathLike | keras.Model  # a run, its path, the path of a `.keras` file, or a model


def find_run(source: Trained) -> Run | None:
    """Finds the run that a network belongs to, if any.

    Args:
        source: a `Run`, the path of a run's directory or of a file in it; anything else belongs to no run.
    """
    if isinstance(source, Run):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source) if Path(source).is_dir() else Path(source).parent
    return Run(path) if (path / "flags.txt").exists() else None


def recorded_data(source: Trained) -> dict[str, Any]:
    """The data that the run of a network recorded (`data` in its result); empty if it belongs to no complete run."""
    run = find_run(source)
    return run.result.get("data", {}) if run is not None and run.is_complete else {}


def advise_on_path(path: Path) -> str:
    """What to do about a path that does not exist: the closest names in its directory, if there are any.

    >>> advise_on_path(Path("no_such_directory/run"))
    'Train it first.'
    """
    path = path.parent if path.name == "model.keras" else path
    names = [neighbor.name for neighbor in path.parent.iterdir()] if path.parent.is_dir() else []
    close = [str(path.parent / name) for name in difflib.get_close_matches(path.name, names, n=3) if name != path.name]
    return f"Did you mean {' or '.join(close)}? Otherwise train it first." if close else "Train it first."


def load_network(source: Trained) -> keras.Model:
    """Loads a trained network.

    Args:
        source: a `Run`, the path of a run or of a `.keras` file, or the network itself; of a Distiller, its student.

    Raises:
        ValueError: if the file does not exist or is damaged, or it is of a run that is not complete.
    """
    if isinstance(source, keras.Model):
        return source.student if isinstance(source, Distiller) else source
    run = find_run(source)
    path = source.path if isinstance(source, Run) else Path(source)
    path = path / "model.keras" if path.is_dir() else path
    if run is not None and path.name in NETWORKS:
        run.check_result()  # the result has the class names and the task, without which the network is ambiguous
    if not path.exists():
        raise ValueError(f"Expected a complete run or a .keras file, but {path} does not exist. {advise_on_path(path)}")
    if path.is_file():
        check_model_file(path)
    try:
        return load_network(keras.saving.load_model(path, compile=False))
    except Exception as error:  # the type depends on what is damaged
        raise ValueError(
            f"{path} is damaged or not a model file. Keras reports {type(error).__name__}: {error}"
        ) from error
