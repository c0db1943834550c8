"""SRRL against NumPy in float64, and its copy of the teacher's classifier."""

import keras
import numpy as np
import pytest

from kd_keras import Distiller
from kd_keras.contracts import Batch, Outputs, Step, TapSpec
from kd_keras.methods import SRRL, srrl_loss
from kd_keras.networks.specs import Specs
from kd_keras.teacher import Teacher
from tests.support.networks import CLASSES, compiled, convolutional, examples, values
from tests.support.reference import Case, random


def reference(student, teacher, student_logits, teacher_logits):
    embedding = ((student - teacher) ** 2).sum(-1) / student.shape[1]
    return embedding + ((student_logits - teacher_logits) ** 2).sum(-1) / student_logits.shape[1]


def with_student_list(function):
    """Of the student's embedding and its logits in one list, so that both have a gradient."""
    return lambda student, embedding, logits: function(student[0], embedding, student[1], logits)


CASES = [
    Case(
        "embedding and logits",
        with_student_list(srrl_loss),
        with_student_list(reference),
        [random(6, 9), random(6, 4, seed=1)],
        (random(6, 9, seed=2), random(6, 4, seed=3)),
    )
]


def test_the_loss_is_zero_at_the_teacher():
    embedding, logits = random(3, 8), random(3, 5)
    np.testing.assert_array_equal(srrl_loss(embedding, embedding, logits, logits), np.zeros(3))


def test_the_adapter_and_the_teachers_classifier():
    student, teacher = convolutional(4), convolutional(6, bias_initializer="random_normal")
    method = Distiller(student=student, teacher=teacher, methods=[SRRL()]).methods[0]
    kernel, bias = values(teacher.layers[-1].weights)
    np.testing.assert_array_equal(method.kernel, kernel)
    np.testing.assert_array_equal(method.bias, bias)
    assert [tuple(v.shape) for v in method.trainable_variables] == [(8, 12), (12,), (12,)]  # dense, BatchNorm
    student_embedding, teacher_embedding, logits = random(7, 8), random(7, 12, seed=1), random(7, CLASSES, seed=2)
    dense = student_embedding.astype("float64") @ np.array(method.trainable_variables[0])
    u = np.maximum((dense - dense.mean(0)) / np.sqrt(dense.var(0) + 1e-5), 0)
    outputs = Outputs({"embedding": student_embedding}), Outputs({"embedding": teacher_embedding, "logits": logits})
    loss = method.call(*outputs, Batch(None), Step(0, 0))
    np.testing.assert_allclose(loss, reference(u, teacher_embedding, u @ kernel + bias, logits), rtol=1e-4)


def test_the_classifier_stays_frozen_and_the_adapter_trains():
    student, teacher = convolutional(4), convolutional(6)
    distiller = compiled(Distiller(student=student, teacher=teacher, methods=[SRRL()]), jit_compile=False)
    method, adapter = distiller.methods[0], values(distiller.methods[0].trainable_variables)
    distiller.fit(*examples(), epochs=2, verbose=0)
    assert all(np.abs(a - b).max() > 0 for a, b in zip(adapter, values(method.trainable_variables), strict=True))
    np.testing.assert_array_equal(method.kernel, np.array(teacher.layers[-1].kernel))


def test_another_order_of_the_teachers_classes():
    teacher = convolutional(6, bias_initializer="random_normal")
    ordered = Teacher(teacher, class_order=[2, 0])
    method = Distiller(student=convolutional(classes=2), teacher=ordered, methods=[SRRL()]).methods[0]
    kernel, bias = values(teacher.layers[-1].weights)
    np.testing.assert_array_equal(method.kernel, kernel[:, [2, 0]])
    np.testing.assert_array_equal(method.bias, bias[[2, 0]])


def test_the_classifier_is_loaded_from_the_file(tmp_path):
    distiller = compiled(Distiller(student=convolutional(4), teacher=convolutional(6), methods=[SRRL()]))
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(again.methods[0].kernel, distiller.methods[0].kernel)
    assert np.abs(again.methods[0].kernel).max() > 0


def specs(embedding=(None, 8), logits=(None, 5), classifier=None):
    result = Specs({"embedding": TapSpec("pool", embedding), "logits": TapSpec("logits", logits)})
    result.classifier = lambda: classifier
    return result


def test_networks_that_do_not_fit_raise():
    with pytest.raises(ValueError, match=r"(?s)vectors.*'pool' \(None, 4, 8\).*Choose networks"):
        SRRL().bind(specs((None, 4, 8)), specs())
    with pytest.raises(ValueError, match=r"(?s)kernel \(8, 5\).*\(8, 6\).*Choose a teacher"):
        SRRL().bind(specs(), specs(classifier=(np.zeros((8, 6)), np.zeros(6))))


@pytest.mark.parametrize("layer", [keras.layers.Rescaling(0.4), keras.layers.Activation("log_softmax")])
def test_a_layer_after_the_classifier_is_refused(layer):
    plain = convolutional()
    teacher = keras.Model(plain.input, layer(plain.output))
    with pytest.raises(ValueError, match="that returns its logits, but received .* after .*leave|build it without"):
        Distiller(student=convolutional(), teacher=teacher, methods=[SRRL()], hard_weight=0)
