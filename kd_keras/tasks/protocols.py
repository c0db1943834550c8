"""What a task returns: its evaluator, and its exports in the formats that all tasks have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from kd_keras.data import Source
from kd_keras.evaluation import Candidate, Requirement
from kd_keras.report.page import Subject

# For each format of an export the name of its file or directory, and the precision whose tolerance applies.
FORMATS = {
    "saved_model": ("saved_model", "float32"),
    "onnx": ("model.onnx", "float32"),
    "litert": ("model.tflite", "float32"),
    "litert_float16": ("model_float16.tflite", "float16"),
    "litert_int8": ("model_int8.tflite", "int8"),
}


class TaskExport(Protocol):
    """An accepted export, a named tuple; `export.json` has its fields, and a table those that the task names."""

    @property
    def path(self) -> Path:
        """The file or directory."""

    @property
    def format(self) -> str:
        """One of `FORMATS`."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def milliseconds(self) -> float:
        """The median time for a single image."""

    @property
    def p95(self) -> float:
        """The 95th percentile of that time."""

    def _asdict(self) -> dict[str, Any]: ...


class TaskEvaluator(Protocol):
    """Evaluates networks on the same images; the first one is the teacher of the others.

    Attributes:
        test: the test images.
        findings: by name of the network, its findings by name: numbers or arrays.
        teacher: the name of the first network.
    """

    test: Source
    findings: dict[str, dict[str, Any]]
    teacher: str

    def evaluate(self, candidates: Iterable[Candidate]) -> None:
        """Adds the findings of all networks that are compared, the teacher first, without their latency."""

    def measure_latency(self) -> None:
        """Adds the latency of all networks to their findings."""

    def describe_data(self) -> str:
        """Sentences about the test images, and about what is measured on which of them."""

    def write_report(
        self, path: str | os.PathLike, subjects: Sequence[Subject], requirements: Sequence[Requirement], command: str
    ) -> None:
        """Writes the page about all networks that were evaluated.

        Args:
            path: the path of the HTML file.
            subjects: the networks, with the names of the candidates: the teacher first, the judged one last.
            requirements: the requirements on the judged network.
            command: the command that repeats the page.
        """
