"""Methods that only the tests use."""

import keras
import tensorflow as tf

from kd_keras.methods import Method, Taps


class Similarities(Method):
    """Couples every example with every other, and weighs them by their labels."""

    taps = Taps(("embedding",), ("embedding",))
    across_replicas = True

    def call(self, student, teacher, batch, step):
        student, teacher = (tf.matmul(e, e, transpose_b=True) for e in (student["embedding"], teacher["embedding"]))
        return keras.ops.mean(keras.ops.square(student - teacher) * keras.ops.cast(batch.label, "float32"))
