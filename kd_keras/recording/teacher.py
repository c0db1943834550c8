"""A teacher whose outputs come from a recording."""

from __future__ import annotations

from collections.abc import Iterable
from kd_keras.contracts import Batch, Outputs
from kd_keras.errors import explain_mismatch
from kd_keras.networks.taps import Specs
from kd_keras.recording.reader import Recording


class RecordedTeacher:
    """A teacher whose outputs come with the batches; made by `Teacher.recorded`.

    Attributes:
        recording: what the pipeline joins into the batches.
    """

    def __init__(self, recording: Recording):
        self.specs = recording.specs if isinstance(recording.specs, Specs) else Specs(recording.specs)
        self.recording = recording

    def tapped(self, wanted: Iterable[str]) -> RecordedTeacher:
        """The same teacher, if it has the wanted taps.

        Raises:
            ValueError: where one was not recorded, with those that were.
        """
        missing = [tap for tap in wanted if tap not in self.specs]
        if missing:
            came = f"{', '.join(self.specs)} in {self.recording.directory}"
            remedy = "record them too: experiments.record with the same --method flags"
            raise ValueError(explain_mismatch(f"recorded taps {', '.join(missing)}", came, remedy))
        return self

    def supports_jit(self, student_shape: tuple | None) -> bool:
        """Always true: no network runs."""
        return True

    def outputs(self, batch: Batch) -> Outputs:
        """The recorded outputs that come with a batch."""
        if batch.recorded is not None:
            return Outputs(batch.recorded)
        remedy = "data.training(..., recorded=teacher.recording)"
        raise ValueError(explain_mismatch("the recorded outputs in every batch", "a batch without", remedy))
