"""The choice of a student: which networks fit a device, and which of them learns best from a teacher.

    python -m experiments.choose --teacher=runs/resnet56 --max_kilobytes=500 --max_milliseconds=5 \\
        --candidate=resnet8 --candidate="resnet20(resolution=24)" --candidate="mobilenet_v2(width=0.5)" \\
        --form=litert_float16 --data=cifar10 --train_split="train[:45000]" --test_split="train[45000:]" \\
        --views=8 --epochs=54 --flip --crop=4 --run=runs/choice
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_keras.errors import check_choice, check_number, check_whole_number
from kd_keras.files import write_text
from kd_keras.methods import Method
from kd_keras.report.choice import Point, as_csv, in_order, markdown, plot
from kd_keras.runs import record, train
from kd_keras.runs.evaluate import OPTIONS, evaluate
from kd_keras.runs.images import Images, load_images
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.run import Run, Trained, load_network
from kd_keras.schemes.halving import Entry, accuracy, halve, plan_rungs
from kd_keras.schemes.outcome import Outcome, as_texts, refuse, require_classification
from kd_keras.schemes.sizes import (
    CANDIDATES,
    FORMS,
    Size,
    check_candidates,
    find_fitting,
    measure,
    read_latencies,
)

LOGGER = logging.getLogger("kd_keras")
OF_TEACHER = ("teacher_weights", "teacher_precision", "teacher_range", "combine")


@dataclass(frozen=True)
class Choice(Outcome):
    """The complete runs of a choice.

    Attributes:
        runs: those of the last rung, the best one last.
        baseline: the best network, trained as long without a teacher.
        points: the teacher, the baseline and every candidate, with size, time and accuracy.
        limits: those of size and time.
        budget: the number of epochs of all trainings together.
    """

    baseline: Run
    points: tuple[Point, ...]
    limits: Mapping[str, float]
    budget: int

    def lines(self) -> list[str]:
        """The table of all networks, the budget, and the chosen run."""
        return [*markdown(self.points).splitlines(), f"{self.budget} epochs in all.", f"Chosen: {super().lines()[-1]}"]

    def save(self, directory: str | os.PathLike) -> None:
        """Writes choice.md, choice.csv and choice.png into a directory."""
        directory = Path(directory)
        write_text(directory / "choice.md", markdown(self.points) + "\n")
        write_text(directory / "choice.csv", as_csv(self.points))
        plot(self.points, self.limits, directory / "choice.png")


def choose(
    *,
    teacher: Trained,
    candidates: Sequence[str] = CANDIDATES,
    max_kilobytes: float | None = None,
    max_milliseconds: float | None = None,
    form: str = "litert",
    latencies: str | os.PathLike | None = None,
    methods: Sequence[str | Method] = ("kd",),
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
    views: int | None = None,
    epochs: int = 27,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Choice:
    """Chooses the student that learns best from a teacher among those whose export is small and fast enough.

    Every candidate is built with new weights, exported, and measured on this machine with the runtime of its export;
    `measure_candidates` is that part alone. Those that fit are distilled from the recorded outputs of the teacher, by
    successive halving: a third of them go on with three times as many epochs (`kd_keras/schemes/halving.py`). The
    accuracy on the test images decides, so that these should be a part of the training images, such as
    `test_split="train[45000:]"`. The best network is then trained as long without the teacher, for comparison.

    The runs are in `<run>/rung<r>/<number>-<model>` and `<run>/baseline`, the table and the figure in `choice.md`,
    `choice.csv` and `choice.png`; the same call resumes an interrupted choice.

    Args:
        teacher: as for `distill`. It is in the figure if it is a run, a `.keras` file or a Keras model.
        candidates: models of the zoo, also with options: "mobilenet_v2(width=0.5)", "resnet8(resolution=24)".
        max_kilobytes: the largest size of an export, in 1000 bytes; any by default.
        max_milliseconds: the longest median time for one image; any by default.
        form: "litert", "litert_float16" or "litert_int8".
        latencies: a CSV file with the times on another device, which replace those of this machine:
            `scripts/measure_on_device.sh` makes it.
        methods: the methods, as for `distill`.
        recipes: instead of `methods` and `hard_weight`, several of them by name, each with every candidate:
            `{"kd": {"methods": ["kd"], "hard_weight": 0.1}, "dkd": {"methods": ["dkd"]}}`.
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
    refuse("choose", options, ("recording", "weights", "quantize"), "every rung trains new networks from one recording")
    if teacher is None:
        raise ValueError("Expected a teacher to learn from, but received none. Pass teacher=.")
    limits = _check_limits({"kilobytes": max_kilobytes, "milliseconds": max_milliseconds})
    check_choice("choose", "form", form, tuple(FORMS))
    views = 4 if views is None else check_whole_number("choose", "views", views)
    ways = _check_recipes(recipes, methods, options)
    names, place = check_candidates(candidates), Path(run)
    times = {} if latencies is None else read_latencies(latencies, names)
    request = {key: value for key, value in options.items() if key not in OF_TEACHER} | {"data": data}
    images = _load_images({**request, "epochs": epochs})
    measured = {name: measure(name, name, form, images, place) for name in names}
    sizes = {name: size._replace(milliseconds=times.get(name, size.milliseconds)) for name, size in measured.items()}
    fitting = find_fitting(sizes, limits)
    teachers = _teacher_points(teacher, form, images, place, request, is_timed=latencies is None)

    entries = [Entry(name, way) for name in fitting for way in ways]
    rungs = plan_rungs(len(entries), epochs)
    budget = sum(count * length for count, length in rungs) + epochs
    LOGGER.info("%d candidates fit; rungs of (trainings, epochs) %s; %d epochs in all.", len(fitting), rungs, budget)
    every_method = list(dict.fromkeys(method for way in ways.values() for method in way["methods"]))
    record(teacher=teacher, data=data, output=place / "recording", methods=every_method, views=views, **options)
    shared = {**request, "recording": place / "recording", "views": views}
    results, last = halve(entries, rungs, {way: {**shared, **ways[way]} for way in ways}, names, place)
    (best,) = (entry for entry, result in results.items() if result is last[-1])
    baseline = train(model=best.candidate, epochs=epochs, run=place / "baseline", **request)

    points = [_point(entry.name, sizes[entry.candidate], run, entry == best) for entry, run in results.items()]
    points += [Point(name, *sizes[name], None) for name in names if name not in fitting]
    points.append(Point(best.candidate, *sizes[best.candidate], accuracy(baseline), epochs, "baseline"))
    choice = Choice(tuple(last), baseline, tuple(in_order([*teachers, *points])), limits, budget)
    choice.save(place)
    return choice


