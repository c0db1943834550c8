"""What a run learns from, in inputs.json: the versions of its images and the weights of its teacher.

flags.txt has only their names, or descriptions of Python objects. A run that resumes must find the same content.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras

from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.functions.pixel_range import range_identity
from kd_keras.recording.identity import describe_changes, weights_digest
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs.images import Images
from kd_keras.teacher import Teacher

INPUTS = "inputs.json"


def image_inputs(images: Images) -> dict[str, Any]:
    """What identifies the images of a run."""
    inputs = {"training images": _identify(images.train)}
    return inputs if images.test is None else {**inputs, "test images": _identify(images.test)}


def teacher_inputs(teacher: object) -> dict[str, Any]:
    """What identifies the teacher of a run: its networks and how they are used, or those that were recorded.

    It is empty for a network that teaches itself or its peers.
    """
    if isinstance(teacher, RecordedTeacher):
        return {"recorded teacher": teacher.recording.plan["teacher"]}
    if type(teacher) is not Teacher:  # the others change during the training
        return {}
    weights = teacher.weights if isinstance(teacher.weights, str) else list(teacher.weights)
    ranges = [range_identity(preprocess) for preprocess in teacher.preprocess]
    options = {"combine": teacher.combine, "weights": weights, "class_order": teacher.class_order, "range": ranges}
    return {"teacher": _digests(teacher.networks), "options of the teacher": options}


def given_teacher_inputs(teacher: object) -> dict[str, Any]:
    """What identifies a teacher that is a Python object, in the form of `teacher_inputs`; empty for paths and names."""
    networks = teacher if isinstance(teacher, (list, tuple)) else [teacher]
    if all(isinstance(network, keras.Model) for network in networks):
        return {"teacher": _digests(networks)}
    return teacher_inputs(teacher)


def check_inputs(directory: Path, inputs: dict[str, Any]) -> None:
    """Checks that a run that was started earlier has the same images and the same teacher as now.

    Args:
        directory: the directory of the run; without inputs.json there is nothing to compare with.
        inputs: of `image_inputs` and `teacher_inputs`; names that only one side has are not compared.

    Raises:
        ValueError: if they differ, or inputs.json is damaged.
    """
    file = directory / INPUTS
    if not file.exists():
        return
    try:
        recorded = json.loads(file.read_text())
    except ValueError as error:
        advice = "delete it: the run then continues without this check"
        raise ValueError(explain_mismatch(f"{file} as JSON", f"a damaged file ({error})", advice)) from error
    common = [name for name in inputs if name in recorded]
    changes = describe_changes({name: recorded[name] for name in common}, {name: inputs[name] for name in common})
    if changes:
        expected = f"the images and the teacher with which run {os.fspath(directory)} was started"
        advice = "restore them, or train anew in another directory or with overwrite=True (in the shell --overwrite)"
        raise ValueError(explain_mismatch(expected, changes, advice))


def _digests(networks: Any) -> list[str]:
    return [weights_digest(network)[:16] for network in networks]


def _identify(source: Source) -> str:
    content = source.content or source.version or source.name
    return f"{source.size:,} examples ({content if source.has_one_order else 'in an order that changes'})"
