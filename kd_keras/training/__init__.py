"""What a long training needs: the guard against non-finite steps, checkpoints within epochs, and a `fit` that resumes.

Users find it as `kd_keras.callbacks`.
"""

from kd_keras.training.checkpoint import Checkpoint
from kd_keras.training.checkpoint_files import Position
from kd_keras.training.nonfinite import NonFinite
from kd_keras.training.resume import fit
from kd_keras.training.teacher_check import TeacherCheck

__all__ = ("Checkpoint", "NonFinite", "Position", "TeacherCheck", "fit")
