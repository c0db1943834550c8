"""The step and its guarantees, each on a real fit."""

import contextlib
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kd_keras import Distiller, Teacher
from kd_keras.contracts import INDEX, INPUTS, RECORDED
from kd_keras.methods import KD, FitNet, Method
from kd_keras.private_api import sub_layers
from kd_keras.training import TeacherCheck
from tests.support.methods import Similarities
from tests.support.networks import CLASSES, SHAPE, compiled, convolutional, counted, examples, mirrored, same, values
from tests.support.reference import log_softmax, softmax

X, Y = examples()
UNCHECKED = TeacherCheck([])  # the check before training runs the teacher too, but only passes of steps count here
KD_AND_FITNET = [lambda: KD(), lambda: FitNet(weight=0.5)]
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:Gradients do not", "ignore:.shuffle")


def pair(methods=None, hard_weight=1.0, normalized=False, student=None, teacher=None, **options):
    student = student or convolutional(4, normalized=normalized)
    teacher = teacher or convolutional(6, normalized=normalized, name="teacher")
    methods = [make() for make in (KD_AND_FITNET if methods is None else methods)]
    return compiled(Distiller(student=student, teacher=teacher, methods=methods, hard_weight=hard_weight), **options)


def cross_entropy(logits, labels):
    return -log_softmax(np.array(logits, "float64"))[np.arange(len(labels)), labels]


def kd(student, teacher, temperature=4.0):
    student, teacher = (np.array(logits, "float64") / temperature for logits in (student, teacher))
    return temperature**2 * (softmax(teacher) * (log_softmax(teacher) - log_softmax(student))).sum(-1)


def test_one_student_pass_and_one_teacher_pass_a_step():
    (student, of_student), (teacher, of_teacher) = counted(convolutional()), counted(convolutional(6))
    distiller = pair(student=student, teacher=teacher)
    distiller.fit(X, Y, batch_size=8, epochs=2, callbacks=[UNCHECKED], verbose=0)
    assert of_student.read() == (8, 0) and of_teacher.read() == (0, 8)
    distiller.evaluate(X, Y, batch_size=8, verbose=0)
    distiller.predict(X, batch_size=8, verbose=0)
    assert of_student.read() == (8, 8) and of_teacher.read() == (0, 8)


def test_evaluate_changes_no_variable_and_its_loss_is_the_hard_loss():
    distiller = pair(normalized=True)
    distiller.fit(X, Y, verbose=0)
    everything = distiller.variables + distiller.optimizer.variables
    before = values(everything)
    result = distiller.evaluate(X, Y, batch_size=10, verbose=0, return_dict=True)
    assert same(before, values(everything))
    logits = distiller.student(X, training=False)
    assert set(result) == {"loss", "accuracy"}
    assert result["loss"] == pytest.approx(cross_entropy(logits, Y).mean(), rel=1e-5)
    assert result["accuracy"] == pytest.approx((np.array(logits).argmax(-1) == Y).mean())
    assert set(distiller.test_on_batch(X, Y, return_dict=True)) == {"loss", "accuracy"}


def test_the_teacher_never_changes_and_is_never_saved(tmp_path):
    teacher = convolutional(6, normalized=True, dropout=0.3, name="teacher")
    distiller = pair(teacher=teacher, normalized=True)
    before, trainable = values(teacher.variables), len(teacher.trainable_variables)
    distiller.fit(X, Y, epochs=3, verbose=0)
    assert same(before, values(teacher.variables)) and len(teacher.trainable_variables) == trainable
    of_teacher = {id(variable) for variable in teacher.variables}
    assert not of_teacher & {id(variable) for variable in distiller.variables + distiller.optimizer.variables}
    assert not set(map(id, sub_layers(teacher))) & set(map(id, sub_layers(distiller)))
    saved = tf.train.Checkpoint(model=distiller).save(str(tmp_path / "checkpoint"))
    stored = [tf.train.load_variable(saved, name) for name, shape in tf.train.list_variables(saved) if shape]
    assert len(stored) >= len(distiller.trainable_variables)
    assert not any(k.shape == b.shape and b.ndim > 1 and np.array_equal(k, b) for k in stored for b in before)
    distiller.save(tmp_path / "distiller.keras")
    assert keras.saving.load_model(tmp_path / "distiller.keras").teacher.specs == distiller.teacher.specs
    bytes_of = {"distiller": distiller, "student": distiller.student}
    counts = {name: sum(np.prod(v.shape) for v in model.variables) for name, model in bytes_of.items()}
    adapters = sum(np.prod(v.shape) for method in distiller.methods for v in method.variables)
    assert counts["distiller"] == counts["student"] + adapters + 1  # and the epoch


