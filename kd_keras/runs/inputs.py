"""What a run learns from, in inputs.json: the versions of its images and the weights of its teacher.

flags.txt has only their names. A run that resumes must find the same content behind them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kd_keras.data import Source
from kd_keras.errors import explain_mismatch
from kd_keras.files import write_text
from kd_keras.recording.identity import describe_changes, weights_digest
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.runs.images import Images
from kd_keras.teacher import Teacher

FILE = "inputs.json"


def image_inputs(images: Images) -> dict[str, Any]:
    """What identifies the images of a run."""
    inputs = {"training images": _identify(images.train)}
    return inputs if images.test is None else {**inputs, "test images": _identify(images.test)}


def teacher_inputs(teacher: object) -> dict[str, Any]:
    """What identifies the teacher of a run: the weights of its networks, or of those that were recorded.

    It is empty for a network that teaches itself or its peers.
    """
    if isinstance(teacher, RecordedTeacher):
        return {"recorded teacher": teacher.recording.plan["teacher"]}
    if type(teacher) is Teacher:  # the others change during the training
        return {"teacher": [weights_digest(network)[:16] for network in teacher.networks]}
    return {}


def check_inputs(directory: Path, inputs: dict[str, Any]) -> None:
    """Checks that a run that was started before learned from the same images and the same teacher.

    Args:
        directory: the directory of the run; without inputs.json there is nothing to compare with.
        inputs: of `image_inputs` and `teacher_inputs`; names that only one side has are not compared.

    Raises:
        ValueError: if they differ.
    """
    file = directory / FILE
    if not file.exists():
        return
    try:
        recorded = json.loads(file.read_text())
    except ValueError:  # damaged: the run itself is not
        return
    common = [name for name in inputs if name in recorded]
    changes = describe_changes({name: recorded[name] for name in common}, {name: inputs[name] for name in common})
    if changes:
        expected = f"the images and the teacher with which run {os.fspath(directory)} was started"
        advice = "restore them, or train anew in another directory or with overwrite=True (in the shell --overwrite)"
        raise ValueError(explain_mismatch(expected, changes, advice))


def write_inputs(directory: Path, inputs: dict[str, Any]) -> None:
    """Writes inputs.json."""
    write_text(directory / FILE, json.dumps(inputs, indent=1) + "\n")


def _identify(source: Source) -> str:
    content = (source.version or source.name) if source.has_one_order else "in an order that changes"
    return f"{source.size:,} examples, {content}"
