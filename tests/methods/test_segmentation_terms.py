"""Methods on segmentation networks: means over positions, ignored pixels, weights of pixels, two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.contracts import Batch, Outputs, TapSpec
from kd_keras.methods import CIRKD, CWD, DIST, IFVD, KD, SKD, Logits, cwd_loss, dist_loss, kd_loss
from kd_keras.methods.positions import exclude_ignored
from kd_keras.segmentation import SegmentationLoss
from tests.support.networks import mirrored, values
from tests.support.reference import log_softmax, random, resized, softmax

SHAPE = (12, 16, 3)
CLASSES = 4
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 255, (5, *SHAPE)).astype("float32")
LABEL = RANDOM.integers(-1, CLASSES, (5, *SHAPE[:2])).astype("int32")
LABEL[0] = -1  # slices of a batch differ in their number of valid pixels
FEATURES = {"student_tap": "segmentation_features", "teacher_tap": "segmentation_features"}
METHODS = [
    KD(temperature=1.0),
    KD(student_tap="logits_map", teacher_tap="logits_map", name="kd_of_map"),
    Logits(form="mse"),
    CWD(student_tap="logits", teacher_tap="logits", temperature=4.0),
    CWD(**FEATURES, name="cwd_of_features"),
    SKD(**FEATURES),
    IFVD(**FEATURES),
    DIST(positions=True, across_replicas=True),
    CIRKD(classes=CLASSES, pixels=20, regions=5, added=2, drawn_pixels=16, drawn_regions=8, seed=3, **FEATURES),
]
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}") for text in (".*shuffle", "Sample weights", "The teacher is right")
]


def network(width, seed):
    keras.utils.set_random_seed(seed)
    built = models.build("segmenter/resnet8", SHAPE, CLASSES, levels=(1, 2), width=width)
    for layer in built.layers:
        if layer.name.endswith("_logits"):  # larger than at the start of training, so that the terms are not nearly 0
            layer.kernel.assign(random(*layer.kernel.shape, seed=seed))
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return built


def train(methods, devices=1, weight=None, label=LABEL, epochs=1):
    with mirrored(devices).scope():
        copies = [keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(m)) for m in methods]
        distiller = Distiller(student=network(8, 0), teacher=network(12, 1), methods=copies, hard_weight=1.0)
        distiller.compile(keras.optimizers.SGD(1e-3), SegmentationLoss(), jit_compile=False)
    parts = (IMAGES, label) if weight is None else (IMAGES, label, weight)
    data = tf.data.Dataset.from_tensor_slices(parts).batch(5)
    history = distiller.fit(data, epochs=epochs, verbose=0).history
    return distiller, {name: losses[0] for name, losses in history.items()}


@pytest.fixture(scope="module")
def logged():
    return train(METHODS)[1]


@pytest.fixture(scope="module")
def logits():
    return [np.asarray(network(width, seed)(IMAGES, training=False), "float64") for width, seed in ((8, 0), (12, 1))]


def pixel_kl(student, teacher):
    log_student, log_teacher = log_softmax(student), log_softmax(teacher)
    return (np.exp(log_teacher) * (log_teacher - log_student)).sum(-1)


def test_pixel_kd_is_the_mean_over_valid_pixels(logged, logits):
    valid = LABEL >= 0
    assert logged["kd"] == pytest.approx(pixel_kl(*logits)[valid].mean(), rel=1e-4)
    assert logged["logits"] == pytest.approx(((logits[0] - logits[1]) ** 2).mean(-1)[valid].mean(), rel=1e-4)
    cross_entropy = -np.take_along_axis(log_softmax(logits[0]), np.maximum(LABEL, 0)[..., None], -1)[..., 0]
    assert logged["hard"] == pytest.approx(cross_entropy[valid].mean(), rel=1e-4)


def test_a_smaller_map_has_the_labels_of_the_nearest_pixels(logged):
    maps = [
        np.asarray(keras.Model(net.input, net.get_layer("logits_map").output)(IMAGES), "float64")
        for net in (network(8, 0), network(12, 1))
    ]
    assert maps[0].shape[1:3] == (6, 8)
    expected = 16 * pixel_kl(*(z / 4 for z in maps))[LABEL[:, 1::2, 1::2] >= 0].mean()
    assert logged["kd_of_map"] == pytest.approx(expected, rel=1e-4)


def test_cwd_compares_valid_positions(logged, logits):
    total = []
    for b in range(len(LABEL)):
        valid = LABEL[b] >= 0
        for k in range(CLASSES) if valid.any() else ():
            total.append(16 * pixel_kl(*(z[b][valid][:, k] / 4 for z in logits)) / CLASSES)
    assert logged["cwd"] == pytest.approx(sum(total) / len(LABEL), rel=1e-3)


def test_dist_correlates_valid_pixels(logged, logits):
    p, q = (softmax(z[LABEL >= 0]) for z in logits)
    inter = 1 - np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = 1 - np.mean([np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(CLASSES)])
    assert logged["dist"] == pytest.approx(inter + intra, rel=1e-4)


def test_every_term_ignores_what_is_predicted_at_ignored_pixels():
    """The gradient with respect to the student's maps is zero there."""
    label = np.where(RANDOM.random((2, 4, 6)) < 0.4, -1, RANDOM.integers(0, 3, (2, 4, 6))).astype("int32")
    student, teacher = random(2, 4, 6, 3), random(2, 4, 6, 3, seed=1)
    for method in METHODS:
        if isinstance(method, CIRKD):
            continue  # the BatchNorm of its projection couples all pixels
        taps = {"student_tap": "logits", "teacher_tap": "logits"} if hasattr(method, "student_tap") else {}
        again = type(method).from_config({**method.get_config(), **taps})
        spec = {"logits": TapSpec("maps", (None, 4, 6, 3), "linear")}
        again.bind(spec, spec)
        maps = tf.Variable(student)
        with tf.GradientTape() as tape:
            loss = again.call(Outputs({"logits": maps}), Outputs({"logits": teacher}), Batch(None, label), None)
            total = tf.reduce_mean(exclude_ignored(loss, label))
        gradient = np.abs(tape.gradient(total, maps).numpy()).max(-1)
        assert gradient[label < 0].max() < 1e-9 < gradient[label >= 0].max(), method.name


