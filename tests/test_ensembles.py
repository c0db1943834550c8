"""Several networks as one teacher: weights by teacher, class and example, and features of each network."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from experiments.flags.recipes import flag_options
from experiments.flags.teacher import parse_numbers
from kd_keras import Distiller, Teacher
from kd_keras.contracts import Batch
from kd_keras.ensembles import cross_entropy_weights
from kd_keras.methods import KD, OFD, SRRL, FitNet
from kd_keras.methods.kd import kd_loss
from kd_keras.recording import writer
from kd_keras.runs.settings import from_lines
from kd_keras.runs.teachers import TeacherOptions
from tests.support.networks import CLASSES, compiled, convolutional, examples, mirrored, source, values
from tests.support.reference import log_softmax, random

X, Y = examples(16)
SCALE = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=3)}


def networks(count=3):
    return [convolutional(4 + n, name=f"net{n}", normalized=n == 1, **SCALE) for n in range(count)]


def float64(networks_, order=slice(None)):
    return np.stack([np.array(network(X), "float64")[:, order] for network in networks_])


def weights_reference(logits, target):
    """CA-MKD, equation 3, for logits (M, ..., K) and target probabilities (..., K)."""
    losses = -(target * log_softmax(logits)).sum(-1)
    shares = np.exp(losses) / np.exp(losses).sum(0)
    return (1 - shares) / (len(logits) - 1)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_weights_of_classes_follow_the_order_of_the_students_classes(combine):
    order, table = [4, 0, 2], np.array([[1.0, 0.0, 2.0], [3.0, 1.0, 2.0]])
    two = networks(2)
    teacher = Teacher(two, weights=table.tolist(), combine=combine, class_order=order).tapped(["logits"])
    shares, logits = (table / table.sum(0))[:, None], float64(two, order)
    mixed = (shares * logits).sum(0) if combine == "logits" else np.log((shares * np.exp(log_softmax(logits))).sum(0))
    np.testing.assert_allclose(teacher(X)["logits"], mixed, rtol=1e-5, atol=1e-5)


def test_weights_of_classes_of_sigmoid_units():
    def with_sigmoid(network):
        return keras.Model(network.input, keras.layers.Activation("sigmoid")(network.output))

    two, table = networks(2), np.array([[1.0, 0.0, 2.0, 1.0, 1.0], [3.0, 1.0, 2.0, 0.0, 1.0]])
    teacher = Teacher([with_sigmoid(network) for network in two], weights=table).tapped(["logits"])
    mean = ((table / table.sum(0))[:, None] / (1 + np.exp(-float64(two)))).sum(0)
    np.testing.assert_allclose(teacher(X)["logits"], np.log(mean / (1 - mean)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["integers", "column", "probabilities"])
def test_weights_by_the_cross_entropy_on_each_example(form):
    soft = 0.7 * np.eye(CLASSES)[Y] + 0.3 * np.eye(CLASSES)[Y[::-1]]
    label = {"integers": Y, "column": Y[:, None], "probabilities": soft.astype("float32")}[form]
    target = soft if form == "probabilities" else np.eye(CLASSES)[Y]
    three = networks()
    teacher = Teacher(three, weights="cross_entropy").tapped(["logits"])
    weights = weights_reference(float64(three), target)
    assert np.ptp(weights, axis=0).max() > 0.05, "the teachers differ"
    np.testing.assert_allclose(weights.sum(0), 1)
    mixed = np.log((weights[..., None] * np.exp(log_softmax(float64(three)))).sum(0))
    np.testing.assert_allclose(teacher.outputs(Batch(X, label))["logits"], mixed, rtol=1e-5, atol=1e-5)
    equal = np.log(np.exp(log_softmax(float64(three))).mean(0))
    np.testing.assert_allclose(teacher(X)["logits"], equal, rtol=1e-5, atol=1e-5)


def test_weights_by_the_cross_entropy_of_positions():
    logits = [random(2, 3, 4, CLASSES, seed=seed, scale=50.0) for seed in range(2)]
    label = np.random.default_rng(0).integers(-1, CLASSES, (2, 3, 4))
    weights = np.array(cross_entropy_weights(logits, label))[..., 0]
    target = np.eye(CLASSES)[label] * (label >= 0)[..., None]
    np.testing.assert_allclose(weights, weights_reference(np.stack(logits), target), atol=1e-5)
    np.testing.assert_allclose(weights[:, label == -1], 0.5, atol=1e-6)


def test_the_gradient_of_a_student_of_weighted_teachers():
    three, student, temperature = networks(), random(16, CLASSES, seed=9), 3.0
    teacher = Teacher(three, weights="cross_entropy").tapped(["logits"])
    variable = tf.Variable(student, dtype="float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(kd_loss(variable, teacher.outputs(Batch(X, Y))["logits"], temperature=temperature))
    weights = weights_reference(float64(three), np.eye(CLASSES)[Y])
    mixed = np.log((weights[..., None] * np.exp(log_softmax(float64(three)))).sum(0))
    expected = temperature * (np.exp(log_softmax(student / temperature)) - np.exp(log_softmax(mixed / temperature)))
    np.testing.assert_allclose(tape.gradient(loss, variable), expected, atol=1e-5)


def test_features_of_each_teacher_have_an_adapter_each():
    two, student = networks(2), convolutional(3)
    methods = [FitNet(teacher_tap=f"{n}:embedding", student_tap="embedding") for n in range(2)]
    methods.append(KD(teacher_tap="1:logits", temperature=2.0))
    distiller = compiled(Distiller(student=student, teacher=two, methods=methods, hard_weight=0))

    def pooled(network):
        return np.array(keras.Model(network.input, network.get_layer("pool").output)(X, training=False), "float64")

    expected = {}
    for name, method, network in zip(["fitnet", "fitnet_2"], methods[:2], two, strict=True):
        kernel, bias = (np.array(variable, "float64") for variable in method.trainable_variables)
        expected[name] = np.square(pooled(student) @ kernel + bias - pooled(network)).mean()
    log_s, log_t = (log_softmax(np.array(network(X), "float64") / 2.0) for network in (student, two[1]))
    expected["kd"] = 4.0 * (np.exp(log_t) * (log_t - log_s)).sum(-1).mean()
    logs = distiller.train_on_batch(X, Y, return_dict=True)
    assert {name: logs[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert {*distiller.teacher(X)} == {"0:embedding", "1:embedding", "1:logits"}


def train_weighted(devices):
    keras.utils.set_random_seed(0)
    with mirrored(devices).scope():
        teachers = [convolutional(4 + n, name=f"net{n}", **SCALE) for n in range(2)]
        methods = [KD(), *(FitNet(teacher_tap=f"{n}:embedding", student_tap="embedding", weight=1) for n in range(2))]
        student = convolutional(3)
        distiller = Distiller(student=student, teacher=Teacher(teachers, weights="cross_entropy"), methods=methods)
        compiled(distiller, jit_compile=False)
    x, y = examples(37)
    history = distiller.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(16), epochs=2, verbose=0).history
    return values(distiller.trainable_variables), history


def test_two_replicas_compute_the_same_update_as_one():
    (one, history), (two, history_of_two) = train_weighted(1), train_weighted(2)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert history["kd"] == pytest.approx(history_of_two["kd"], rel=1e-4)


def test_a_distiller_of_several_teachers_is_saved_and_loaded(tmp_path):
    methods = [FitNet(teacher_tap="1:embedding", student_tap="embedding"), KD(teacher_tap="0:logits")]
    two = networks(2)
    distiller = compiled(Distiller(student=convolutional(3), teacher=two, methods=methods))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    loaded.attach(two)
    expected = distiller.train_on_batch(X, Y, return_dict=True)
    assert loaded.train_on_batch(X, Y, return_dict=True) == pytest.approx(expected, rel=1e-5)


def test_the_margins_of_ofd_come_from_the_teacher_of_the_tap():
    two = [convolutional(4, name=f"net{n}", normalized=True) for n in range(2)]
    two[1].get_layer("bn1").beta.assign(np.full(4, 3.0))
    specs = Teacher(two).tapped(["0:stages:pre", "1:stages:pre"]).specs
    assert [specs.batch_norms(f"{n}:stages:pre")[0][1].max() for n in range(2)] == [0.0, 3.0]
    names = [f"stages:pre[{n}]" for n in range(2)]
    taps = {"student_tap": names, "teacher_tap": [f"1:{name}" for name in names]}
    distiller = Distiller(student=convolutional(3, normalized=True), teacher=two, methods=[OFD(**taps)])
    assert np.isfinite(compiled(distiller).train_on_batch(X, Y)).all()


def test_the_taps_of_each_teacher_are_recorded(tmp_path):
    two = [convolutional(4 + n, name=f"net{n}", pixels=True) for n in range(2)]
    taps = ["logits", "1:embedding"]
    recording = writer.record(tmp_path / "recording", Teacher(two), source(), taps=taps)
    batch = next(iter(kd.data.training(source(), batch_size=37, recorded=recording)))[0]
    live = Teacher(two).tapped(taps)(batch["kd_inputs"])
    for tap in taps:
        np.testing.assert_allclose(batch["kd_recorded"][tap], live[tap], rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError, match="depend on the images alone.*'cross_entropy'"):
        writer.record(tmp_path / "weighted", Teacher(two, weights="cross_entropy"), source())
    assert not (tmp_path / "weighted").exists()


def distill_without_labels():
    distiller = Distiller(
        student=convolutional(3), teacher=Teacher(networks(2), weights="cross_entropy"), methods=[KD()], hard_weight=0
    )
    compiled(distiller, loss=None, metrics=None).fit(X, verbose=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Teacher(networks(2), weights="entropy"), "cross_entropy"),
        (lambda: Teacher(networks(1), weights="cross_entropy"), "needs several networks"),
        (lambda: Teacher(networks(2), weights=[[1, 0], [1, 0]]), "not all zero for any class"),
        (lambda: Teacher(networks(2), weights=[[1, 0], [1]]), "a weight for each class"),
        (lambda: Teacher(networks(2), weights=[[1, 0], 1]), "a weight for each class"),
        (lambda: Teacher(networks(2), weights=[[], []]), "a weight for each class"),
        (lambda: Teacher(networks(2), weights=[1, float("nan")]), "2 weights"),
        (lambda: Teacher(networks(2), weights=[[1] * 4] * 2).tapped(["logits"]), "each of 5 classes, but received 4"),
        (lambda: Teacher(networks(2)).tapped(["2:embedding"]), "numbered from 0 to 1.*2:embedding"),
        (lambda: Teacher(networks(2)).tapped(["embedding"]), '2. Only the logits.*"0:embedding"'),
        (
            lambda: Teacher([convolutional(4, classes=1, name=n) for n in "ab"], weights="cross_entropy").tapped(
                ["logits"]
            ),
            "one softmax over two or more classes",
        ),
        (distill_without_labels, "labels of 5 classes for Teacher.*received none"),
        (lambda: TeacherOptions(teacher_weights="entropy"), "cross_entropy"),
        (lambda: Teacher(networks(2)).tapped(["0:embedding"]).specs.classifier(), "there are 2 teachers"),
    ],
)
def test_invalid_ensembles_are_rejected(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_a_method_that_reads_a_classifier_needs_one_teacher():
    with pytest.raises(ValueError, match="needs one teacher, but received 2"):
        Distiller(student=convolutional(3), teacher=networks(2), methods=[SRRL()])


@pytest.mark.parametrize("text, expected", [("3,1", (3, 1)), ("[0.9,0.1],[0.2,0.8]", ([0.9, 0.1], [0.2, 0.8]))])
def test_weights_are_written_as_flags(text, expected):
    assert parse_numbers("teacher_weights", text) == expected
    lines = TeacherOptions(teacher_weights=expected).settings()
    written = from_lines(kd.runs.settings.to_lines("teacher_weights", lines["teacher_weights"]))["teacher_weights"]
    read = flag_options([f"--teacher_weights={written}"])["teacher_weights"]
    assert np.array_equal(np.array(read), np.array(expected))


def test_weights_by_the_cross_entropy_from_python_and_from_a_flag(data_dir, tmp_path):
    assert flag_options(["--teacher_weights=cross_entropy"]) == {"teacher_weights": "cross_entropy"}
    with pytest.raises(ValueError, match="--teacher_weights must be numbers"):
        parse_numbers("teacher_weights", "entropy")
    small = {
        "data": "digits", "data_dir": data_dir.partition("=")[2], "train_split": "train[:64]", "epochs": 1,
        "test_split": "test[:64]", "batch_size": 32,
    }  # fmt: skip
    teachers = [kd.train(model=f"mlp(hidden=({width},))", **small, run=tmp_path / f"t{width}") for width in (8, 16)]
    chosen = {"teacher": teachers, "teacher_weights": "cross_entropy", "student": "mlp(hidden=(4,))"}
    methods = ["kd", "fitnet(student_tap='embedding', teacher_tap='1:embedding', weight=1)"]
    run = kd.distill(**chosen, methods=methods, **small, run=tmp_path / "student")
    assert run.is_complete and "--teacher_weights=cross_entropy" in (run.path / "flags.txt").read_text()


def test_a_range_of_pixels_is_two_numbers():
    with pytest.raises(ValueError, match="teacher_range must be"):
        TeacherOptions(teacher_range=([0, 1], [2, 3]))


def test_two_classes_of_several_teachers_teach_a_single_unit():
    teachers = [convolutional(classes=2, name=f"net{number}") for number in range(2)]
    Distiller(student=convolutional(classes=1), teacher=teachers, methods=[KD()])


def test_units_with_a_sigmoid_each_are_not_combined_by_a_softmax():
    teachers = [convolutional(name=f"net{number}") for number in range(2)]
    with pytest.raises(ValueError, match="sigmoid each must end in that sigmoid.* Pass combine='logits'"):
        Distiller(student=convolutional(), teacher=teachers, methods=[KD(binary=True)])
    Distiller(student=convolutional(), teacher=Teacher(teachers, combine="logits"), methods=[KD(binary=True)])
    sigmoid = keras.Model(teachers[1].input, keras.layers.Activation("sigmoid")(teachers[1].output))
    for networks in ([teachers[0], sigmoid], [sigmoid, teachers[0]]):
        distiller = Distiller(student=convolutional(), teacher=networks, methods=[KD(binary=True)])
        assert distiller.teacher.specs["logits"].activation == "sigmoid"
