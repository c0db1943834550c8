"""What a long training needs: the non-finite guard, checkpoints within epochs, and a `fit` that resumes."""

from kd_keras.training.checkpoint import Checkpoint, Position, fit
from kd_keras.training.guard import NonFinite, NonFiniteGuard

__all__ = ("Checkpoint", "NonFinite", "NonFiniteGuard", "Position", "fit")
