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

from kd_keras.errors import check_choice, check_whole_number
from kd_keras.files import write_text
from kd_keras.methods import Method
from kd_keras.report.choice import Point, as_csv, in_order, markdown, plot
from kd_keras.runs import record, train
from kd_keras.runs.evaluate import OPTIONS, evaluate
from kd_keras.runs.images import Images
from kd_keras.runs.recipe import Data, make_recipe
from kd_keras.runs.run import Run, Trained, load_network
from kd_keras.runs.teachers import TEACHER_OPTIONS
from kd_keras.schemes.choice_checks import check_limits, check_recipes, load_labeled_images
from kd_keras.schemes.halving import Entry, accuracy, halve, plan_rungs
from kd_keras.schemes.outcome import Outcome, refuse, run_path
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
EPOCHS = 27  # of the last of three rungs: 3, 9 and 27


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
    epochs: int = EPOCHS,
    data: Data = "digits",
    run: str | os.PathLike,
    **options: Any,
) -> Choice:
    """Chooses the student that learns best from a teacher among those whose export is small and fast enough.

    Every candidate is built with new weights, exported, and measured on this machine with the runtime of its export;
    `measure_candidates` is that part alone. Those that fit are distilled from the recorded outputs of the teacher, by
    successive halving: the best third is trained again, for three times as many epochs (`kd_keras/schemes/halving.py`).
    The accuracy of the float network on the test images decides, even if `form` is "litert_int8". The test images
    should therefore be a held-out part of the training images, such as `test_split="train[45000:]"`. The best network
    is then trained without the teacher, on the same views and for as many epochs, as the baseline.

    The runs are in `<run>/rung<r>/<number>-<model>` and `<run>/baseline/`, the table and the figure in `choice.md`,
    `choice.csv` and `choice.png`; the same call resumes an interrupted choice. The Pareto front in the figure uses the
    accuracies shown there, although candidates that were eliminated early had fewer epochs.

    Args:
        teacher: as for `distill`. It is in the figure if it is a run, a `.keras` file or a Keras model that reads
            pixels from 0 to 255.
        candidates: models of the zoo, also with options: "mobilenet_v2(width=0.5)", "resnet8(resolution=24)".
        max_kilobytes: the largest size of an export, in 1000 bytes; any by default.
        max_milliseconds: the longest time for one image, the median on this machine; any by default.
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
        **options: the other options of `distill`, without `overwrite`. A choice runs in one process.

    Returns:
        The choice; `student` is its best run.

    Raises:
        TypeError: if an option is unknown, or a value is of the wrong type.
        ValueError: if the request is invalid, no candidate fits, a directory contains a run of another request, or
            there are several workers.

    >>> import tempfile
    >>> from kd_keras.runs import train
    >>> folder = tempfile.mkdtemp()
    >>> tiny = {"data": "digits", "data_dir": folder, "test_every": 2, "epochs": 2}
    >>> teacher = train(model="mlp(hidden=(16,))", **tiny, run=f"{folder}/teacher")
    >>> names = ["mlp(hidden=(4,))", "mlp(hidden=(2000,))"]
    >>> choice = choose(teacher=teacher, candidates=names, max_kilobytes=100, views=1, **tiny, run=f"{folder}/choice")
    >>> choice.student.settings["student"]
    'mlp(hidden=(4,))'
    """
    if options.pop("overwrite", False):
        raise ValueError("A choice is not overwritten as a whole. Choose another directory, or delete it.")
    refuse("choose", options, ("recording", "weights", "quantize"), "every rung trains new networks from one recording")
    if teacher is None:
        raise ValueError("Expected a teacher to learn from, but received none. Pass teacher=.")
    limits = check_limits({"kilobytes": max_kilobytes, "milliseconds": max_milliseconds})
    check_choice("choose", "form", form, tuple(FORMS))
    views = 4 if views is None else check_whole_number("choose", "views", views)
    by_name = check_recipes(recipes, methods, options)
    names, directory = check_candidates(candidates), Path(run)
    times = {} if latencies is None else read_latencies(latencies, names)
    request = {key: value for key, value in options.items() if key not in TEACHER_OPTIONS} | {"data": data}
    images = load_labeled_images({**request, "epochs": epochs}, names)
    measured = {name: measure(name, form, images, directory) for name in names}
    sizes = {name: size._replace(milliseconds=times.get(name, size.milliseconds)) for name, size in measured.items()}
    fitting = find_fitting(sizes, limits)
    entries = [Entry(name, recipe) for name in fitting for recipe in by_name]
    rungs = plan_rungs(len(entries), epochs)
    for _, length in rungs:
        make_recipe(**{**request, "epochs": length})  # refuses a warm-up longer than a short rung before any training

    budget = sum(count * length for count, length in rungs) + epochs
    LOGGER.info("%d candidates fit; rungs of (trainings, epochs) %s; %d epochs in all.", len(fitting), rungs, budget)
    of_all = list(dict.fromkeys(method for recipe in by_name.values() for method in recipe["methods"]))
    recording = directory / "recording"
    record(teacher=teacher, data=data, output=recording, methods=of_all, views=views, epochs=epochs, **options)
    shared = {**request, "recording": recording, "views": views}
    requests = {name: {**shared, **recipe} for name, recipe in by_name.items()}
    results, last = halve(entries, rungs, requests, names, directory)
    (best,) = (entry for entry, result in results.items() if result is last[-1])
    path = run_path(directory / "baseline", names.index(best.candidate), best.candidate)
    baseline = train(model=best.candidate, epochs=epochs, views=views, run=path, **request)

    points = [_point(entry.name, sizes[entry.candidate], run, entry == best) for entry, run in results.items()]
    points += [Point(name, *sizes[name], None) for name in names if name not in fitting]
    points.append(Point(best.candidate, *sizes[best.candidate], accuracy(baseline), epochs, "baseline"))
    if options.get("teacher_range") is None:
        points += _teacher_points(teacher, form, images, directory, times if latencies is not None else None)
    choice = Choice(tuple(last), baseline, tuple(in_order(points)), limits, budget)
    choice.save(directory)
    return choice


def _teacher_points(
    teacher: Trained, form: str, images: Images, directory: Path, times: Mapping[str, float] | None
) -> list[Point]:
    """The teacher with its accuracy, size and time; empty if it is not a network that can be loaded.

    Args:
        teacher: what the caller passed.
        form: of the exports.
        images: of the choice; the teacher's accuracy is that on their test images.
        directory: of the choice.
        times: the milliseconds on another device by name, or `None` for those of this machine.
    """
    recipe = images.recipe
    try:
        network = load_network(teacher)
        options = {name: getattr(recipe, name) for name in OPTIONS}
        (findings,) = evaluate((), teacher=teacher, data=recipe.test_data or recipe.data, **options).findings.values()
    except (TypeError, ValueError, OSError) as error:
        LOGGER.info("The teacher is not in the figure: %s", error)
        return []
    value = float(findings["accuracy"])
    try:
        size = measure("teacher", form, images, directory, network)
    except ValueError as error:
        LOGGER.info("The figure has the accuracy of the teacher alone: %s", error)
        return [Point("teacher", None, None, value, role="teacher")]
    milliseconds = size.milliseconds if times is None else times.get("teacher")
    return [Point("teacher", size.kilobytes, milliseconds, value, role="teacher")]


def _point(name: str, size: Size, run: Run, is_chosen: bool) -> Point:
    return Point(name, *size, accuracy(run), run.result["epochs"], "chosen" if is_chosen else "candidate")
