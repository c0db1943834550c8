"""What is done to a Keras model: taps, preprocessing of pixels, freezing, loading of weights."""

from kd_keras.networks.batch_statistics import with_batch_statistics
from kd_keras.networks.freezing import frozen
from kd_keras.networks.loading import load_weights, pixel_statistics
from kd_keras.networks.preprocessing import PixelStatistics
from kd_keras.networks.specs import Specs
from kd_keras.networks.taps import Tapped

__all__ = ("PixelStatistics", "Specs", "Tapped", "frozen", "load_weights", "pixel_statistics", "with_batch_statistics")
