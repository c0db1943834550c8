"""The methods: one published loss a file, a pure function `<name>_loss` first, then the layer that applies it."""

from kd_keras.methods.base import Method, Taps
from kd_keras.methods.fitnet import FitNet, fitnet_loss
from kd_keras.methods.kd import KD, kd_loss

__all__ = ("FitNet", "KD", "Method", "Taps", "fitnet_loss", "kd_loss")
