"""Networks of embeddings and their margin softmax: parts, counts, files, training, and two devices."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, models
from kd_keras.faces.margins import adaface_quality, margin_loss, published_margin
from kd_keras.methods import KD, RKD
from kd_keras.models import Recognizer, embedder, recognizer
from kd_keras.networks.taps import Tapped
from kd_keras.recording.constants import RecordedConstants, write_constants
from tests.support.networks import mirrored, values

SHAPE = (16, 12, 1)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 255, (12, *SHAPE)).astype("float32")
LABELS = np.arange(12) % 4


def small(seed=0, **options):
    keras.utils.set_random_seed(seed)
    return models.build("embedder/resnet8", SHAPE, 4, dimension=6, scale=16, **options)


def without_batch_norm(seed=0, head="arcface"):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    return recognizer(keras.Model(inputs, keras.layers.Dense(6, activation="tanh")(x)), 4, head=head, scale=8)


@pytest.mark.parametrize("dimension, count", [(128, 1_003_136), (512, 1_200_512)])
def test_mobilefacenet_has_the_published_parameters(dimension, count):
    network = models.build("embedder/mobilefacenet", (112, 112, 3), 10, backbone={"dimension": dimension}).embedder
    assert sum(int(np.prod(variable.shape)) for variable in network.trainable_variables) == count
    assert [spec.shape[1:] for spec in Tapped(network, ["stages"]).specs["stages"]] == [
        (28, 28, 64), (14, 14, 128), (7, 7, 128),
    ]  # fmt: skip
    assert network.output_shape == (None, dimension)


def test_an_embedding_has_batch_norm_dropout_dense_and_batch_norm():
    network = small(dropout=0.3).embedder
    kinds = [type(layer).__name__ for layer in network.layers[-4:]]
    assert kinds == ["BatchNormalization", "Dropout", "Dense", "BatchNormalization"]
    assert network.layers[-3].rate == 0.3 and network.layers[-2].kernel.shape == (64, 6)
    images = IMAGES[:2]
    np.testing.assert_array_equal(network(images), small(dropout=0.3)(images)["embedding"])


def test_all_values_of_the_last_map_are_read_by_flatten():
    network = small(pooling="flatten").embedder
    assert network.get_layer("embedding_dense").kernel.shape == (4 * 3 * 64, 6)


def test_any_network_is_a_backbone():
    network = models.build("embedder/applications/MobileNetV3Small", (32, 32, 3), 3, dimension=5)
    assert isinstance(network, Recognizer) and network.embedder.output_shape == (None, 5)
    assert models.takes_normalization("embedder/resnet8")
    assert not models.takes_normalization("embedder/applications/MobileNetV3Small")


def test_logits_are_scaled_cosines_to_the_centers():
    network = small()
    outputs = network(IMAGES)
    embedding, centers = np.array(outputs["embedding"], "float64"), np.array(network.head.centers, "float64")
    cosines = embedding @ centers / np.linalg.norm(embedding, axis=1)[:, None] / np.linalg.norm(centers, axis=0)
    np.testing.assert_allclose(outputs["logits"], 16 * cosines, atol=1e-5)


@pytest.mark.parametrize("head", ["arcface", "cosface", "sphereface", "adaface"])
def test_the_loss_is_the_weighted_mean_of_the_margin_loss(head):
    network = without_batch_norm(head=head)
    outputs = network(IMAGES)
    norms = np.linalg.norm(outputs["embedding"], axis=-1)
    quality = adaface_quality(norms, 20.0, 100.0) if head == "adaface" else None
    losses = np.array(margin_loss(outputs["logits"] / 8, LABELS, published_margin(head, 8), quality))
    weights = np.linspace(0, 2, 12).astype("float32")
    for labels in (LABELS, LABELS[:, None]):
        assert float(network.compute_loss(IMAGES, labels, outputs, training=False)) == pytest.approx(losses.mean())
    weighted = float(network.compute_loss(IMAGES, LABELS, outputs, weights, training=False))
    assert weighted == pytest.approx((losses * weights).mean(), rel=1e-5)


def test_one_hot_labels_raise():
    network = without_batch_norm()
    with pytest.raises(ValueError, match=r"labels \(B,\).*\(12, 4\)"):
        network.compute_loss(IMAGES, np.eye(4)[LABELS], network(IMAGES))


@pytest.mark.parametrize("as_dataset", [True, False])
def test_labels_beyond_the_identities_raise_before_training(as_dataset):
    distiller = Distiller(student=without_batch_norm(), hard_weight=1.0)
    distiller.compile("sgd", jit_compile=False)
    data = (tf.data.Dataset.from_tensor_slices((IMAGES, LABELS + 1)).batch(6),) if as_dataset else (IMAGES, LABELS + 1)
    with pytest.raises(ValueError, match=r"labels from 0 to 3 for the identities of 'recognizer_.*labels from 1 to 4"):
        distiller.fit(*data, verbose=0)


def test_adaface_follows_the_norms_in_training_alone():
    network = without_batch_norm(head="adaface")
    norms = np.linalg.norm(network(IMAGES)["embedding"], axis=-1)
    network.compute_loss(IMAGES, LABELS, network(IMAGES), training=False)
    assert (float(network.head.norm_mean), float(network.head.norm_deviation)) == (20.0, 100.0)
    network.compute_loss(IMAGES, LABELS, network(IMAGES), training=True)
    assert float(network.head.norm_mean) == pytest.approx(0.99 * 20 + 0.01 * norms.mean(), rel=1e-6)
    assert float(network.head.norm_deviation) == pytest.approx(99 + 0.01 * norms.std(ddof=1), rel=1e-6)


def test_loading_from_a_file(tmp_path):
    network = small(head="adaface", margin=0.3)
    network.compute_loss(IMAGES, LABELS, network(IMAGES), training=True)
    network.save(tmp_path / "recognizer.keras")
    network.embedder.save(tmp_path / "embedder.keras")
    reloaded = keras.saving.load_model(tmp_path / "recognizer.keras")
    assert reloaded.head.softmax == published_margin("adaface", 16, 0.3) and isinstance(reloaded, Recognizer)
    outputs, again = network(IMAGES), reloaded(IMAGES)
    for name in outputs:
        np.testing.assert_array_equal(outputs[name], again[name])
    models_and_outputs = ((network, outputs), (reloaded, again))
    losses = [float(model.compute_loss(IMAGES, LABELS, x, training=False)) for model, x in models_and_outputs]
    assert losses[0] == losses[1]
    alone = keras.saving.load_model(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(outputs["embedding"], alone(IMAGES))
    assert not [variable for variable in alone.variables if "centers" in variable.path]


def test_keras_trains_it():
    network = without_batch_norm()
    network.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    losses = network.fit(IMAGES, LABELS, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_distiller_trains_it_with_its_own_loss():
    student, teacher = without_batch_norm(1), without_batch_norm(2)
    student.compile()
    distiller = Distiller(student=student, teacher=teacher, methods=[KD(weight=0.5), RKD(weight=0.1)], hard_weight=1.0)
    distiller.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    history = distiller.fit(IMAGES, LABELS, epochs=80, verbose=0).history
    assert history["hard"][-1] < 0.8 * history["hard"][0] and history["kd"][-1] < history["kd"][0]


def test_kd_compares_the_scaled_cosines():
    student, teacher = without_batch_norm(1), without_batch_norm(2)
    z_s, z_t = (np.array(model(IMAGES)["logits"], "float64") / 4 for model in (student, teacher))
    distiller = Distiller(student=student, teacher=teacher, methods=[KD(temperature=4.0, weight=1.0)], hard_weight=0)
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    logged = distiller.train_on_batch(IMAGES, return_dict=True)["kd"]
    log_s, log_t = (z - np.log(np.exp(z).sum(-1, keepdims=True)) for z in (z_s, z_t))
    assert logged == pytest.approx(16 * (np.exp(log_t) * (log_t - log_s)).sum(-1).mean(), rel=1e-4)


@pytest.mark.parametrize("head", ["arcface", "adaface"])
def test_two_replicas_compute_the_same_update_as_one(head):
    results = []
    for count in (1, 2):
        with mirrored(count).scope():
            network = without_batch_norm(head=head)
            network.compile()
            distiller = Distiller(student=network, hard_weight=1.0)
            distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5)
        distiller.fit(data, epochs=3, verbose=0)
        results.append(values(network.variables))
    for one, two in zip(*results, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_angles_are_float32_in_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    network = small()
    outputs = network(IMAGES)
    assert outputs["logits"].dtype == "float32" and network.head.centers.dtype == "float32"
    assert np.isfinite(float(network.compute_loss(IMAGES, LABELS, outputs)))


def test_its_classifier_is_not_taken_for_a_linear_one():
    specs = Tapped(small(), ["embedding", "logits"]).specs
    assert specs["embedding"].shape == (None, 6) and specs["logits"].shape == (None, 4)
    with pytest.raises(ValueError, match="a linear classifier"):
        specs.classifier()


def test_the_centers_of_classes_are_found_in_both_kinds_of_classifiers():
    network = small()
    np.testing.assert_array_equal(Tapped(network, ["embedding"]).specs.class_centers(), network.head.centers)
    linear = models.build("mobilefacenet", (16, 16, 1), 3, width=0.125)
    centers = Tapped(linear, ["embedding"]).specs.class_centers()
    np.testing.assert_array_equal(centers, linear.get_layer("logits").kernel)


def test_a_recording_keeps_the_centers_of_both_kinds_of_classifiers(tmp_path):
    linear = models.build("mobilefacenet", (16, 16, 1), 3, width=0.125)
    for name, network in {"angles": without_batch_norm(), "linear": linear}.items():
        specs = Tapped(network, ["embedding", "logits"]).specs
        (tmp_path / name).mkdir()
        write_constants(tmp_path / name, specs)
        np.testing.assert_array_equal(RecordedConstants(tmp_path / name).class_centers(), specs.class_centers())


def test_invalid_options():
    with pytest.raises(ValueError, match="backbone={'dimension': 64}"):
        models.build("embedder/mobilefacenet", (16, 16, 1), 3, dimension=64)
    with pytest.raises(ValueError, match="pooling"):
        small(pooling="max")
    with pytest.raises(ValueError, match="below 1|less than 1"):
        small(dropout=1.0)
    with pytest.raises(ValueError, match=r"embeddings \(B, D\).*Use embedder"):
        recognizer(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)]), 3)
    with pytest.raises(ValueError, match="identities"):
        recognizer(embedder(models.build("resnet8", SHAPE, 2)), 0)


def test_a_batch_that_is_not_finite_leaves_adafaces_statistics():
    network = without_batch_norm(head="adaface")
    before = float(network.head.norm_mean.value)
    embedding = tf.constant([[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [float("nan")] * 6])
    network.head.loss(tf.constant([0, 1]), embedding, network.head(embedding), training=True)
    assert float(network.head.norm_mean.value) == before


def test_a_sequential_network_gets_an_embedding():
    parts = [keras.Input(SHAPE), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D()]
    assert embedder(keras.Sequential([*parts, keras.layers.Dense(3)]), dimension=5).output_shape == (None, 5)


def test_only_what_the_classifier_reads_is_the_networks_own_embedding():
    network = embedder(models.build("mobilenet_v3_small", (32, 32, 3), 5))
    assert network.output_shape == (None, 128) and network.layers[-1].name == "embedding"
    x = keras.Input((8,))
    hidden = keras.layers.ReLU(name="relu")(keras.layers.Dense(6, name="embedding")(x))
    inner = keras.Model(x, keras.layers.Dense(3)(hidden), name="inner")
    with pytest.raises(ValueError, match="that its classifier reads, but received one before 'relu'"):
        embedder(inner)
