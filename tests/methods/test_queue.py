"""Queue against NumPy in float64, and its queue against a list."""

import functools

import numpy as np
import pytest

from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import Queue, queue_loss
from tests.support import harness
from tests.support.networks import examples, mirrored, same, values
from tests.support.reference import Case, log_softmax, random, unit

OPTIONS = {"Queue": {"size": 24}}
STEP = Step(number=0, epoch=0)
pytestmark = pytest.mark.filterwarnings("ignore:.*shuffle", "ignore:Gradients do not exist")


def reference(student, teacher, queue, filled=None, temperature=0.07):
    """KL(p_t || p_s) over the rows that are filled, by its definition."""
    result = []
    for v, u in zip(unit(student), unit(teacher), strict=True):
        log_s, log_t = (log_softmax(np.array([row @ x for row in queue[:filled]]) / temperature) for x in (v, u))
        result.append(sum(np.exp(t) * (t - s) for s, t in zip(log_s, log_t, strict=True)))
    return np.array(result)


def case(name, batch, width, size, **options):
    loss, expected = (functools.partial(function, **options) for function in (queue_loss, reference))
    queue = unit(random(size, width, seed=3))
    return Case(name, loss, expected, random(batch, width, seed=1), (random(batch, width, seed=2), queue))


CASES = [
    case("published", 6, 32, 200),
    case("a queue that is filling", 5, 16, 40, filled=7),
    case("a high temperature", 5, 16, 40, filled=30, temperature=2.0),
    case("one row", 3, 4, 1),
]


def bound(size, width=(6, 9)):
    method = Queue(size=size)
    method.bind(*({"embedding": TapSpec(name, (None, size))} for name, size in zip("st", width, strict=True)))
    return method


def taps(batch, seed):
    return [Outputs({"embedding": random(batch, size, seed=seed + side)}) for side, size in enumerate((6, 9))]


def test_the_loss_is_zero_at_the_teacher():
    x = random(5, 8)
    np.testing.assert_allclose(queue_loss(x, 3 * x, unit(random(20, 8, seed=1))), np.zeros(5), atol=1e-6)


def test_the_queue_is_first_in_first_out():
    method, expected = bound(10), []
    for number, batch in enumerate((4, 4, 3, 12, 1)):
        student, teacher = taps(batch, seed=10 * number)
        adapted = np.array(method.adapter(student["embedding"]))
        loss = float(method(student, teacher, Batch(None), STEP))
        expected = [*unit(teacher["embedding"]), *expected][:10]  # the batch is there before its loss
        assert int(method.filled) == len(expected)
        np.testing.assert_allclose(np.array(method.queue)[: len(expected)], expected, atol=1e-6)
        by_hand = reference(adapted.astype("float64"), teacher["embedding"].astype("float64"), np.array(expected))
        assert loss == pytest.approx(by_hand.mean(), rel=1e-4)


def test_the_loss_uses_example_weights():
    student, teacher = taps(3, seed=0)
    method = bound(10)
    loss = queue_loss(method.adapter(student["embedding"]), teacher["embedding"], unit(teacher["embedding"]))
    weighted = method(student, teacher, Batch(None, weight=np.array([1.0, 0.0, 5.0])), STEP)
    assert float(weighted) == pytest.approx(float(loss[0] + 5 * loss[2]) / 3, rel=1e-5)


def test_the_linear_layer_trains_on_images_without_labels():
    from kd_keras import Distiller
    from tests.support.networks import convolutional

    method = Queue(size=24)
    distiller = Distiller(student=convolutional(4), teacher=convolutional(6), methods=[method], hard_weight=0)
    distiller.compile(optimizer="adam")
    before = values(method.trainable_variables)
    assert [array.shape for array in before] == [(8, 12), (12,)] and 0.01 < before[0].std() < 0.03
    history = distiller.fit(examples(64)[0], epochs=15, batch_size=16, verbose=0).history
    assert history["queue"][-1] < history["queue"][2]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, values(method.trainable_variables), strict=True))


def test_replicas_have_equal_queues():
    import tensorflow as tf

    results = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            distiller = harness.distiller(Queue, normalized=False)
        distiller.fit(tf.data.Dataset.from_tensor_slices(examples(37)).batch(16), verbose=0)
        queue = distiller.methods[0].queue.value
        copies = [np.array(copy) for copy in getattr(queue, "values", [queue])]
        assert len(copies) == devices and same(copies[:1], copies[-1:])
        results.append(copies[0])
    np.testing.assert_allclose(*results, atol=1e-6)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": 1.5}, {"size": "auto"}, {"temperature": 0}])
def test_invalid_arguments_raise(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        Queue(**options)


def test_taps_that_are_not_embeddings_raise():
    with pytest.raises(ValueError, match=r"(?s)vectors \(B, D\).*\(None, 4, 4, 3\).*embedding"):
        Queue(student_tap="s").bind({"s": TapSpec("s", (None, 4, 4, 3))}, {"embedding": TapSpec("t", (None, 5))})
