"""Data that cannot be trained on is refused before the first step, and what is right is not."""

import warnings
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller
from kd_keras.methods import CC, CRD, DKD, KD, PKT, RKD, SP
from kd_keras.training import NonFinite
from kd_keras.training.pixel_range import warn_of_pixel_range
from tests.support.networks import CLASSES, compiled, convolutional, examples, same, values

X, Y = examples(16)
CE = keras.losses.SparseCategoricalCrossentropy
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:Gradients do not")


def distiller(*methods, **options):
    student, teacher = convolutional(normalized=True), convolutional(6, name="teacher")
    model = Distiller(student=student, teacher=teacher, methods=list(methods or [KD()]), hard_weight=1.0)
    return compiled(model, **{"jit_compile": False} | options)


def refuses(model, match, x=X, y=Y, error=ValueError, **options):
    before = values(model.variables)
    with pytest.raises(error, match=match):
        model.fit(x, y, verbose=0, **options)
    assert same(before, values(model.variables))


LABELS = {
    "a fraction": np.where(np.arange(16) == 3, 0.5, Y),
    "NaN": np.where(np.arange(16) == 3, np.nan, Y),
    "too large": np.where(np.arange(16) == 3, CLASSES, Y),
    "negative": np.where(np.arange(16) == 3, -1, Y),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("form", ["arrays", "dataset", "validation"])
def test_labels_that_are_no_classes(labels, form):
    match = "labels that are whole numbers from 0 to 4 for .*, but received .* in row 3 of"
    if form == "arrays":
        refuses(distiller(), match, y=labels)
    elif form == "dataset":
        data = tf.data.Dataset.from_tensor_slices((X, labels)).batch(16)
        refuses(distiller(), match, data, None)
    else:
        refuses(distiller(), match, validation_data=(X, labels))


def test_an_invalid_label_behind_the_first_batches_of_arrays():
    x, y = examples(40)
    y = np.where(np.arange(40) == 39, 7, y)
    refuses(distiller(), "received 7 in row 39", x, y, batch_size=2)


def test_ignored_and_soft_labels_are_accepted():
    ignoring = distiller(loss=CE(from_logits=True, ignore_class=-1), metrics=None)
    ignoring.fit(X, LABELS["negative"], verbose=0)
    soft = np.full((16, CLASSES), 1 / CLASSES, "float32")
    distiller(DKD(), loss=keras.losses.CategoricalCrossentropy(from_logits=True)).fit(X, soft, verbose=0)
    distiller(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)).fit(
        X, Y.astype("float32")[:, None], verbose=0
    )
    with pytest.raises(ValueError, match="probabilities of at least 0"):
        distiller(loss=keras.losses.CategoricalCrossentropy(from_logits=True)).fit(X, -soft, verbose=0)


@pytest.mark.parametrize("value", [-1.0, np.nan])
def test_negative_weights(value):
    weights = np.where(np.arange(16) == 5, value, 1.0)
    refuses(distiller(), "sample weights of at least 0, but received (-1|nan) in row 5", sample_weight=weights)
    if value < 0:
        for make in (lambda: KD(weight=-1.0), lambda: KD(weight={0: 1.0, 3: -1.0})):
            with pytest.raises(ValueError, match="must be at least 0"):
                make()
        with pytest.raises(ValueError, match=r"Distiller\(hard_weight=...\) must be at least 0"):
            Distiller(student=convolutional(), hard_weight=-0.5)


def test_a_bad_image_is_not_blamed_on_the_teacher():
    bad = X.copy()
    bad[5, 0, 0, 0] = np.nan
    with pytest.warns(
        UserWarning, match="finite images, but received NaN or infinity in 1 of 16 in batch 0, first in row 5"
    ):
        refuses(distiller(), "received loss nan, hard nan, kd nan", bad, error=FloatingPointError, batch_size=16)
    with pytest.warns(UserWarning, match="Skipped a batch"):
        distiller().fit(bad, Y, batch_size=4, shuffle=False, callbacks=[NonFinite("skip")], verbose=0)


@pytest.mark.parametrize("method", [RKD, SP, CC, PKT, partial(CRD, examples=None)])
def test_a_batch_of_one_for_a_relational_method(method):
    options = {"batch_size": 1}
    refuses(distiller(method()), "batches of at least 2 examples for method", **options)
    with pytest.raises(ValueError, match="batches of at least 2 examples for method"):
        distiller(method()).train_on_batch(X[:1], Y[:1])
    distiller(method()).fit(X[:9], Y[:9], batch_size=8, verbose=0)  # only the last batch has one example


