"""Compares trained networks with their teacher on test images: `kd_keras.evaluate`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kd_keras import distribute
from kd_keras.errors import check_whole_number
from kd_keras.evaluation.evaluator import Candidate
from kd_keras.evaluation.generalization import SizedRun
from kd_keras.evaluation.text import findings_table, size_tables, to_json
from kd_keras.evaluation.verdict import Verdict, check_limits, check_requirements
from kd_keras.files import write_json
from kd_keras.report.assembly import check_report
from kd_keras.report.page import Subject
from kd_keras.runs.candidates import (
    Network,
    check_exists,
    describe_differences,
    evaluation_settings,
    load_candidate,
    name_networks,
    open_test_images,
    resolve_data,
    training_images,
    warn_of_training_images,
)
from kd_keras.runs.devices import chosen_strategy
from kd_keras.runs.recipe import Data, Recipe, make_recipe
from kd_keras.runs.run import find_run
from kd_keras.runs.sources import open_source
from kd_keras.tasks import CLASSIFICATION, Task, find_task

LOGGER = logging.getLogger("kd_keras")
# Findings about a network and its teacher, which of a single network compare it with itself.
COMPARISONS = (
    "agreement", "kl", "agreement_by_class", "kl_by_class", "attention_correlation", "attention_overlap", "cka",
)  # fmt: skip
DISTILLED = ("teacher", "recording", "method", "scheme")  # a run with one of these was distilled
OPTIONS = (
    "data_dir", "task", "test_split", "image_size", "batch_size", "strategy", "devices", "worker_timeout",
    "deterministic", "image_channels", "image_bits", "class_names", "ignored", "download_timeout",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        teacher: the name of the network that the others are compared with.
        findings: by name of the network, its findings by name: numbers or arrays.
        verdict: the requirements on the last network, and whether it `passed` all of them.
        data: a sentence about the test images.
        by_training_size: tables of networks that differ only in their number of training images.
        task: what the labels are.
    """

    teacher: str
    findings: dict[str, dict[str, Any]]
    verdict: Verdict
    data: str = ""
    by_training_size: tuple[str, ...] = ()
    task: Task = CLASSIFICATION

    @property
    def table(self) -> str:
        """The main findings as a Markdown table."""
        return findings_table(self.findings, self.task.columns, self.task.optional_columns)

    def __str__(self) -> str:
        sentences = [self.task.describe(name, findings) for name, findings in self.findings.items()]
        requirements = [str(self.verdict)] if self.verdict.requirements else []
        return "\n".join([self.data, self.table, *sentences, *self.by_training_size, *requirements])

    def save(self, path: str | os.PathLike) -> None:
        """Writes the findings to a JSON file."""
        write_json(path, to_json(self.findings))


def evaluate(
    models: Network | Sequence[Network] = (),
    *,
    teacher: Network | None = None,
    data: Data | None = None,
    requirements: Mapping[str, float] | None = None,
    questions: Sequence[str] = (),
    examples: int = 1000,
    other_data: Data | None = None,
    other_split: str = "test",
    pairs: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
    command: str = "",
    **options: Any,
) -> Evaluation:
    """Compares trained networks with their teacher on the same test images.

    Accuracy (of detectors the average precision), agreement, confidence intervals, calibration, size and latency are
    always measured.

    Args:
        models: one or more runs, paths or Keras models; the last one is judged by the requirements.
        teacher: a run, a path or a Keras model; by default the first of the models.
        data: test images, as `Recipe` describes them; by default those that the teacher's run was tested on, or else
            those of the first model whose run names them.
        requirements: limits by name, such as `{"max_accuracy_drop": 0.01}`; see `kd_keras.evaluation.verdict`.
        questions: questions that take more time: "robustness", "generalization", "attention", "similarity", "memory",
            "int8" (the noise of each layer of networks that were trained for int8), or "all".
        examples: the largest number of test images for these questions, at least 4, 1000 by default.
        other_data: images that belong to none of the classes; "generalization" measures how well the confidence of a
            model separates them from the test images.
        other_split: the split of `other_data`, "test" by default.
        pairs: a file of pairs of images in the format of LFW, on which networks of faces are verified instead of on all
            pairs of `examples` images; the test images must then be a folder.
        report: the path of an HTML page to write; all questions are then asked.
        command: the command that repeats this evaluation, shown on the page.
        **options: `data_dir`, `task`, `test_split`, `image_size`, `image_channels`, `image_bits`, `class_names` and
            `ignored`, by default those of the teacher's run; `download_timeout`, `batch_size`, `strategy`, `devices`,
            `worker_timeout` and `deterministic` as `Recipe` describes them.

    Returns:
        The findings, a table of them, and the verdict.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if a network or the images do not exist, a question or a requirement is unknown, or the images have
            other classes than `class_names`.

    >>> import keras
    >>> layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    >>> network = keras.Sequential(layers, name="linear")
    >>> result = evaluate(network, data="digits", requirements={"min_accuracy": 0.9})
    >>> result.findings["linear"]["parameters"], result.verdict.passed
    (650, False)
    """
    limits = dict(requirements or {})
    networks = name_networks(teacher, models)
    if limits and isinstance(models, (list, tuple)) and not models:
        raise ValueError("Requirements need a model to judge, but received only a teacher. Pass models=.")
    check_limits(limits, has_teacher=teacher is not None or len(networks) > 1)
    examples = check_whole_number("evaluate", "examples", examples, least=4)
    if report is not None:
        check_report(report)
    origin = _find_origin(networks)
    recipe = _make_recipe(data, networks, origin, options)
    with chosen_strategy(recipe) as strategy, strategy.scope():
        with distribute.chief_first(strategy):
            task = find_task(recipe.task, recipe.data, recipe.data_dir, recipe.download_timeout)
            names = questions if report is None else [*questions, "all"]
            questions = task.select_questions(names, limits, other_data is not None)
            given_pairs = None if pairs is None else task.read_pairs(pairs, recipe.data, recipe.test_split)
            test, reading = open_test_images(recipe, task, origin, options)
            warn_of_training_images(networks, test, recipe)
            others = None if other_data is None else open_source(other_data, other_split, recipe.data_dir, **reading)
        evaluator = task.evaluator(
            test,
            questions,
            others,
            batch_size=recipe.batch_size,
            image_size=recipe.image_size,
            examples=examples,
            pairs=given_pairs,
        )
        LOGGER.info("Evaluating %d networks on %s images.", len(networks), f"{test.size:,}")
        evaluator.evaluate(_load_candidates(networks, options.get("data_dir")))
        LOGGER.info("Measuring latency.")
        evaluator.measure_latency()
        judged = list(networks)[-1]
        findings = evaluator.findings
        verdict = Verdict(tuple(check_requirements(limits, findings[judged], findings[evaluator.teacher])))
        if report is not None and distribute.is_chief(strategy):
            LOGGER.info("Writing %s.", os.fspath(report))
            is_alone = teacher is None and len(networks) == 1
            subjects = _subjects(networks, findings, None if is_alone else evaluator.teacher)
            evaluator.write_report(report, subjects, verdict.requirements, command)
    tables = _compare_training_sizes(networks, findings, task.metric, options.get("data_dir"))
    return Evaluation(evaluator.teacher, findings, verdict, evaluator.describe_data(), tables, task)


