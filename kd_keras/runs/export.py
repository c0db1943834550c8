"""Exports a trained network in formats that take raw images, verified on its test images: `kd_keras.export`."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.data import Source
from kd_keras.data.selection import take_evenly
from kd_keras.errors import check_number, check_whole_number, suggest
from kd_keras.export.usage import reading_lines
from kd_keras.files import write_json
from kd_keras.networks.inputs import find_input_shape
from kd_keras.networks.quantized_layers import is_quantization_aware
from kd_keras.recording.identity import weights_digest
from kd_keras.runs.candidates import Network, check_has_head, name_networks, open_test_images, resolve_data
from kd_keras.runs.images import read_images
from kd_keras.runs.recipe import Data, Recipe, make_recipe
from kd_keras.runs.run import find_run, load_network, recorded_data
from kd_keras.runs.sources import open_source
from kd_keras.tasks import FORMATS, Task, TaskExport, find_task

LOGGER = logging.getLogger("kd_keras")
OPTIONS = (
    "data_dir", "task", "train_split", "test_split", "batch_size", "image_channels", "image_bits", "class_names",
    "ignored", "download_timeout",
)  # fmt: skip
TITLES = {"difference": "largest difference"}  # of columns of the table


@dataclass(frozen=True)
class _Exporter:
    """A network and the settings of all its exports.

    Args:
        task: what the labels are.
        model: the network.
        directory: the directory of the exports.
        images: test images `(N, H, W, C)` uint8.
        labels: `(N, ...)`, with classes in the order of the network's outputs, or `None`.
        class_names: the names of the network's classes, or `None`.
        calibration: returns the training images `(N, H, W, C)` uint8 that int8 needs.
    """

    task: Task
    model: keras.Model
    directory: Path
    images: np.ndarray
    labels: Any
    class_names: Sequence[str] | None
    calibration: Callable[[], np.ndarray]

    def write(self, name: str, tolerance: Mapping[str, float]) -> TaskExport:
        """Exports the network in one format."""
        file, precision = FORMATS[name]
        needs_ranges = precision == "int8" and not is_quantization_aware(self.model)
        return self.task.export(
            name,
            self.model,
            self.directory / file,
            sample=self.images,
            labels=self.labels,
            class_names=self.class_names,
            representative=self.calibration() if needs_ranges else None,
            tolerance=tolerance,
        )


def export(
    student: Network,
    formats: Sequence[str] = ("saved_model",),
    *,
    output: str | os.PathLike | None = None,
    data: Data | None = None,
    calibration: int = 200,
    tolerance: Mapping[str, float] | None = None,
    **options: Any,
) -> list[TaskExport]:
    """Exports a trained network and compares every export with it on the test images.

    Besides the exports, it writes `export.json` with the measurements, and keeps those of other formats of the same
    network and images that it finds there. The SavedModel of a classifier contains
    `check.npz`, the raw test images and the classes that the network predicts for them, so that any process can repeat
    the comparison.

    Args:
        student: a run, a path or a Keras model.
        formats: a list of "saved_model" (default), "litert", "litert_float16", "litert_int8" and "onnx".
        output: the directory of the exports; by default `export` in the directory of the run.
        data: test images, as `Recipe` describes them; by default those that the run was tested on.
        calibration: the largest number of training images from which "litert_int8" takes the ranges of the activations,
            200 by default, evenly spread over `train_split`.
        tolerance: replaces entries of the formats' tolerances: `difference`, `agreement` and `accuracy_drop`
            (`Tolerance`); of detectors `score`, `pixels`, `matched` and `ap_drop` (`BoxTolerance`); of segmentation
            `agreement`; of faces `lowest_cosine`.
        **options: `data_dir`, `task`, `train_split`, `test_split`, `image_channels`, `image_bits`, `class_names` and
            `ignored`, by default those of the run; `download_timeout` and `batch_size`.

    Returns:
        The exports in the order of `formats`.

    Raises:
        TypeError: if an option is unknown, or `formats` is not a list.
        ValueError: if there is no format or an unknown one, the images do not exist or have other classes than
            `class_names`, or an export is rejected; the other formats are exported nevertheless.

    >>> import tempfile
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    >>> network = keras.Sequential(layers, name="linear")
    >>> (exported,) = export(network, ["litert"], output=tempfile.mkdtemp(), data="digits")
    >>> exported.path.name, exported.agreement
    ('model.tflite', 1.0)
    """
    _check_request(formats, options)
    calibration = check_whole_number("export", "calibration", calibration)
    source_name = next(iter(name_networks(None, student)))
    settings = _settings(student, data, options)
    exporter, test = _prepare(student, settings, _output(student, output), calibration, options)
    limits = _check_tolerance(exporter.task, tolerance or {})
    LOGGER.info("%s test images of %s; exports are compared with %s.\n", f"{test.size:,}", test.name, source_name)
    exports, rejected = _write_all(exporter, list(dict.fromkeys(formats)), limits)
    score = _record(exporter, exports, rejected, {"model": source_name, "dataset": test.name})
    metric = exporter.task.metric
    missing = "The images have no labels." if exporter.labels is None else f"The {metric} of the source is not known."
    LOGGER.info("\n%s", missing if score is None else f"The source has {metric} {score:.4f}.")
    if exports:
        saved = exports.get("saved_model")
        lines = reading_lines(exporter.images.shape[1:], None if saved is None else str(saved.path))
        LOGGER.info(
            "\nThis code reads an image file of any size in the same way as the test images. TensorFlow's decoder "
            "ignores the orientation in EXIF and transparency: turn a photograph upright first.\n\n%s",
            lines,
        )
    if rejected:
        raise ValueError("\n".join(rejected.values()))
    return list(exports.values())


def _check_request(formats: Sequence[str], options: Mapping[str, Any]) -> None:
    if isinstance(formats, str):
        raise TypeError(f"formats must be a list, but received {formats!r}. Write formats=[{formats!r}].")
    if not formats:
        raise ValueError(f"formats must name at least one of {', '.join(FORMATS)}, but it is empty.")
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"{name!r} is not a format of an export: {suggest(name, FORMATS)}")
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"export takes the options {', '.join(OPTIONS)}, but received {', '.join(unknown)}.")


def _check_tolerance(task: Task, tolerance: Mapping[str, float]) -> dict[str, float]:
    for name in tolerance:
        if name not in task.export_tolerances:
            raise ValueError(f"{name!r} is not a tolerance of {task.name}: {suggest(name, task.export_tolerances)}")
    return {
        name: value if value == math.inf else check_number("tolerance", name, value)
        for name, value in tolerance.items()
    }


def _settings(student: Network, data: Data | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe that names the test images and, for int8, the training images."""
    run = find_run(student)
    resolved = resolve_data(data, student, options)
    resolved.pop("image_size", None)  # an export has the size of the network
    if run is not None and data is None and "train_split" in run.settings:
        resolved = {"train_split": run.settings["train_split"], **resolved}
    return make_recipe(**resolved)