def test_a_batch_of_one_with_batch_norm():
    with pytest.warns(UserWarning, match="Every batch has one example for each replica"):
        distiller().fit(X, Y, batch_size=1, verbose=0)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_pixels_of_another_range_than_the_first_layers_expect(side):
    body = convolutional(6)
    scaled = keras.Sequential(
        [keras.Input(body.input_shape[1:]), keras.layers.Rescaling(1 / 127.5, -1), body], name="scaled"
    )
    networks = {"student": convolutional(), "teacher": convolutional(5)} | {side: scaled}
    model = compiled(Distiller(**networks, methods=[KD()]), jit_compile=False)
    pixels = np.random.default_rng(0).uniform(0, 255, X.shape).astype("float32")
    with pytest.warns(UserWarning, match="pixel values from 0.* to 1, of which the first layers of 'scaled' make"):
        model.fit(pixels / pixels.max(), Y, verbose=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The images have")
        model.fit(pixels, Y, verbose=0)


BGR = {"scale": (1.0, 1.0, 1.0), "offset": (-103.939, -116.779, -123.68)}
PYTORCH = {"scale": tuple(1 / 255 / np.array([0.229, 0.224, 0.225])), "offset": (-2.118, -2.036, -1.804)}


@pytest.mark.parametrize("layer", [BGR, PYTORCH, {"scale": 1 / 127.5, "offset": -1.0}, {"scale": 1 / 255}], ids=str)
def test_the_preprocessing_of_published_networks_expects_pixels(layer):
    """That of ResNet50 and VGG16 subtracts the mean only; that of DenseNet has another mean for every channel."""
    layer = {name: list(value) if isinstance(value, tuple) else value for name, value in layer.items()}
    network = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Rescaling(**layer)], name="network")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_pixel_range([network], pixels)
        warn_of_pixel_range([network], pixels / 8)  # dark photographs
    for wrong in (pixels / 255, pixels * 255):
        with pytest.warns(UserWarning, match="of which the first layers of 'network' make"):
            warn_of_pixel_range([network], wrong)


def test_data_without_an_end():
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat()
    refuses(distiller(), "no steps_per_epoch. Pass steps_per_epoch", endless, None)
    refuses(distiller(), "no validation_steps. Pass validation_steps", validation_data=endless)
    model = distiller()
    for call in (model.evaluate, model.predict):
        with pytest.raises(ValueError, match="no steps. Pass steps"):
            call(endless, verbose=0)
    model.fit(endless, steps_per_epoch=2, validation_data=endless, validation_steps=1, verbose=0)
    model.predict(endless, steps=1, verbose=0)


def test_an_endless_pydataset():
    class Endless(keras.utils.PyDataset):
        num_batches = None

        def __getitem__(self, number):
            return X[:8], Y[:8]

    refuses(distiller(), "no steps_per_epoch", Endless(), None)


def test_a_good_run_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="The teacher is right")
        warnings.filterwarnings("ignore", message=".*shuffle")
        distiller().fit(X, Y, sample_weight=np.ones(16), batch_size=8, validation_data=(X, Y), verbose=0)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", ["train_on_batch", "test_on_batch", "evaluate"])
def test_labels_that_are_no_classes_outside_fit(labels, name):
    model = distiller()
    before = values(model.variables)
    cases = [(labels, None, "labels that are whole numbers"), (Y, -Y - 1.0, "weights of at least 0")]
    for label, weight, match in cases:
        with pytest.raises(ValueError, match=match):
            getattr(model, name)(X, label, sample_weight=weight)
    assert same(before, values(model.variables))


def test_weights_that_keras_would_drop_or_misread():
    weights = np.linspace(0, 2, 16).astype("float32")
    soft = distiller()
    refuses(soft, "labels beside sample_weight in fit, but received none", y=None, sample_weight=weights)
    refuses(soft, "labels beside sample_weight", y=None, validation_data=(X, None, weights))
    refuses(soft, "labels beside class_weight in fit, but received none", y=None, class_weight={0: 2.0})
    refuses(soft, "labels beside class_weight", tf.data.Dataset.from_tensor_slices(X).batch(8), None, class_weight={})
    refuses(soft, "at least 0, but received -1 for class 2", class_weight={0: 1.0, 2: -1.0})
    refuses(soft, "an array as y of fit, but received a list of values", y=Y.tolist(), error=TypeError)
    refuses(soft, "an array as sample_weight", sample_weight=weights.tolist(), error=TypeError)
    with pytest.raises(ValueError, match="labels beside sample_weight in evaluate"):
        soft.evaluate(X, sample_weight=weights, verbose=0)
