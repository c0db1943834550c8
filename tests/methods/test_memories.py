"""What methods remember is unchanged by a batch that is not finite, because a skipped step does not undo it."""

import numpy as np
import pytest

from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import CIRKD, CRD, EKD, AdaDistill, Queue
from tests.support.reference import random

STEP = Step(number=0, epoch=0)
LABELS, NUMBERS = np.array([0, 0, 1, 1], "int32"), np.arange(4)
MEMORIES = {"student_memory", "teacher_memory", "constants", "queue", "filled", "centers", "rows", "next"}
MEMORIES |= {"student_anchors", "teacher_anchors"}
CIRKD_SIZES = {"pixels": 12, "regions": 4, "added": 3, "drawn_pixels": 20, "drawn_regions": 8, "seed": 0}


def remembered(method):
    return {variable.path: np.array(variable) for variable in method.variables if variable.name in MEMORIES}


def embeddings(seed):
    return [Outputs({"embedding": random(4, 6, seed=seed + side).astype("float32")}) for side in (0, 1)]


def maps(seed):
    return [Outputs({tap: random(4, 3, 3, 6, seed=seed + side).astype("float32")}) for side, tap in enumerate(TAPS)]


TAPS = ("stages[-1]", "stages[-1]")
CASES = {
    "CRD": (lambda: CRD(examples=20, negatives=8), embeddings, LABELS),
    "EKD": (EKD, embeddings, LABELS),
    "Queue": (lambda: Queue(size=10), embeddings, LABELS),
    "AdaDistill": (lambda: AdaDistill(classes=3), embeddings, LABELS),
    "CIRKD": (lambda: CIRKD(classes=2, **CIRKD_SIZES), maps, np.repeat(LABELS, 9).reshape(4, 3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_that_is_not_finite_leaves_what_is_remembered(name):
    make, outputs, labels = CASES[name]
    method = make()
    specs = [{tap: TapSpec(tap, (None, *np.shape(tensor)[1:])) for tap, tensor in side.items()} for side in outputs(0)]
    method.bind(*specs)
    method(*outputs(0), Batch(None, labels, index=NUMBERS), STEP)
    before = remembered(method)
    assert before and any(np.any(value) for value in before.values())
    bad = [Outputs({tap: np.full_like(tensor, np.nan) for tap, tensor in side.items()}) for side in outputs(2)]
    assert np.isnan(float(method(*bad, Batch(None, labels, index=NUMBERS), STEP)))
    after = remembered(method)
    assert all(np.isfinite(value).all() for value in after.values())
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value, err_msg=path)