def _output(student: Network, output: str | os.PathLike | None) -> Path:
    if output is not None:
        return Path(output)
    if isinstance(student, keras.Model):
        raise ValueError(f"The exports of the Keras model {student.name!r} need a directory. Pass output=.")
    path = Path(student)
    return (path if path.is_dir() else path.parent) / "export"


def _prepare(
    student: Network, settings: Recipe, directory: Path, calibration: int, options: Mapping[str, Any]
) -> tuple[_Exporter, Source]:
    model, recorded = load_network(student), recorded_data(student)
    check_has_head(model, str(getattr(student, "name", student)))
    task = find_task(settings.task, settings.data, settings.data_dir, settings.download_timeout)
    test, reading = open_test_images(settings, task, student, options)
    names = recorded.get("class_names")
    size = (find_input_shape(model) or (None, None, None))[1:3]
    if None in size:
        size = tuple(recorded.get("image_shape") or test.image_shape or ())[:2]
    images, labels = read_images(test, size, settings.batch_size)
    labels = task.order_labels(labels, names, test.class_names)

    def calibration_images() -> np.ndarray:
        data = _training_data(student, settings)
        train = open_source(data, settings.train_split, settings.data_dir, **reading)
        return read_images(take_evenly(train, calibration), size, settings.batch_size)[0]

    return _Exporter(task, model, directory, images, labels, names, calibration_images), test


def _training_data(student: Network, settings: Recipe) -> Data:
    """The dataset of a run's training images, which may differ from that of its test images."""
    run = find_run(student)
    return settings.data if run is None else run.settings.get("data", settings.data)


def _write_all(
    exporter: _Exporter, formats: Sequence[str], tolerance: Mapping[str, float]
) -> tuple[dict[str, TaskExport], dict[str, str]]:
    """The accepted exports by format, and the reasons for the rejected ones."""
    exports, rejected = {}, {}
    columns = exporter.task.export_columns
    titles = [TITLES.get(name, name.replace("_", " ")) for name in columns]
    head = ["format", "file", "kilobytes", *titles, "milliseconds", "p95"]
    LOGGER.info("| %s |\n|---|---|%s", " | ".join(head), "---:|" * (len(head) - 2))
    for name in formats:
        try:
            result = exports[name] = exporter.write(name, tolerance)
        except ValueError as error:
            rejected[name] = str(error)
            LOGGER.info("| %s | rejected |%s", name, " - |" * (len(head) - 2))
            continue
        values = [(getattr(result, column), form) for column, form in columns.items()]
        cells = ["-" if value is None else f"{value:{form}}" for value, form in values]
        cells = [f"{result.bytes / 1000:,.1f}", *cells, f"{result.milliseconds:.2f}", f"{result.p95:.2f}"]
        LOGGER.info("| %s | %s | %s |", name, result.path.name, " | ".join(cells))
    return exports, rejected


def _record(
    exporter: _Exporter, exports: Mapping[str, TaskExport], rejected: Mapping[str, str], about: dict[str, Any]
) -> float | None:
    """Writes `export.json`; returns the task's metric of the network."""
    directory, images, labels = exporter.directory, exporter.images, exporter.labels
    task = exporter.task
    try:
        score = task.score(exporter.model, images, labels)
    except ValueError as error:  # the exports are written, and were compared without it
        LOGGER.warning("The %s of the source is left out. %s", task.metric, error)
        score = None
    table = {**about, "weights": weights_digest(exporter.model), "images": len(images), f"source_{task.metric}": score}
    rows = {name: {**result._asdict(), "path": str(result.path)} for name, result in exports.items()}
    directory.mkdir(parents=True, exist_ok=True)
    earlier = _earlier_table(directory / "export.json", table)
    kept = {name: row for name, row in earlier.get("formats", {}).items() if name not in rejected}
    refused = {name: reason for name, reason in earlier.get("rejected", {}).items() if name not in exports}
    write_json(directory / "export.json", {**table, "formats": kept | rows, "rejected": refused | dict(rejected)})
    return score


def _earlier_table(file: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier call wrote about the same network and images; empty if it was another network, or is damaged."""
    try:
        earlier = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    same = isinstance(earlier, dict) and all(earlier.get(key) == table[key] for key in ("weights", "dataset", "images"))
    return earlier if same else {}
