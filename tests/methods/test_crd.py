"""CRD against NumPy in float64, and its memories against updates worked out by hand."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import CRD, crd_in_batch_loss, crd_loss
from tests.support import harness
from tests.support.networks import examples, mirrored, same, values
from tests.support.reference import Case, random, unit

OPTIONS = {"CRD": {"examples": 40, "negatives": 24, "width": 8, "seed": 1}}


def reference(student, teacher, student_memory, teacher_memory, counts, constants, negatives, examples, temperature):
    """Equation 18 as written, one side and one example at a time."""
    noise = negatives / examples
    total = np.zeros(len(student))
    sides = ((student, teacher_memory, constants[0]), (teacher, student_memory, constants[1]))
    for embedding, (positive, drawn), constant in sides:
        for i, anchor in enumerate(unit(embedding)):
            p = np.exp(positive[i] @ anchor / temperature) / constant
            total[i] -= np.log(p / (p + noise + 1e-7))
            for j, negative in enumerate(drawn):
                p = np.exp(negative @ anchor / temperature) / constant
                total[i] -= counts[i, j] * np.log(noise / (p + noise + 1e-7))
    return total


def in_batch(student, teacher, labels=None, temperature=0.07):
    """InfoNCE from both sides, one image at a time."""
    v, u, total = unit(student), unit(teacher), np.zeros(len(student))
    for i in range(len(v)):
        allowed = [j for j in range(len(v)) if j == i or labels is None or labels[j] != labels[i]]
        for anchor, candidates in ((v[i], u), (u[i], v)):
            scores = np.array([anchor @ candidates[j] / temperature for j in allowed])
            total[i] += np.log(np.exp(scores).sum()) - scores[allowed.index(i)]
    return total


def case(name, batch, width, drawn, **options):
    options = {"constants": (2e5, 3e5), "negatives": drawn, "examples": 50000, "temperature": 0.07} | options
    sizes = (batch, drawn)
    memories = tuple(tuple(unit(random(rows, width, seed=seed + rows)) for rows in sizes) for seed in (5, 7))
    counts = np.random.default_rng(9).integers(0, 3, (batch, drawn)).astype("float32")
    loss, expected = (functools.partial(function, **options) for function in (crd_loss, reference))
    student, teacher = random(batch, width, seed=1), random(batch, width, seed=2)
    return Case(name, loss, expected, student, (teacher, *memories, counts))


CASES = [
    case("CIFAR-100's numbers of negatives and examples", 3, 128, 60, negatives=16384),
    case("few examples", 5, 8, 40, examples=100, constants=(500.0, 900.0)),
    case("a high temperature", 4, 8, 30, temperature=1.0, constants=(60.0, 50.0)),
    Case("in the batch", crd_in_batch_loss, in_batch, random(6, 9, seed=1), (random(6, 9, seed=2),)),
    Case(
        "in the batch, by class",
        crd_in_batch_loss,
        in_batch,
        random(7, 9, seed=1),
        (random(7, 9, seed=2), np.array([0, 1, 0, 2, 2, 2, 1])),
    ),
]
STEP = Step(number=0, epoch=0)
pytestmark = pytest.mark.filterwarnings("ignore:.*shuffle", "ignore:Gradients do not exist")


def bound(count=12, width=(6, 9), **options):
    method = CRD(**{"examples": count, "negatives": 50, "width": 8, "seed": 3} | options)
    method.bind(*({"embedding": TapSpec(name, (None, size))} for name, size in zip("st", width, strict=True)))
    return method


def taps(batch=4, width=(6, 9), seed=0):
    return [Outputs({"embedding": random(batch, size, seed=seed + side)}) for side, size in enumerate(width)]


def embedded(method, student, teacher):
    return [unit(np.array(e(side["embedding"]))) for e, side in zip(method.embedders, (student, teacher), strict=True)]


def test_the_published_number_of_negatives():
    published = case("published", 2, 128, 16384, constants=(5e4, 6e4))
    assert published.value_error() < 1e-5


def test_the_memories_initially_and_after_a_batch():
    method = bound(count=2000)
    before = [np.array(memory) for memory in (method.student_memory, method.teacher_memory)]
    limit = np.sqrt(3 / 8)
    assert all(0.99 * limit < np.abs(memory).max() <= limit for memory in before) and not same(before[:1], before[1:])
    student, teacher = taps()
    index, label = np.array([5, 0, 1999, 7]), np.array([2, 0, 1, 2])
    method(student, teacher, Batch(None, label, index=index), STEP)
    for old, memory, new in zip(
        before, (method.student_memory, method.teacher_memory), embedded(method, *taps()), strict=True
    ):
        expected = old.copy()
        expected[index] = unit(0.5 * old[index] + 0.5 * new)
        np.testing.assert_allclose(memory, expected, atol=1e-6)
    assert np.array(method.classes)[index].tolist() == label.tolist()
    assert np.sum(np.array(method.classes) == -1) == 1996


def test_the_constants_are_those_of_the_first_batch():
    method = bound()
    assert np.array(method.constants).tolist() == [-1, -1]
    memory = np.array(method.teacher_memory)
    student, teacher = taps(batch=1)
    method(student, teacher, Batch(None, index=np.array([3])), STEP)
    first = np.array(method.constants)
    # The same draw: fifty numbers of a generator of the same seed; without labels an example excludes itself alone.
    drawn = np.array(keras.random.randint((50,), 0, 12, seed=keras.random.SeedGenerator(3)))
    scores = np.exp(memory @ embedded(method, student, teacher)[0][0] / 0.07)
    negatives = scores[drawn[drawn != 3]]
    assert first[0] == pytest.approx(12 * (scores[3] + 50 * negatives.mean()) / 51, rel=1e-4)
    method(*taps(seed=5), Batch(None, index=np.arange(4)), STEP)
    np.testing.assert_array_equal(method.constants, first)


def test_the_negatives_are_of_other_classes_and_their_counts_sum_to_k():
    total, index, classes = 100000, np.array([0, 1, 2, 3]), np.arange(12) % 3
    method = bound(negatives=total)
    method.classes.assign(classes)
    method.constants.assign([3e5, 4e5])
    memories = [np.array(memory, "float64") for memory in (method.student_memory, method.teacher_memory)]
    loss = float(method(*taps(), Batch(None, classes[index], index=index), STEP))
    # The same draw: of each example's m draws of other classes, each counts K / m times.
    drawn = np.array(keras.random.randint((total,), 0, 12, seed=keras.random.SeedGenerator(3)))
    counts = np.bincount(drawn, minlength=12) * (classes[index][:, None] != classes[None, :])
    counts = counts * total / counts.sum(-1, keepdims=True)
    # Eight of twelve are of another class: each is expected K / 8 times; five standard deviations of the draw.
    assert np.abs(counts[counts > 0] - total / 8).max() < 5 * 1.5 * np.sqrt(2 / 3 * total * 1 / 8 * 7 / 8)
    remembered = [(memory[index], memory) for memory in memories]
    expected = reference(*embedded(method, *taps()), *remembered, counts, (3e5, 4e5), total, 12, 0.07).mean()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_single_class_has_no_negatives():
    method = bound()
    method.classes.assign(np.zeros(12))
    loss = method(*taps(), Batch(None, np.zeros(4, int), index=np.arange(4)), STEP)
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("options", [{"examples": 12}, {"examples": None}])
def test_labels_as_integers_columns_and_one_hot(options):
    labels = np.array([1, 0, 1, 2])
    forms = (labels, labels[:, None], np.eye(3, dtype="float32")[labels])
    losses = [float(bound(**options)(*_same(), Batch(None, form, index=np.arange(4)), STEP)) for form in forms]
    assert losses[0] == losses[1] == losses[2]
    assert losses[0] != float(bound(**options)(*_same(), Batch(None, index=np.arange(4)), STEP))


def _same():
    keras.utils.set_random_seed(1)  # the adapters start as before
    return taps()


@pytest.mark.parametrize("options", [{"examples": 12}, {"examples": None}])
def test_the_loss_uses_example_weights(options):
    def loss(weight):
        keras.utils.set_random_seed(1)
        return float(bound(**options)(*taps(), Batch(None, weight=weight, index=np.arange(4)), STEP))

    single = [loss(4 * np.eye(4, dtype="float32")[i]) for i in range(4)]
    assert loss(None) == pytest.approx(np.mean(single), rel=1e-5)
    assert loss(np.array([1, 2, 0, 3])) == pytest.approx((single[0] + 2 * single[1] + 3 * single[3]) / 4, rel=1e-5)


def test_without_memory_it_has_no_state_and_needs_no_index():
    method = bound(examples=None)
    assert not method.needs_index and method.across_replicas and not method.non_trainable_variables
    assert len(method.trainable_variables) == 4
    assert np.isfinite(float(method(*taps(), Batch(None), STEP)))
    assert float(bound(examples=None)(*taps(batch=1), Batch(None), STEP)) == pytest.approx(0, abs=1e-6)


def test_without_memory_replicas_compute_the_same_update():
    x, y = examples(37)
    results = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            distiller = harness.distiller(CRD, normalized=False, arguments={"examples": None})
        history = distiller.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0).history
        results.append((values(distiller.trainable_variables), history["crd"]))
    assert same(results[0][0], results[1][0], atol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4)


def test_replicas_have_equal_memories():
    x, y = harness.batch(CRD, 37)
    results = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            distiller = harness.distiller(CRD, normalized=False)
        distiller.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0)
        method = distiller.methods[0]
        for variable in method.non_trainable_variables:
            copies = [np.array(copy) for copy in getattr(variable.value, "values", [variable.value])]
            assert len(copies) == devices and same(copies[:1], copies[-1:])
        results.append(values(method.non_trainable_variables))
    assert same(*results, atol=2e-5) and np.array(method.classes).tolist() == [*y, -1, -1, -1]


def test_a_missing_index_or_one_beyond_the_memory_raises():
    with pytest.raises(ValueError, match=r"(?s)batch.index.*'crd'.*data.training\(..., with_index=True\)"):
        bound()(*taps(), Batch(None, np.zeros(4)), STEP)
    distiller = harness.distiller(CRD, jit_compile=True)
    x, y = harness.batch(CRD)
    x = {**x, "kd_index": x["kd_index"] + 9}  # 40 is one too many
    with pytest.raises(ValueError, match=r"numbers from 0 to 39 for CRD\(examples=40\).*numbers from 9 to 40"):
        distiller.fit(x, y, verbose=0)
    known = {**x, "kd_index": x["kd_index"] - 9}
    with pytest.raises(FloatingPointError, match=r"crd nan.*below CRD\(examples=\.\.\.\)"):  # after the checked ones
        distiller.fit((batch for batch in [*[(known, y)] * 8, (x, y)]), verbose=0)
    for number in (-1, 12):
        method = bound()
        before = values([method.student_memory, method.teacher_memory])
        assert np.isnan(method(*taps(), Batch(None, index=np.array([3, 1, 2, number])), STEP))
        for old, new in zip(before, values([method.student_memory, method.teacher_memory]), strict=True):
            assert np.array_equal(old[[0, 11]], new[[0, 11]]) and not np.array_equal(old[3], new[3])


@pytest.mark.parametrize(
    "options, error",
    [
        ({"examples": 1}, ValueError),
        ({"examples": "all"}, TypeError),
        ({"negatives": 0}, ValueError),
        ({"negatives": 2.5}, ValueError),
        ({"width": 0}, ValueError),
        ({"temperature": 0}, ValueError),
        ({"momentum": 1.0}, ValueError),
        ({"momentum": -0.1}, ValueError),
        ({"seed": -1}, ValueError),
    ],
)
def test_invalid_arguments_raise(options, error):
    with pytest.raises(error, match=next(iter(options))):
        CRD(**{"examples": 40} | options)


def test_the_loss_without_a_memory_is_an_explicit_choice():
    with pytest.raises(TypeError, match="examples"):
        CRD()
    assert not CRD(examples=None).needs_index


def test_taps_that_are_not_embeddings_raise():
    method = CRD(examples=40, student_tap="stages[0]")
    with pytest.raises(ValueError, match=r"(?s)vectors \(B, D\).*\(None, 4, 4, 3\).*embedding"):
        method.bind({"stages[0]": TapSpec("s", (None, 4, 4, 3))}, {"embedding": TapSpec("t", (None, 5))})
