"""The choice of a student: which networks fit a device, and which of them learns best from a teacher.

Successive halving: Jamieson and Talwalkar 2016, *Non-stochastic Best Arm Identification*, 1502.07943.

    python -m experiments.scheme --scheme=choose --teacher=runs/resnet56 --max_kilobytes=500 --max_milliseconds=5 \\
        --candidate=resnet8 --candidate=resnet14 --candidate="mobilenet_v2(width=0.5)" --candidate=shufflenet_v2 \\
        --form=litert_float16 --data=cifar10 --train_split="train[:45000]" --test_split="train[45000:]" \\
        --views=8 --epochs=54 --flip --crop=4 --run=runs/choice
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kd_keras.contracts import as_batch
from kd_keras.errors import check_choice, check_number, check_whole_number
from kd_keras.export import Export, litert
from kd_keras.export.verification import Tolerance
from kd_keras.files import write_json
from kd_keras.methods import Method
from kd_keras.runs import distill, record
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.run import Run, Trained
from kd_keras.runs.students import build_network, names_model
from kd_keras.schemes.outcome import Outcome, as_texts, refuse, require_classification, run_path

LOGGER = logging.getLogger("kd_keras")
FORMS = {"litert": "float32", "litert_float16": "float16", "litert_int8": "int8"}
OF_TEACHER = ("teacher_weights", "teacher_precision", "teacher_range", "combine")


@dataclass(frozen=True)
class Choice(Outcome):
    """The complete runs of a choice.

    Attributes:
        runs: those of the last rung, the best one last.
        measured: of every candidate the `kilobytes` and `milliseconds` of its export.
        accuracies: by candidate, the accuracy after its last rung.
    """

    measured: Mapping[str, Mapping[str, float]]
    accuracies: Mapping[str, float]

    def lines(self) -> list[str]:
        """A line for each candidate, the most accurate first; those on the front are marked by a star."""
        front = pareto_front({name: self._point(name) for name in self.accuracies})
        lines = []
        for name in sorted(self.measured, key=lambda name: -self.accuracies.get(name, -1.0)):
            row = self.measured[name]
            tested = f"accuracy {self.accuracies[name]:.4f}" if name in self.accuracies else "does not fit"
            size = f"{row['kilobytes']:,.1f} kB, {row['milliseconds']:.3f} ms"
            lines.append(f"{'*' if name in front else ' '} {name}: {tested}, {size}")
        return [*lines, f"Chosen: {super().lines()[-1]}"]

    def _point(self, name: str) -> tuple[float, float, float]:
        row = self.measured[name]
        return self.accuracies[name], -row["kilobytes"], -row["milliseconds"]


def pareto_front(points: Mapping[str, tuple[float, ...]]) -> list[str]:
    """The names of the points that no other one exceeds in one coordinate without being lower in another.

    >>> pareto_front({"a": (0.9, -5.0), "b": (0.8, -1.0), "c": (0.8, -2.0)})
    ['a', 'b']
    """
    values = points.values()
    return [
        name
        for name, point in points.items()
        if not any(other != point and all(b >= a for a, b in zip(point, other, strict=True)) for other in values)
    ]


def plan_rungs(candidates: int, epochs: int) -> list[tuple[int, int]]:
    """How many candidates each rung trains, and for how many epochs: a third of them for three times as many.

    >>> plan_rungs(12, epochs=54)
    [(12, 6), (4, 18), (2, 54)]
    """
    counts = [candidates]
    while counts[-1] > 2:
        counts.append(-(-counts[-1] // 3))
    return [(count, max(1, epochs // 3 ** (len(counts) - 1 - rung))) for rung, count in enumerate(counts)]


def choose(
    *,
    teacher: Trained,
    candidates: Sequence[str],
    max_kilobytes: float | None = None,
    max_milliseconds: float | None = None,
    form: str = "litert",
    methods: Sequence[str | Method] = ("kd",),
    views: int | None = None,
    epochs: int = 27,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Choice:
    """Chooses the student that learns best from a teacher among those whose export is small and fast enough.

    Every candidate is built with new weights, exported, and measured on this machine with the runtime of its export.
    The measurements are kept in `<run>/candidates.json`, so that a resumed choice has the same ones. Those that fit are
    distilled from the recorded outputs of the teacher, by successive halving: `plan_rungs` says how many of them each
    rung trains, from the beginning, and for how many epochs. The accuracy on the test images decides, so that these
    should be a part of the training images, such as `test_split="train[45000:]"`. The runs are in
    `<run>/rung<r>/<number>-<model>`; the same call resumes an interrupted choice.

    Args:
        teacher: as for `distill`.
        candidates: models of the zoo, also with options: "mobilenet_v2(width=0.5)".
        max_kilobytes: the largest size of an export, in 1000 bytes; any by default.
        max_milliseconds: the longest median time for one image on this machine; any by default.
        form: "litert", "litert_float16" or "litert_int8".
        methods: the methods, as for `distill`.
        views: the number of recorded views of every image, 4 by default.
        epochs: the epochs of the last rung.
        data: labeled images, as `Recipe` describes.
        run: the directory of the choice.
        **options: the other options of `distill`, without `overwrite`.

    Returns:
        The choice; `student` is its best run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid, no candidate fits, or a directory contains a run of another request.

    >>> import tempfile
    >>> from kd_keras.runs import train
    >>> place = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": place, "test_every": 2, "epochs": 2}
    >>> teacher = train(model="mlp(hidden=(16,))", **tiny, run=f"{place}/teacher")
    >>> names = ["mlp(hidden=(4,))", "mlp(hidden=(2000,))"]
    >>> choice = choose(teacher=teacher, candidates=names, max_kilobytes=100, views=1, **tiny, run=f"{place}/choice")
    >>> choice.student.settings["student"]
    'mlp(hidden=(4,))'
    """
    if options.pop("overwrite", False):
        raise ValueError("A choice is not overwritten as a whole. Choose another directory, or delete it.")
    refuse("choose", options, ("recording", "weights"), "every rung trains new networks from its own recording")
    for limit, value in (("max_kilobytes", max_kilobytes), ("max_milliseconds", max_milliseconds)):
        if value is not None:
            check_number("choose", limit, value, above=0)
    check_choice("choose", "form", form, tuple(FORMS))
    views = 4 if views is None else check_whole_number("choose", "views", views)
    texts, names = as_texts(methods), _check_candidates(candidates)
    of_recipe = {key: value for key, value in options.items() if key not in ("hard_weight", *OF_TEACHER)}
    images = load_images(make_recipe(data=data, epochs=epochs, **of_recipe))
    require_classification("choose", images.task)
    if images.test is None or images.train.classes is None:
        raise ValueError(
            "A choice needs labeled images to train and to test on. Pass data= and test_data= with labels."
        )
    measured = _measure_all(Path(run) / "candidates.json", names, form, images)
    fitting = _find_fitting(measured, {"kilobytes": max_kilobytes, "milliseconds": max_milliseconds})
    recording = Path(run) / "recording"
    of_record = {key: value for key, value in options.items() if key != "hard_weight"}
    record(teacher=teacher, data=data, output=recording, methods=texts, views=views, **of_record)
    of_students = {key: value for key, value in options.items() if key not in OF_TEACHER}
    shared = {"recording": recording, "methods": texts, "data": data, "views": views, **of_students}
    runs, accuracies = _halve(Path(run), names, fitting, plan_rungs(len(fitting), epochs), shared)
    return Choice(tuple(runs), measured, accuracies)


def _find_fitting(measured: Mapping[str, Mapping[str, float]], limits: Mapping[str, float | None]) -> list[str]:
    """The candidates within all limits."""
    given = {name: limit for name, limit in limits.items() if limit is not None}
    fitting = [name for name, row in measured.items() if all(row[key] <= limit for key, limit in given.items())]
    if not fitting:
        lowest = {key: round(min(row[key] for row in measured.values()), 3) for key in given}
        raise ValueError(
            f"Expected a candidate within the limits {given}, but the lowest values of all candidates are {lowest}. "
            "Raise the limits, or add candidates."
        )
    return fitting


def _check_candidates(candidates: Sequence[str]) -> list[str]:
    if isinstance(candidates, str) or not all(isinstance(name, str) and names_model(name) for name in candidates):
        raise ValueError(f"The candidates must be a list of models of the zoo, but received {candidates!r}.")
    if not candidates or len(set(candidates)) < len(candidates):
        raise ValueError(f"Expected one or more different candidates, but received {list(candidates)}.")
    return list(candidates)


def _measure_all(file: Path, names: Sequence[str], form: str, images: Images) -> dict[str, dict[str, float]]:
    """The measurements of all candidates; those of an earlier call with the same form and image size are kept."""
    known = json.loads(file.read_text()) if file.exists() else {}
    about = {"form": form, "image_shape": list(images.shape)}
    if known and known["about"] != about:
        raise ValueError(f"{file} has measurements of {known['about']}, not of {about}. Choose another directory.")
    rows: dict[str, dict[str, float]] = dict(known.get("candidates", {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name not in rows:
            keras.utils.set_random_seed(0)
            network = build_network(name, images, images.train.classes or 0)
            export = _export(network, form, images, file.parent / "measured.tflite")
            rows[name] = {"kilobytes": export.bytes / 1000, "milliseconds": export.milliseconds}
            LOGGER.info("%s: %.1f kB, %.3f ms.", name, rows[name]["kilobytes"], rows[name]["milliseconds"])
            write_json(file, {"about": about, "candidates": rows})
    (file.parent / "measured.tflite").unlink(missing_ok=True)
    return {name: dict(rows[name]) for name in names}


def _export(network: keras.Model, form: str, images: Images, path: Path) -> Export:
    sample = np.round(np.asarray(as_batch(next(iter(images.test_batches()))).inputs)[:32]).astype("uint8")
    representative = sample if form == "litert_int8" else None
    return litert(
        network, path, precision=FORMS[form], image_shape=images.shape, sample=sample, representative=representative,
        tolerance=Tolerance(),
    )  # fmt: skip


def _halve(
    directory: Path, names: Sequence[str], fitting: list[str], rungs: list[tuple[int, int]], shared: Mapping[str, Any]
) -> tuple[list[Run], dict[str, float]]:
    """Trains the rungs; returns the runs of the last one, the best one last, and the accuracies of all candidates."""
    total = sum(count * epochs for count, epochs in rungs)
    LOGGER.info("%d candidates fit; rungs of (candidates, epochs) %s, %d epochs in all.", len(fitting), rungs, total)
    accuracies: dict[str, float] = {}
    runs: dict[str, Run] = {}
    for rung, (count, epochs) in enumerate(rungs):
        fitting = sorted(fitting, key=lambda name: -accuracies.get(name, 0.0))[:count]
        runs = {}
        for name in fitting:
            path = run_path(directory / f"rung{rung}", names.index(name), name)
            runs[name] = distill(student=name, epochs=epochs, run=path, **shared)
            accuracies[name] = float(runs[name].result["last"]["val_accuracy"])
    return [runs[name] for name in sorted(runs, key=lambda name: accuracies[name])], accuracies
