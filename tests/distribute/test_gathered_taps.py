"""Methods of the global batch on real workers, with a plain dataset whose last batch is smaller."""

import json
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.methods import CC, DIST, KD, MLKD, PKT, RKD, SP
from kd_keras.training import TeacherCheck
from tests.support import workers
from tests.support.networks import convolutional, examples


def train(strategy):
    """The history of a training for one epoch; its last batch has 4 of 8 examples."""
    keras.utils.set_random_seed(0)
    x, y = examples(20)
    with strategy.scope():
        methods = [RKD(across_replicas=True), SP(across_replicas=True), PKT(across_replicas=True), KD()]
        methods += [DIST(across_replicas=True), MLKD(across_replicas=True), CC(across_replicas=True)]
        student, teacher = convolutional(), convolutional(6, name="teacher")
        model = Distiller(student=student, teacher=teacher, methods=methods, hard_weight=1.0)
        model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return model.fit(data.with_options(options), epochs=1, verbose=0, callbacks=[TeacherCheck([])]).history


def main(output):
    """Run by a worker: writes the history."""
    warnings.simplefilter("ignore")
    with open(output, "w") as file:
        json.dump(train(tf.distribute.MultiWorkerMirroredStrategy()), file)


def test_gathered_taps_keep_their_shape_on_workers(tmp_path):
    both = workers.start(2, "-m", "tests.distribute.test_gathered_taps", tmp_path / "{index}.json")
    try:
        expected = train(tf.distribute.get_strategy())
    finally:
        codes, _, errors = workers.finish(both, timeout=500)
    assert codes == [0, 0], errors[0][-3000:]
    for index in range(2):
        history = json.loads((tmp_path / f"{index}.json").read_text())
        assert history.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(history[name], value, rtol=1e-4, err_msg=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
