"""What a long training needs: the guard against non-finite steps, checkpoints within epochs, a `fit` that resumes,
SGD with the weight decay of the published recipes, LARS, and DOT.

Users find it as `kd_keras.callbacks`.
"""

from kd_keras.training.checkpoint import Checkpoint
from kd_keras.training.checkpoint_files import Position
from kd_keras.training.dot import DOT
from kd_keras.training.following import FollowingTeacher
from kd_keras.training.lars import LARS
from kd_keras.training.nonfinite import NonFinite
from kd_keras.training.resume import fit
from kd_keras.training.teacher_check import TeacherCheck
from kd_keras.training.weight_decay import CoupledSGD

__all__ = (
    "DOT",
    "LARS",
    "Checkpoint",
    "CoupledSGD",
    "FollowingTeacher",
    "NonFinite",
    "Position",
    "TeacherCheck",
    "fit",
)
