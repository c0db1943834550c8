"""A teacher whose outputs come from a recording."""

from __future__ import annotations

from collections.abc import Iterable

from kd_keras.contracts import Batch, Outputs
from kd_keras.errors import explain_mismatch
from kd_keras.recording.reader import Recording


class RecordedTeacher:
    """A teacher whose outputs travel with the batches; `Teacher.recorded` opens one.

    Attributes:
        recording: what the pipeline joins to the batches: `data.training(..., recorded=teacher.recording)`.
        specs: what the taps deliver.
        class_names: the classes in the order of the recorded logits, or `None` if they are not known.
    """

    def __init__(self, recording: Recording):
        self.specs = recording.specs
        self.recording = recording
        self.class_names: list[str] | None = recording.plan.get("class_names")

    def tapped(self, wanted: Iterable[str]) -> RecordedTeacher:
        """The same teacher, if the wanted taps were recorded.

        Raises:
            ValueError: if one of them was not recorded; the message lists those that were.
        """
        missing = [tap for tap in wanted if tap not in self.specs]
        if missing:
            received = f"{', '.join(self.specs)} in {self.recording.directory}"
            advice = "record them too, with record(taps=...) or the same --method flags"
            raise ValueError(explain_mismatch(f"recorded taps {', '.join(missing)}", received, advice))
        return self

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Always true, because no network runs."""
        return True

    def outputs(self, batch: Batch) -> Outputs:
        """The recorded outputs in a batch: a tensor `(B, ...)` float32 for each tap, a list of them for stages.

        Raises:
            ValueError: if the batch has no recorded outputs.
        """
        if batch.recorded is None:
            advice = "pass data.training(..., recorded=teacher.recording)"
            raise ValueError(explain_mismatch("the recorded outputs in every batch", "a batch without them", advice))
        return Outputs(batch.recorded)
