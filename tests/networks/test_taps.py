"""Taps of every kind of Keras model: the right tensors, the same numbers, one pass."""

import keras
import numpy as np
import pytest
from keras import layers

from kd_keras.networks.taps import Tapped
from tests.support.networks import CLASSES, SHAPE, convolutional, examples

X, _ = examples(4)


def softmaxed(nested=True):
    backbone = keras.Model(*_ends(convolutional(normalized=True), "pool"), name="backbone")
    inputs = keras.Input(SHAPE)
    outputs = layers.Dense(CLASSES, activation="softmax", name="classify")(layers.Dropout(0.5)(backbone(inputs)))
    return keras.Model(inputs, outputs, name="whole")


def _ends(model, name):
    return model.input, model.get_layer(name).output


class Subclassed(keras.Model):
    def __init__(self, taps):
        super().__init__()
        self.taps, self.body, self.head = taps, layers.Dense(7, activation="relu"), layers.Dense(CLASSES)

    def call(self, x, training=None):
        embedding = self.body(layers.Flatten()(x))
        logits = self.head(embedding)
        return {"logits": logits, "embedding": embedding} if self.taps else logits


def tapped(model, *names):
    model_taps = Tapped(model, names)
    output, taps = model_taps(X, training=False)
    return model_taps, np.array(output), {name: keras.tree.map_structure(np.array, taps[name]) for name in names}


def test_logits_come_before_a_fused_softmax():
    model = softmaxed()
    model_taps, output, taps = tapped(model, "logits")
    np.testing.assert_array_equal(output, model(X))
    np.testing.assert_allclose(keras.ops.softmax(taps["logits"]), output, rtol=1e-6)
    weights, bias = model.get_layer("classify").get_weights()
    np.testing.assert_allclose(taps["logits"], np.array(model.layers[1](X)) @ weights + bias, rtol=1e-5)


@pytest.mark.parametrize("ending", [layers.Softmax(), layers.Activation("softmax"), keras.ops.softmax])
def test_logits_come_before_a_separate_softmax(ending):
    body = convolutional()
    model = keras.Model(body.input, ending(body.output))
    _, output, taps = tapped(model, "logits")
    np.testing.assert_allclose(taps["logits"], body(X), rtol=1e-6)
    np.testing.assert_allclose(output, model(X), rtol=1e-6)


def test_embedding_is_what_the_classifier_reads_before_dropout():
    model = convolutional(dropout=0.5)
    model_taps = Tapped(model, ["embedding"])
    _, training = model_taps(X, training=True)
    pooled = keras.Model(*_ends(model, "pool"))(X)
    np.testing.assert_allclose(training["embedding"], pooled, rtol=1e-6)
    assert model_taps.specs["embedding"].layer == "pool"


def test_embedding_of_a_convolutional_classifier():
    inputs = keras.Input(SHAPE)
    maps = layers.Conv2D(6, 3, padding="same", activation="relu", name="maps")(inputs)
    logits = layers.GlobalAveragePooling2D()(layers.Conv2D(CLASSES, 1, name="classify")(maps))
    model_taps, _, taps = tapped(keras.Model(inputs, layers.Softmax()(logits)), "embedding", "stages", "logits")
    assert taps["embedding"].shape == (4, 6) and model_taps.specs["embedding"].layer == "maps:mean"
    assert [stage.layer for stage in model_taps.specs["stages"]] == ["maps"]  # not the 1x1 classifier's


def test_stages_before_and_after_their_activation():
    model_taps, _, taps = tapped(convolutional(), "stages", "stages:pre", "stages[1]", "stages[-1]", "stages:pre[0]")
    assert [spec.layer for spec in model_taps.specs["stages"]] == ["relu1", "relu2"]
    assert [spec.shape for spec in model_taps.specs["stages"]] == [(None, 8, 8, 4), (None, 4, 4, 8)]
    assert [spec.layer for spec in model_taps.specs["stages:pre"]] == ["conv1", "conv2"]
    for before, after in zip(taps["stages:pre"], taps["stages"], strict=True):
        assert before.min() < 0
        np.testing.assert_array_equal(np.maximum(before, 0), after)
    np.testing.assert_array_equal(taps["stages[1]"], taps["stages"][1])
    np.testing.assert_array_equal(taps["stages[-1]"], taps["stages"][1])
    np.testing.assert_array_equal(taps["stages:pre[0]"], taps["stages:pre"][0])


