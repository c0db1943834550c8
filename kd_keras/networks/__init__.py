"""What is done to a Keras model: taps, freezing, loading of weights."""

from kd_keras.networks.freezing import frozen
from kd_keras.networks.loading import load_weights
from kd_keras.networks.taps import Specs, Tapped

__all__ = ("Specs", "Tapped", "frozen", "load_weights")
