"""Methods of the global batch on real workers, with a plain dataset whose last batch is smaller."""

import json

import numpy as np

from tests.support import workers

PROGRAM = """
import json, sys
import keras, numpy as np, tensorflow as tf
count = int(sys.argv[1])
strategy = tf.distribute.MultiWorkerMirroredStrategy() if count > 1 else tf.distribute.get_strategy()
from kd_keras import Distiller
from kd_keras.methods import CC, DIST, KD, MLKD, PKT, RKD, SP
from kd_keras.training import TeacherCheck
from tests.support.networks import convolutional, examples

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
history = model.fit(data.with_options(options), epochs=1, verbose=0, callbacks=[TeacherCheck([])]).history
print("RESULT", json.dumps(history), flush=True)
"""


def histories(count):
    codes, outputs, errors = workers.finish(workers.start(count, "-W", "ignore", "-c", PROGRAM, count), timeout=500)
    assert codes == [0] * count, errors[0][-3000:]
    return [json.loads(output.split("RESULT ")[1]) for output in outputs]


def test_gathered_taps_keep_their_shape_on_workers():
    (expected,), both = histories(1), histories(2)
    for history in both:
        assert history.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(history[name], value, rtol=1e-4, err_msg=name)
