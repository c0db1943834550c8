"""EKD against NumPy in float64, pair by pair, and its thresholds against a list."""

import functools

import numpy as np
import pytest

from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import EKD, ekd_loss
from kd_keras.methods.ekd import RATES, ekd_anchors
from tests.support.reference import Case, random, unit

STEP = Step(number=0, epoch=0)
# With the published values the thresholds stay near 0 for hundreds of batches, where the similarities of the harness's
# network, which ends in a ReLU, are all far above them.
OPTIONS = {"EKD": {"momentum": 1.0, "temperature": 0.1}}
LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 3])


def pairs(embedding, labels):
    """The similarities of the pairs of one identity and of two, in the order i < j."""
    embedding, positive, negative = unit(embedding), [], []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            (positive if labels[i] == labels[j] else negative).append(embedding[i] @ embedding[j])
    return np.array(positive), np.array(negative)


def ranks(similarities, anchors, temperature):
    exponents = np.clip(-(similarities[:, None] - anchors) / temperature, -50, 50)
    return (1 / (1 + np.exp(exponents))).sum(-1)


def reference(student, teacher, labels, student_anchors, teacher_anchors, hardest=2000, temperature=0.01):
    (s_pos, s_neg), (t_pos, t_neg) = (pairs(side, labels) for side in (student, teacher))
    chosen = np.argsort(-s_neg)[:hardest]
    positive = ranks(s_pos, student_anchors, temperature) - ranks(t_pos, teacher_anchors, temperature)
    negative = ranks(s_neg[chosen], student_anchors, temperature) - ranks(t_neg[chosen], teacher_anchors, temperature)
    means = [np.mean(difference**2) if len(difference) else 0.0 for difference in (positive, negative)]
    return np.array(0.02 * means[0] + 0.01 * means[1])


def case(name, labels=LABELS, **options):
    anchors = [np.sort(np.random.default_rng(seed).uniform(-0.3, 0.8, 6)).astype("float32") for seed in (3, 4)]
    others = (random(len(labels), 5, seed=2), labels, *anchors)
    loss, expected = (functools.partial(function, **options) for function in (ekd_loss, reference))
    return Case(name, loss, expected, random(len(labels), 6, seed=1), others, 1e-6)


CASES = [
    case("published"),
    case("some of the pairs", hardest=7),
    case("a high temperature", temperature=0.1, hardest=12),
    case("no pair of one identity", labels=np.arange(5)),
    case("no pair of two identities", labels=np.zeros(4, "int64")),
]


@pytest.mark.parametrize("labels", [LABELS, np.arange(20) // 2, np.zeros(3, "int64")])
def test_thresholds_are_those_of_the_authors_code(labels):
    embedding, anchors = random(len(labels), 6, seed=1), np.linspace(0.5, 0, 6).astype("float32")
    negative = np.sort(pairs(embedding.astype("float64"), labels)[1])[::-1]
    expected = anchors
    if len(negative):
        chosen = negative[[len(negative) // count for count in (10, 100, 1000, 10_000, 100_000, 1_000_000)]]
        expected = 0.01 * chosen + 0.99 * anchors
    np.testing.assert_allclose(ekd_anchors(embedding, labels, anchors), expected, atol=1e-6)


def test_a_batch_moves_the_thresholds_before_the_loss():
    method = EKD(momentum=0.25)
    method.bind({"embedding": TapSpec("s", (None, 6))}, {"embedding": TapSpec("t", (None, 5))})
    student, teacher = random(8, 6, seed=1), random(8, 5, seed=2)
    sides, expected = (student, teacher), [np.zeros(6), np.zeros(6)]
    for _ in range(2):
        loss = method(*(Outputs({"embedding": side}) for side in sides), Batch(None, LABELS), STEP)
        for number, side in enumerate(sides):
            negative = np.sort(pairs(side.astype("float64"), LABELS)[1])[::-1]
            new = negative[[len(negative) // round(1 / rate) for rate in RATES]]
            expected[number] = 0.75 * expected[number] + 0.25 * new
    np.testing.assert_allclose(method.student_anchors, expected[0], atol=1e-6)
    np.testing.assert_allclose(method.teacher_anchors, expected[1], atol=1e-6)
    again = reference(*(side.astype("float64") for side in sides), LABELS, *expected)
    assert float(loss) == pytest.approx(float(again), rel=1e-4)


def test_it_is_zero_at_the_teacher():
    x, anchors = random(8, 6), np.linspace(-0.5, 0.5, 6)
    assert float(ekd_loss(x, 3 * x, LABELS, anchors, anchors)) == pytest.approx(0, abs=1e-9)


def test_without_labels_it_raises():
    method = EKD()
    method.bind({"embedding": TapSpec("s", (None, 6))}, {"embedding": TapSpec("t", (None, 5))})
    with pytest.raises(ValueError, match="labels.*ekd"):
        method(*(Outputs({"embedding": random(4, width)}) for width in (6, 5)), Batch(None), STEP)


def test_a_batch_without_pairs_of_one_identity_warns():
    with pytest.warns(UserWarning, match="ekd.*4 images of 4 identities.*images_per_identity=4"):
        EKD().check_batch(Batch(None, np.arange(4)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [LABELS, np.zeros(1, "int64"), None])
def test_other_batches_do_not_warn(labels):
    EKD().check_batch(Batch(None, labels))
