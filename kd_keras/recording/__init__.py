"""A teacher's outputs on disk: written once, read for every student."""

from kd_keras.recording.reader import Recording
from kd_keras.recording.teacher import RecordedTeacher
from kd_keras.recording.writer import record

__all__ = ("RecordedTeacher", "Recording", "record")