def test_terms_weights_and_total():
    distiller = pair(methods=[lambda: KD(weight=0.9), lambda: KD(weight=0.5, temperature=1.0)], hard_weight=0.1)
    student, teacher = distiller.student(X), distiller.teacher.networks[0](X)
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    expected = {"hard": cross_entropy(student, Y).mean(), "kd": kd(student, teacher).mean()}
    expected["kd_2"] = kd(student, teacher, 1.0).mean()
    assert {name: logs[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    total = 0.1 * expected["hard"] + 0.9 * expected["kd"] + 0.5 * expected["kd_2"]
    assert logs["loss"] == pytest.approx(total, rel=1e-5)


def test_the_update_is_the_gradient_of_the_total():
    distiller = pair(methods=[lambda: KD(weight=0.9)], hard_weight=0.1, optimizer=keras.optimizers.SGD(1.0))
    kernel, before = distiller.student.get_layer("logits").kernel, values(distiller.student.get_layer("logits").weights)
    embedding = np.array(keras.Model(distiller.student.input, distiller.student.get_layer("pool").output)(X), "float64")
    student, teacher = (np.array(m(X), "float64") for m in (distiller.student, distiller.teacher.networks[0]))
    distiller.train_on_batch(X, Y)
    slope = 0.1 * (softmax(student) - np.eye(CLASSES)[Y]) + 0.9 * 4.0 * (softmax(student / 4) - softmax(teacher / 4))
    np.testing.assert_allclose(before[0] - np.array(kernel), embedding.T @ slope / len(X), atol=1e-6)


def test_sample_weights_reach_every_term_per_example():
    distiller = pair(methods=[KD])
    weight = np.linspace(0, 2, len(X)).astype("float32")
    student, teacher = distiller.student(X), distiller.teacher.networks[0](X)
    logs = distiller.train_on_batch(X, Y, sample_weight=weight, return_dict=True)
    assert logs["hard"] == pytest.approx((weight * cross_entropy(student, Y)).mean(), rel=1e-5)
    assert logs["kd"] == pytest.approx((weight * kd(student, teacher)).mean(), rel=1e-5)
    before = values(distiller.student.trainable_variables)
    distiller.compile(optimizer=keras.optimizers.SGD(0.1), loss=distiller.loss)
    distiller.fit(X, Y, sample_weight=np.zeros(len(X)), verbose=0)
    assert same(before, values(distiller.student.trainable_variables))


def test_regularizers_count_whatever_the_hard_weight():
    student = convolutional(kernel_regularizer=keras.regularizers.L2(0.01))
    unlabeled = {"loss": None, "metrics": None}
    distiller = pair(methods=[], hard_weight=0, student=student, optimizer=keras.optimizers.SGD(1.0), **unlabeled)
    kernels = [layer.kernel for layer in student.layers if hasattr(layer, "kernel")]
    before = values(kernels)
    logs = distiller.fit(X, verbose=0).history
    assert logs["loss"] == [pytest.approx(sum(0.01 * (kernel**2).sum() for kernel in before), rel=1e-5)]
    assert logs["regularization"] == logs["loss"]
    for old, new in zip(before, values(kernels), strict=True):
        np.testing.assert_allclose(new, old * (1 - 2 * 0.01), rtol=1e-5)


def test_images_without_labels_are_enough():
    distiller = pair(methods=[KD], hard_weight=0, loss=None, metrics=None)
    for data in (X, tf.data.Dataset.from_tensor_slices(X).batch(8), tf.data.Dataset.from_tensor_slices((X,)).batch(8)):
        assert set(distiller.fit(data, verbose=0).history) == {"kd", "loss"}
    with pytest.raises(ValueError, match=r"(?s)labels.*hard_weight=0"):
        pair().fit(X, verbose=0)
    with pytest.raises(ValueError, match=r"(?s)a loss for the labels.*compile"):
        pair(loss=None).fit(X, Y, verbose=0)


def test_every_form_of_data_gives_the_same_student():
    def trained(*data, **options):
        keras.utils.set_random_seed(0)
        distiller = pair()
        distiller.fit(*data, shuffle=False, verbose=0, **options)
        return values(distiller.student.variables)

    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    keyed = rows.map(lambda x, y: ({INPUTS: x, INDEX: tf.range(tf.shape(x)[0])}, y))
    weighted = rows.map(lambda x, y: (x, y, tf.ones(tf.shape(x)[0])))
    arrays = trained(X, Y, batch_size=16)
    for data in (rows, keyed, weighted):
        assert same(arrays, trained(data), atol=1e-6)


def test_networks_with_several_named_inputs():
    def network(name):
        inputs = {key: keras.Input((4,), name=key) for key in ("left", "right")}
        x = layers.Dense(6, activation="relu")(layers.Concatenate()(list(inputs.values())))
        return keras.Model(inputs, layers.Dense(CLASSES)(x), name=name)

    distiller = pair(methods=[KD], student=network("s"), teacher=network("t"))
    x = {key: np.random.default_rng(0).normal(size=(32, 4)).astype("float32") for key in ("left", "right")}
    assert np.isfinite(distiller.fit(x, Y, verbose=0).history["kd"]).all()
    assert distiller.predict(x, verbose=0).shape == (32, CLASSES)


def test_recorded_outputs_give_the_same_student_and_the_teacher_does_not_run():
    results = []
    for recorded in (False, True):
        keras.utils.set_random_seed(0)
        teacher, passes = counted(convolutional(6, name="teacher"))
        distiller = pair(methods=[KD], teacher=teacher)
        data = tf.data.Dataset.from_tensor_slices(({INPUTS: X}, Y))
        if recorded:
            logits = np.array(teacher(X, training=False))
            passes.counts[False].assign(0.0)
            data = tf.data.Dataset.from_tensor_slices(({INPUTS: X, RECORDED: {"logits": logits}}, Y))
        distiller.fit(data.batch(16), epochs=2, callbacks=[UNCHECKED], verbose=0)
        results.append(values(distiller.student.variables))
        assert passes.read() == (0, 0 if recorded else 4)
    assert same(*results, atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Seen(Method):
    """A method that returns the step and the epoch that it receives."""

    def call(self, student, teacher, batch, step):
        return keras.ops.cast(100 * step.epoch + step.number, "float32") + 0 * keras.ops.sum(student["logits"])


def test_a_method_sees_step_and_epoch_and_its_weight_follows_a_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [1.0, 0.0])
    methods = [lambda: Seen(weight=schedule), lambda: Seen(weight=lambda step: step.epoch == 1)]
    distiller = pair(methods=methods, hard_weight=0)
    distiller.compile(optimizer=keras.optimizers.SGD(0.0))
    logs = distiller.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert logs["seen"] == [pytest.approx(np.mean([0, 1, 2, 3])), pytest.approx(100 + np.mean([4, 5, 6, 7]))]
    # Keras's schedule is 1 up to and including step 3; the function is 1 only in epoch 1.
    assert logs["loss"] == [pytest.approx(np.mean([0, 1, 2, 3])), pytest.approx(100 + np.mean([4, 5, 6, 7]))]
    assert distiller.fit(X, Y, batch_size=8, epochs=6, initial_epoch=5, verbose=0).history["seen"][0] > 500


def test_a_student_with_a_loss_of_its_own():
    class OwnLoss(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return 3.0 * keras.ops.mean(y_pred**2)

    body = convolutional()
    student = OwnLoss(body.input, body.output)
    distiller = pair(methods=[KD], student=student, loss=None, metrics=None)
    expected = 3 * (np.array(student(X)) ** 2).mean()
    assert distiller.train_on_batch(X, Y, return_dict=True)["hard"] == pytest.approx(expected, rel=1e-5)
    assert distiller.evaluate(X, Y, verbose=0, return_dict=True).keys() == {"loss"}


@pytest.mark.parametrize("kind", ["sequential", "nested", "subclassed", "application"])
def test_models_of_any_kind_are_students(kind):
    body = convolutional(name="body")
    if kind == "sequential":
        student = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(CLASSES, activation="softmax")])
    elif kind == "nested":
        student = keras.Sequential([keras.Input(SHAPE), body, layers.Softmax()])
    elif kind == "application":
        shape = (32, 32, 3)
        student = keras.applications.MobileNet(weights=None, input_shape=shape, classes=CLASSES, alpha=0.25)
    else:

        class Own(keras.Model):
            def __init__(self):
                super().__init__()
                self.body = body

            def call(self, x, training=None):
                return keras.ops.log_softmax(self.body(x, training=training))

        student = Own()
        student(X)
    x = X if kind != "application" else np.repeat(np.repeat(X, 4, 1), 4, 2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=kind == "subclassed")
    distiller = pair(methods=[KD], student=student, loss=loss)
    history = distiller.fit(x, Y, epochs=3, verbose=0).history
    output = student(x, training=False)
    expected = cross_entropy(np.log(np.array(output)) if kind != "subclassed" else output, Y).mean()
    assert np.isfinite(history["kd"]).all()
    assert distiller.evaluate(x, Y, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-4)


def test_export_contains_only_the_student(tmp_path):
    distiller = pair()
    distiller.fit(X, Y, verbose=0)
    distiller.export(str(tmp_path / "exported"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(served.serve(X), distiller.student(X), atol=1e-6)
    assert len(served.variables) == len(distiller.student.variables)


def test_a_loaded_distiller_needs_its_teacher_attached(tmp_path):
    distiller = pair()
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    with pytest.raises(ValueError, match=r"(?s)a teacher.*attach"):
        again.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"(?s)4, 4, 12\).*4, 4, 18\)"):
        again.attach(convolutional(9))
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(distiller.evaluate(X, Y, verbose=0), rel=1e-6)


def test_a_loaded_distiller_scales_its_loss_in_float16(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    student = convolutional()
    keras.config.set_dtype_policy("float32")
    distiller = pair(methods=[], teacher=None, hard_weight=1.0, student=student, optimizer=keras.optimizers.Adam())
    distiller.fit(X, Y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.saving.load_model(tmp_path / "distiller.keras")
    assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(again.optimizer.iterations) == int(distiller.optimizer.iterations) > 0


@pytest.mark.parametrize("how", ["loaded", "cloned"])
def test_a_loaded_student_in_float16_has_its_loss_scaled(how, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    student = convolutional()
    keras.config.set_dtype_policy("float32")
    student.save(tmp_path / "student.keras")
    loaded = how == "loaded"
    again = keras.saving.load_model(tmp_path / "student.keras") if loaded else keras.models.clone_model(student)
    model = pair(methods=[], teacher=None, hard_weight=1.0, student=again)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_distiller_is_no_student_and_teaches_as_its_student():
    distiller = pair(methods=[KD])
    with pytest.raises(TypeError, match="Pass its student"):
        Distiller(student=distiller)
    taught = pair(methods=[KD], teacher=distiller)
    assert taught.teacher.networks == [distiller.student]


def test_training_needs_a_loss():
    distiller = pair(methods=[], hard_weight=0)
    for train in (distiller.fit, distiller.train_on_batch):
        with pytest.raises(ValueError, match="a loss to train on, but received no method and hard_weight=0"):
            train(X, Y)


def test_another_teacher_can_be_attached():
    distiller = pair(methods=[KD], hard_weight=0)
    distiller.fit(X, Y, verbose=0)
    second = convolutional(6, name="second")
    distiller.attach(second)
    expected = kd(distiller.student(X), second(X)).mean()
    assert distiller.train_on_batch(X, Y, return_dict=True)["kd"] == pytest.approx(expected, rel=1e-4)


def test_dropout_is_active_in_the_one_pass():
    distiller = pair(methods=[KD], student=convolutional(dropout=0.9), optimizer=keras.optimizers.SGD(0.0))
    logged = [distiller.train_on_batch(X, Y, return_dict=True)["hard"] for _ in range(2)]
    assert logged[0] != logged[1]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"student": "resnet"}, TypeError, r"Distiller\(student=...\) must be a Keras model.*str"),
        ({"teacher": None}, ValueError, r"\['kd'\] need a teacher.*none"),
        ({"student": "net.keras"}, TypeError, r"received 'net.keras' \(str\). Load the file"),
        ({"teacher": "net.keras"}, TypeError, r"received 'net.keras' \(str\). Load a file"),
        ({"methods": ["kd"]}, TypeError, "kd_keras.methods.KD"),
        ({"methods": "kd"}, TypeError, r"list of methods.*received 'kd' \(str\).*brackets"),
        ({"methods": KD()}, TypeError, r"list of methods.*\(KD\).*brackets"),
        ({"methods": [KD]}, TypeError, r"Pass KD\(\), an object"),
        ({"methods": [KD()] * 2}, ValueError, "'kd' twice"),
        ({"hard_weight": "all"}, TypeError, "hard_weight"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, error, message):
    arguments = {"student": convolutional(), "teacher": convolutional(6), "methods": [KD()]} | arguments
    with pytest.raises(error, match=message):
        Distiller(**arguments)


@pytest.mark.parametrize(
    "x, message",
    [
        ({"pixels": X, "label": Y}, r"the inputs .* of network '.*', but received a dictionary with the keys"),
        ((X, X), "but received 2 tensors"),
        ({INDEX: Y}, f"under the key '{INPUTS}'"),
    ],
)
def test_batches_without_the_networks_inputs_are_rejected(x, message):
    with pytest.raises(ValueError, match=message):
        pair([KD]).fit(x, Y, verbose=0)


class Unpublished(KD):
    """A method whose paper has another weight of the hard loss than KD's."""

    published_hard_weight = 0.7


@pytest.mark.parametrize(
    "methods, weight, reason",
    [
        ([KD], KD.published_hard_weight, "published with kd"),
        ([KD, lambda: KD(temperature=1.0, name="cool")], KD.published_hard_weight, "published with kd, cool"),
        ([KD, Unpublished], 1.0, "differ"),
        ([], 1.0, "no method"),
    ],
)
def test_the_hard_weight_is_the_published_one_if_the_methods_agree(methods, weight, reason, caplog):
    with caplog.at_level(logging.INFO, logger="kd_keras"):
        distiller = pair(methods=methods, hard_weight=None)
    assert distiller.hard_weight == weight and reason in distiller.hard_weight_reason
    if methods:
        assert f"hard_weight {weight:g}" in caplog.text and reason in caplog.text
    else:  # plain training has nothing to explain
        assert "hard_weight" not in caplog.text


def test_a_given_hard_weight_is_used_and_can_be_changed():
    distiller = pair(methods=[KD], hard_weight=0.5)
    assert (distiller.hard_weight, distiller.hard_weight_reason) == (0.5, "as given")
    assert distiller.fit(X, Y, verbose=0).history.keys() == {"hard", "kd", "loss", "accuracy"}
    distiller.hard_weight = 0
    history = distiller.fit(X, verbose=0).history  # without labels
    assert "hard" not in history
    assert history["loss"][0] == pytest.approx(0.9 * history["kd"][0], rel=1e-6)  # KD's default weight


def test_student_and_teacher_are_keyword_arguments():
    with pytest.raises(TypeError):
        Distiller(convolutional(), convolutional())


def test_a_distiller_without_methods_needs_no_teacher():
    distiller = compiled(Distiller(student=convolutional()))
    assert set(distiller.fit(X, Y, verbose=0).history) == {"accuracy", "hard", "loss"}


def test_a_list_of_teachers_is_combined():
    teachers = [convolutional(6, name="one"), convolutional(5, name="two")]
    distiller = compiled(Distiller(student=convolutional(), teacher=teachers, methods=[KD()]))
    expected = kd(distiller.student(X), np.array(Teacher(teachers).tapped(["logits"])(X)["logits"])).mean()
    assert distiller.train_on_batch(X, Y, return_dict=True)["kd"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_needs_a_loss_or_metrics():
    with pytest.raises(ValueError, match="a loss or metrics"):
        pair(methods=[KD], hard_weight=0, loss=None, metrics=None).evaluate(X, Y, verbose=0)


def test_fit_accepts_a_callback_list_of_keras():
    distiller = pair()
    callbacks = keras.callbacks.CallbackList([keras.callbacks.TerminateOnNaN()], add_history=True, model=distiller)
    assert np.isfinite(distiller.fit(X, Y, callbacks=callbacks, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("size", [4, 16])
def test_a_teacher_of_another_size_under_xla(size):
    """Keras leaves XLA off, with its own warning, if the images must shrink, which XLA cannot do with antialiasing."""
    teacher = convolutional(6, shape=(size, size, 3), name="teacher")
    distiller = Distiller(student=convolutional(), teacher=teacher, methods=[KD()])
    with pytest.warns(UserWarning, match="jit") if size < 8 else contextlib.nullcontext():
        compiled(distiller, jit_compile=True)
    assert np.isfinite(distiller.fit(X, Y, verbose=0).history["kd"]).all()


def test_a_method_of_the_global_batch_is_the_same_over_replicas():
    """37 examples in batches of 16: whole batches, and a last one of 5 that falls into 3 and 2."""
    results = []
    for devices in (1, 2):
        with mirrored(devices).scope():
            keras.utils.set_random_seed(0)
            distiller = pair([Similarities], optimizer=keras.optimizers.SGD(0.05), jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices(examples(37)).batch(16)
        history = distiller.fit(data, epochs=2, verbose=0).history
        results.append((values(distiller.student.variables), history))
    (weights, history), (others, history_of_both) = results
    assert same(weights, others, atol=1e-6) and history["similarities"][0] > 1e-4
    np.testing.assert_allclose(history["similarities"], history_of_both["similarities"], rtol=1e-5)


def test_a_student_without_trainable_weights_is_refused():
    student = convolutional()
    student.trainable = False
    model = compiled(Distiller(student=student, teacher=convolutional(), methods=[KD()]))
    for train in (model.fit, model.train_on_batch):
        with pytest.raises(ValueError, match="student with trainable weights, .* Set student.trainable = True"):
            train(*examples(8))