def _find_origin(networks: Mapping[str, Network]) -> Network:
    """The first network whose run names its test images, or else the first one.

    Raises:
        ValueError: if a network does not exist.
    """
    for source in networks.values():
        check_exists(source)
    sources = list(networks.values())
    return next((source for source in sources if "data" in evaluation_settings(source)), sources[0])


def _make_recipe(
    data: Data | None, networks: Mapping[str, Network], origin: Network, options: Mapping[str, Any]
) -> Recipe:
    """The recipe that names the test images and the devices."""
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"evaluate takes the options {', '.join(OPTIONS)}, but received {', '.join(unknown)}.")
    used = resolve_data(data, origin, options)
    if data is None:
        for sentence in describe_differences(used, networks):
            LOGGER.warning("%s", sentence)
    return make_recipe(**used)


def _load_candidates(networks: Mapping[str, Network], data_dir: str | None) -> Iterator[Candidate]:
    """Loads the networks one by one, when the evaluator needs them."""
    for number, (name, source) in enumerate(networks.items(), start=1):
        LOGGER.info("Loading %s (%d of %d).", name, number, len(networks))
        yield load_candidate(source, name, data_dir)


def _subjects(networks: Mapping[str, Network], findings: Mapping[str, Any], teacher: str | None) -> list[Subject]:
    """The networks as the page shows them, with their role, training history and the command that repeats them.

    A single network is compared with nothing.
    """
    subjects = []
    omitted = COMPARISONS if len(networks) == 1 else ()
    for name, source in networks.items():
        run = find_run(source)
        settings = {} if run is None else run.settings
        distilled = any(setting in settings for setting in DISTILLED)
        role = "teacher" if name == teacher else "distilled" if distilled else "other" if run is None else "baseline"
        commands: list[str] = []
        if run is not None:
            flagfile = run.path / "flags.txt"
            program = "scheme" if "scheme" in settings else "distill" if distilled else "train"
            commands = [f"python -m experiments.{program} --run=NEW --flagfile={flagfile}", ""]
            commands += flagfile.read_text().splitlines()
        shown = {finding: value for finding, value in findings[name].items() if finding not in omitted}
        subjects.append(Subject(name, role, shown, {} if run is None else run.history, commands))
    return subjects


def _compare_training_sizes(
    networks: Mapping[str, Network], findings: Mapping[str, Any], metric: str, data_dir: str | None
) -> tuple[str, ...]:
    """Tables of the runs that differ only in their number of training images."""
    origins = {name: find_run(source) for name, source in networks.items() if metric in findings[name]}
    runs = {name: run for name, run in origins.items() if run is not None and "train_split" in run.settings}
    if len({run.settings["train_split"] for run in runs.values()}) < 2:
        return ()
    sized = {}
    for name, run in runs.items():
        try:
            sized[name] = SizedRun(run.settings, training_images(run, data_dir).size, findings[name][metric])
        except (ValueError, OSError) as error:  # the evaluation is complete
            LOGGER.warning("%s is not in the table of training sizes: %s", name, " ".join(str(error).split()))
    return tuple(size_tables(sized, metric))