def test_a_stage_is_on_every_path():
    """Padding, a squeeze-and-excitation branch and the inner maps of a block are not stages."""
    inputs = keras.Input(SHAPE)
    x = layers.ZeroPadding2D(1)(inputs)  # 10 x 10
    x = layers.Conv2D(4, 3, name="stem")(x)  # 8 x 8
    branch = layers.Conv2D(4, 3, padding="same", name="inner")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(branch)
    gate = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Add(name="sum")([x, layers.Multiply(name="gated")([branch, gate])])
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)  # 9 x 9
    x = layers.Conv2D(6, 3, strides=2, activation="relu", name="last")(x)  # 4 x 4
    model = keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))
    assert [spec.layer for spec in Tapped(model, ["stages"]).specs["stages"]] == ["sum", "last"]


def test_nested_layers_are_tapped_by_path():
    model = softmaxed()
    model_taps, _, taps = tapped(model, "backbone/relu2", "backbone", "stages")
    inner = model.get_layer("backbone")
    np.testing.assert_array_equal(taps["backbone/relu2"], keras.Model(*_ends(inner, "relu2"))(X))
    np.testing.assert_array_equal(taps["backbone"], inner(X))
    assert [spec.layer for spec in model_taps.specs["stages"]] == ["backbone/relu1", "backbone/relu2"]


def test_a_pattern_taps_a_list_of_layers():
    model = convolutional(normalized=True)
    _, _, taps = tapped(model, "relu?", "conv*", "relu1")
    assert [value.shape[-1] for value in taps["relu?"]] == [value.shape[-1] for value in taps["conv*"]] == [4, 8]
    np.testing.assert_array_equal(taps["relu?"][0], taps["relu1"])
    with pytest.raises(ValueError, match="(?s)relv[?].*relu1"):
        Tapped(model, ["relv?"])


def test_nested_sequential_models():
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(3, 3, name="conv"), layers.Flatten()], name="inner")
    model = keras.Sequential([keras.Input(SHAPE), inner, layers.Dense(CLASSES, activation="softmax")])
    _, output, taps = tapped(model, "logits", "inner/conv")
    assert taps["inner/conv"].shape == (4, 6, 6, 3)
    np.testing.assert_array_equal(output, model(X))


def test_tapping_does_not_change_the_model(tmp_path):
    model = softmaxed()
    before = model.get_layer("backbone").get_layer("relu1").output
    config, names = model.get_config(), [variable.path for variable in model.variables]
    Tapped(model, ["logits", "stages", "embedding"])(X, training=True)
    assert model.get_layer("backbone").get_layer("relu1").output is before
    assert model.get_config() == config and [variable.path for variable in model.variables] == names
    assert model.get_layer("classify").activation is keras.activations.softmax
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(X), model(X))


def test_training_updates_batchnorm_as_the_model_itself_would():
    model, twin = softmaxed(), softmaxed()
    twin.set_weights(model.get_weights())
    Tapped(model, ["logits", "stages"])(X, training=True)
    twin(X, training=True)
    for actual, expected in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_a_fused_activation_with_an_activity_regularizer_stays_whole():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, activation="relu", activity_regularizer="l2"), layers.Dense(2)]
    )
    Tapped(model, ["embedding"])(np.ones((2, 4), "float32"), training=True)
    expected = 0.01 * (np.array(model.layers[0](np.ones((2, 4), "float32"))) ** 2).sum() / 2
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


def test_a_subclassed_model_returns_its_taps():
    model = Subclassed(taps=True)
    model(X)
    model_taps, output, taps = tapped(model, "logits", "embedding")
    assert model_taps.specs["embedding"].shape == (None, 7)
    np.testing.assert_array_equal(output, taps["logits"])
    model = Subclassed(taps=False)
    model(X)
    model_taps, output, taps = tapped(model, "logits")
    np.testing.assert_array_equal(output, taps["logits"])
    with pytest.raises(ValueError, match="(?s)'embedding'.*it returns logits"):
        Tapped(model, ["embedding"])