def _load_images(request: dict[str, Any]) -> Images:
    """The images of a request.

    Raises:
        ValueError: if they are not labeled images of classes to train and to test on.
    """
    images = load_images(make_recipe(**request))
    require_classification("choose", images.task)
    if images.test is None or images.train.classes is None:
        raise ValueError(
            "A choice needs labeled images to train and to test on. Pass data= and test_data= with labels."
        )
    return images


def _check_limits(limits: Mapping[str, float | None]) -> dict[str, float]:
    """The limits that are given."""
    return {
        name: check_number("choose", f"max_{name}", limit, above=0)
        for name, limit in limits.items()
        if limit is not None
    }


def _check_recipes(
    recipes: Mapping[str, Mapping[str, Any]] | None, methods: Sequence[str | Method], options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The recipes by name, with their methods as texts; takes `hard_weight` out of the options."""
    given = {key: options.pop(key) for key in ("hard_weight",) if key in options}
    if recipes is None:
        return {"": {"methods": as_texts(methods), **given}}
    if given or list(methods) != ["kd"]:
        raise ValueError(
            f"Expected recipes= or methods= and hard_weight=, but received recipes={dict(recipes)} with "
            f"methods={list(methods)} and {given}. Write the methods and the hard weight of each recipe in recipes=."
        )
    for name, recipe in recipes.items():
        unknown = sorted(recipe.keys() - {"methods", "hard_weight"})
        if not name or "methods" not in recipe or unknown:
            raise ValueError(
                "Each recipe of a choice must have a name, its methods and perhaps a hard_weight, because all are "
                f"trained on the same recording, but received {name!r}: {dict(recipe)}."
            )
    if not recipes:
        raise ValueError("Expected one or more recipes, but received none. Leave out recipes= for KD alone.")
    return {name: {**recipe, "methods": as_texts(recipe["methods"])} for name, recipe in recipes.items()}


def _teacher_points(
    teacher: Trained, form: str, images: Images, place: Path, request: dict[str, Any], is_timed: bool
) -> list[Point]:
    """The teacher with its accuracy, size and time; empty if it is not a network that can be loaded."""
    try:
        network = load_network(teacher)
        options = {key: request[key] for key in OPTIONS if key in request}
        data = request.get("test_data") or request["data"]
        (findings,) = evaluate((), teacher=teacher, data=data, **options).findings.values()
    except (TypeError, ValueError, OSError) as error:
        LOGGER.info("The teacher is not in the figure: %s", error)
        return []
    of_teacher = float(findings["accuracy"])
    try:
        size = measure("teacher", network, form, images, place)
    except ValueError as error:
        LOGGER.info("The figure has the accuracy of the teacher alone: %s", error)
        return [Point("teacher", None, None, of_teacher, role="teacher")]
    return [Point("teacher", size.kilobytes, size.milliseconds if is_timed else None, of_teacher, role="teacher")]


def _point(name: str, size: Size, run: Run, is_chosen: bool) -> Point:
    return Point(name, *size, accuracy(run), run.result["epochs"], "chosen" if is_chosen else "candidate")
