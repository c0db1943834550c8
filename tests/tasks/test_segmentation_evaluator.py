"""Segmentation networks are evaluated together: each image passes through each network once."""

import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data, models
from kd_keras.evaluation import Candidate
from kd_keras.tasks.segmentation.evaluator import SegmentationEvaluator
from tests.support.networks import counted

NAMES = ("sky", "road")


@pytest.fixture(scope="module")
def scenes():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype("uint8")
    rows = {"image": images, "index": np.arange(5), "label": (images[..., 0] > 127).astype("int32")}
    return data.Source(tf.data.Dataset.from_tensor_slices(rows), "scenes", 5, 2, NAMES, (16, 16, 3))


def network():
    return models.build("segmenter/resnet8", (16, 16, 3), 2, width=4)


def test_the_teacher_of_two_students_sees_each_batch_once(scenes):
    teacher, passes = counted(network())
    evaluator = SegmentationEvaluator(scenes, batch_size=2)
    candidates = [Candidate("teacher", teacher), Candidate("one", network()), Candidate("two", network())]
    evaluator.evaluate(iter(candidates))
    assert passes.read() == (0, 3)  # batches of 2, 2 and 1 images
    assert evaluator.teacher == "teacher" and list(evaluator.findings) == ["teacher", "one", "two"]
    assert ["agreement" in findings for findings in evaluator.findings.values()] == [False, True, True]


def test_classes_of_every_network_are_checked_before_any_runs(scenes):
    teacher, passes = counted(network())
    with pytest.raises(ValueError, match="in this order, but received one with .*'road', 'sky'"):
        candidates = [Candidate("teacher", teacher), Candidate("one", network(), NAMES[::-1])]
        SegmentationEvaluator(scenes).evaluate(candidates)
    assert passes.read() == (0, 0)