def test_weights_of_pixels(logits):
    weight = RANDOM.uniform(0, 2, LABEL.shape).astype("float32")
    weight[:, :3] = 0
    logged = train(METHODS[:3], weight=weight)[1]
    valid = LABEL >= 0
    assert logged["kd"] == pytest.approx((weight * pixel_kl(*logits))[valid].sum() / valid.sum(), rel=1e-4)
    cross_entropy = -np.take_along_axis(log_softmax(logits[0]), np.maximum(LABEL, 0)[..., None], -1)[..., 0]
    assert logged["hard"] == pytest.approx((weight * cross_entropy)[valid].sum() / valid.sum(), rel=1e-4)
    of_images = train(METHODS[:3], weight=weight[:, 0, 0] + np.arange(5, dtype="float32"))[1]
    expected = (np.arange(5)[:, None, None] * pixel_kl(*logits))[valid].sum() / valid.sum()
    assert of_images["kd"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_two_devices_train_as_one():
    alone, together = (train(METHODS, devices, epochs=2) for devices in (1, 2))
    for name, value in alone[1].items():
        assert together[1][name] == pytest.approx(value, rel=1e-4), name
    pairs = zip(*(values(side[0].student.trainable_variables) for side in (alone, together)), strict=True)
    for one, two in pairs:
        np.testing.assert_allclose(one, two, atol=1e-5)


def test_without_masks_all_positions_count():
    student, teacher = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    np.testing.assert_allclose(
        dist_loss(student, teacher, np.ones((2, 3, 4), bool)), dist_loss(student, teacher), rtol=1e-5
    )
    ones = [np.ones((2, 3, 4), bool)]
    np.testing.assert_allclose(cwd_loss(student, [teacher], ones), cwd_loss(student, teacher), rtol=1e-5)
    nothing = np.zeros((2, 3, 4), bool)
    assert float(dist_loss(student, teacher, nothing)) == 0 and not cwd_loss(student, teacher, [nothing]).numpy().any()
    assert kd_loss(student, teacher).shape == (2, 3, 4) and resized(student, (3, 4)).shape == student.shape