class Pair(keras.Model):
    """Returns two heads, always or in training alone."""

    def __init__(self, always):
        super().__init__()
        self.always, self.one, self.other = always, layers.Dense(CLASSES), layers.Dense(CLASSES)

    def call(self, inputs, training=False):
        heads = self.one(inputs), self.other(inputs)
        return heads if training or self.always else heads[0]


@pytest.mark.parametrize("always, received", [(True, "a tuple of 2"), (False, "a tuple of 2 in training")])
def test_a_subclassed_model_that_returns_a_tuple_is_rejected(always, received):
    model = Pair(always)
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match=f"received {received}. Return a dictionary of taps in training"):
        Tapped(model, ["logits"])
    if not always:  # as a teacher it runs in inference alone
        assert Tapped(model, ["logits"], output=False).specs["logits"].shape == (None, CLASSES)


def test_named_outputs_are_taps():
    body = convolutional()
    model = keras.Model(body.input, {"logits": body.output, "boxes": body.get_layer("pool").output})
    _, _, taps = [*tapped_dictionary(model, "logits", "boxes")]
    assert taps["boxes"].shape == (4, 8)


def tapped_dictionary(model, *names):
    model_taps = Tapped(model, names)
    output, taps = model_taps(X, training=False)
    return model_taps, output, {name: np.array(taps[name]) for name in names}


@pytest.mark.parametrize(
    "name, message",
    [
        ("relu3", "did you mean .*relu"),
        ("stages[5]", "2 stages, numbered from 0"),
        ("nothing at all", "choose one of: conv1"),
    ],
)
def test_a_missing_tap_is_rejected_with_similar_names(name, message):
    with pytest.raises(ValueError, match=f"(?s)net.*{message}"):
        Tapped(convolutional(), [name])


def test_models_without_a_tap_are_rejected():
    flat = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="stages"):
        Tapped(flat, ["stages"])
    free = convolutional(shape=(None, None, 3))
    with pytest.raises(ValueError, match="fixed input_shape"):
        Tapped(free, ["stages"])
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    twice = keras.Model(inputs, layers.Dense(2)(shared(shared(inputs))))
    with pytest.raises(ValueError, match="more than once"):
        Tapped(twice, ["shared"])
    with pytest.raises(ValueError, match="(?s)unbuilt.*keras.Input"):
        Tapped(keras.Sequential([layers.Dense(3)]), ["logits"])
    with pytest.raises(ValueError, match="(?s)unbuilt.*one batch"):
        Tapped(Subclassed(taps=False), ["logits"])


# The last map of each size, from the published architectures.
APPLICATIONS = {
    "ResNet50": ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
    "VGG16": ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3", "block5_pool"],
    "MobileNet": ["conv_pw_1_relu", "conv_pw_3_relu", "conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu"],
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_taps_of_keras_applications(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3), classes=CLASSES)
    model_taps = Tapped(model, ["logits", "embedding", "stages"])
    assert [spec.layer for spec in model_taps.specs["stages"]] == APPLICATIONS[name]
    assert model_taps.specs["logits"].shape == (None, CLASSES) and len(model_taps.specs["embedding"].shape) == 2
    images = np.random.default_rng(0).uniform(0, 255, (1, 96, 96, 3)).astype("float32")
    output, taps = model_taps(images, training=False)
    np.testing.assert_allclose(output, model(images), atol=1e-6)
    np.testing.assert_allclose(keras.ops.softmax(taps["logits"]), output, atol=1e-6)


def test_a_shared_layer_with_a_fused_activation():
    shared = layers.Dense(4, activation="relu", name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(shared(shared(inputs))))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    output, taps = Tapped(model, ["logits", "embedding"])(x, training=False)
    np.testing.assert_allclose(output, model(x), rtol=1e-6)
    np.testing.assert_allclose(taps["embedding"], shared(shared(x)), rtol=1e-6)


