"""Segmentation networks are evaluated together: each image passes through each network once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import data, models
from kd_keras.evaluation import Candidate
from kd_keras.tasks.segmentation.counts import count_pixels
from kd_keras.tasks.segmentation.evaluator import SegmentationEvaluator
from kd_keras.tasks.segmentation.export import ClassMaps, export_class_maps
from kd_keras.tasks.segmentation.monitoring import iou_function
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


def test_a_network_that_is_not_finite_is_no_background(scenes, tmp_path):
    broken = network()
    broken.get_layer("fine_logits").kernel.assign(np.full(broken.get_layer("fine_logits").kernel.shape, np.nan))
    with pytest.raises(ValueError, match="finite outputs of broken, but received NaN or infinity"):
        SegmentationEvaluator(scenes).evaluate([Candidate("teacher", network()), Candidate("broken", broken)])
    batches = data.evaluation(scenes, batch_size=5)
    assert np.isnan(iou_function(broken, batches, 2)()["miou"])
    images = np.zeros((2, 16, 16, 3), "uint8")
    with pytest.raises(ValueError, match="finite outputs"):
        export_class_maps(broken, tmp_path / "student", "saved_model", sample=images)
    assert not list(tmp_path.iterdir())


def test_a_single_sigmoid_channel_is_refused(scenes):
    single = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 1, activation="sigmoid")], name="one")
    with pytest.raises(ValueError, match="single channel of a sigmoid.* a channel for each of the two classes"):
        SegmentationEvaluator(scenes).evaluate([Candidate("one", single)])
    with pytest.raises(ValueError, match="single channel of a sigmoid"):
        ClassMaps(single)


def test_a_network_of_another_number_of_classes_is_refused(scenes):
    other = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(5, 1)])
    with pytest.raises(ValueError, match="a network of the 2 classes of scenes, but received other with 5"):
        SegmentationEvaluator(scenes).evaluate([Candidate("other", other)])


def test_a_network_that_is_no_graph_is_evaluated(scenes):
    class Own(keras.Model):
        def __init__(self, classes):
            super().__init__()
            self.convolution = keras.layers.Conv2D(classes, 1)

        def call(self, images):
            return self.convolution(images)

    own, other = Own(2), Own(5)
    for model in (own, other):
        model(np.zeros((1, 16, 16, 3), "float32"))
    evaluator = SegmentationEvaluator(scenes)
    evaluator.evaluate([Candidate("own", own)])
    assert 0 <= evaluator.findings["own"]["miou"] <= 1
    with pytest.raises(ValueError, match="a network of the 2 classes of scenes, but received other with 5"):
        SegmentationEvaluator(scenes).evaluate([Candidate("other", other)])


def test_masks_of_more_classes_than_the_network_has_are_refused(scenes):
    single = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 1)])
    with pytest.raises(ValueError, match="masks of the 1 classes of the network, .* but received values from 0 to 1"):
        iou_function(single, data.evaluation(scenes, batch_size=5), 1)()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_hidden_probabilities_become_logits(scenes, kind, caplog):
    visible = network()
    probabilities = getattr(keras.ops, kind)
    hidden = keras.Model(visible.input, keras.layers.Lambda(lambda z: probabilities(z) + 0)(visible.output))
    shown = keras.Model(visible.input, keras.layers.Activation(kind)(visible.output))
    counts, agreements = count_pixels({"shown": shown, "hidden": hidden}, data.evaluation(scenes, batch_size=5))
    assert counts["hidden"].nll == pytest.approx(counts["shown"].nll, rel=1e-4)
    np.testing.assert_allclose(counts["hidden"].bins, counts["shown"].bins, rtol=1e-4)
    assert agreements["hidden"].kl == pytest.approx(0, abs=1e-3)
    assert f"returns the probabilities of a {kind}" in caplog.text