def test_nested_models_whose_layers_have_the_same_names():
    first, second = convolutional(name="first"), convolutional(name="second", normalized=True, dropout=0.5)
    inputs = keras.Input(SHAPE)
    x = layers.Conv2D(3, 1, activation="relu", name="conv1")(inputs)
    model = keras.Model(inputs, layers.Average()([first(x), second(inputs=x)]))
    model_taps, output, taps = tapped(model, "logits", "first/relu1", "second/relu1", "second/conv1")
    np.testing.assert_allclose(output, model(X), rtol=1e-6)
    inner = keras.Model(second.input, second.get_layer("relu1").output)(model.get_layer("conv1")(X))
    np.testing.assert_allclose(taps["second/relu1"], inner, rtol=1e-6)
    assert np.abs(taps["first/relu1"] - taps["second/relu1"]).max() > 0
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    keras.utils.set_random_seed(0)
    model_taps(X, training=True)
    twin(X, training=True)
    for a, b in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("softmax", ["named", "tensorflow", "regularized"])
def test_logits_before_other_forms_of_softmax(softmax):
    import tensorflow as tf

    inputs = keras.Input((4,))
    activation = tf.nn.softmax if softmax == "tensorflow" else "softmax"
    regularizer = "l2" if softmax == "regularized" else None
    output = layers.Dense(3, activation=activation, activity_regularizer=regularizer, name="classify")(inputs)
    model = keras.Model(inputs, {"logits": output} if softmax == "named" else output)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    if softmax == "regularized":
        with pytest.raises(ValueError, match="a layer by itself"):
            Tapped(model, ["logits"])
        return
    _, taps = Tapped(model, ["logits"])(x, training=False)
    weights, bias = model.get_layer("classify").get_weights()
    np.testing.assert_allclose(taps["logits"], x @ weights + bias, rtol=1e-5)


def test_models_with_a_list_of_one_or_several_outputs():
    body = convolutional()
    _, output, taps = tapped(keras.Model(body.inputs, body.outputs), "logits")
    np.testing.assert_array_equal(output, taps["logits"])
    several = keras.Model(body.input, [body.output, layers.Dense(4)(body.get_layer("pool").output)], name="several")
    assert [spec.layer for spec in Tapped(several, ["stages"]).specs["stages"]] == ["relu1", "relu2"]
    with pytest.raises(ValueError, match='several outputs. Return a dictionary with the key "logits"'):
        Tapped(several, ["logits"])


def test_the_constants_of_classifier_and_batch_norms():
    model = softmaxed()
    specs = Tapped(model, ["logits"]).specs
    kernel, bias = model.get_layer("classify").get_weights()
    np.testing.assert_array_equal(specs.classifier()[0], kernel)
    np.testing.assert_array_equal(specs.reordered([2, 0]).classifier()[1], bias[[2, 0]])
    norms = [model.get_layer("backbone").get_layer(name) for name in ("bn1", "bn2")]
    for norm, number in zip(norms, (1.0, 2.0), strict=True):
        norm.gamma.assign(number + np.zeros(norm.gamma.shape))
    assert [scale[0] for scale, _ in specs.batch_norms("stages:pre")] == [1.0, 2.0]
    with pytest.raises(ValueError, match="(?s)from a BatchNormalization.*conv1"):
        Tapped(convolutional(), ["logits"]).specs.batch_norms("stages:pre")


@pytest.mark.parametrize("shortcut_first", [True, False])
def test_the_batch_norm_of_a_sum_is_that_of_the_longest_branch(shortcut_first):
    x = inputs = keras.Input(SHAPE)
    shortcut = layers.BatchNormalization(name="shortcut")(layers.Conv2D(4, 1)(x))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x)))
    x = layers.BatchNormalization(name="branch", gamma_initializer="zeros")(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([shortcut, x] if shortcut_first else [x, shortcut]))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    scale, offset = Tapped(model, ["logits"]).specs.batch_norms("stages:pre[0]")[0]
    np.testing.assert_array_equal(scale, np.zeros(4))
    np.testing.assert_array_equal(offset, np.zeros(4))
