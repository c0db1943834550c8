"""Weights and pixel statistics from files: what is loaded, what is not and why, and which files are rejected."""

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from kd_keras.models import EarlyExit, build
from kd_keras.networks.loading import load_weights, pixel_statistics
from kd_keras.networks.preprocessing import PixelStatistics
from tests.support.networks import CLASSES, SHAPE, convolutional, same, values

OWN = ["conv1", "conv2", "logits"]


@pytest.fixture(params=["model.keras", "model.weights.h5"])
def saved(request, tmp_path):
    """A network and a file with its weights."""
    model, path = convolutional(normalized=True), tmp_path / request.param
    model.compile(optimizer="adam")  # whose state is no layer's
    model.save(path) if path.suffix == ".keras" else model.save_weights(path)
    return model, path


def test_a_whole_network(saved):
    model, path = saved
    other = convolutional(normalized=True)
    report = load_weights(other, path)
    assert same(values(model.variables), values(other.variables))
    assert sorted(report.loaded) == ["bn1", "bn2", *OWN]
    assert not (report.mismatched or report.missing or report.skipped) and str(report) == "5 layers loaded"


def test_another_classifier_stays_as_it_is(saved):
    model, path = saved
    other = convolutional(normalized=True, classes=CLASSES + 2)
    before = values(other.get_layer("logits").weights)
    report = load_weights(other, path)
    assert list(report.mismatched) == ["logits"] and "(8, 5)" in str(report) and "(8, 7)" in str(report)
    assert same(before, values(other.get_layer("logits").weights))
    assert same(values(model.get_layer("conv2").weights), values(other.get_layer("conv2").weights))


def test_a_backbone_alone_and_one_inside(tmp_path):
    whole = convolutional()
    backbone = keras.Model(whole.input, whole.get_layer("relu2").output, name="backbone")
    inputs = keras.Input(SHAPE)
    nested = keras.Model(inputs, layers.Dense(3, name="top")(layers.Flatten()(backbone(inputs))))
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    nested.save(tmp_path / "nested.keras")
    for file, skipped in (("backbone.weights.h5", []), ("nested.keras", ["top"])):
        other = convolutional()
        report = load_weights(other, tmp_path / file)
        assert (report.loaded, report.missing, report.skipped) == (["conv1", "conv2"], ["logits"], skipped)
        assert "not in the file: logits" in str(report)
        assert same(values(backbone.variables), values(other.variables)[:4])
    fresh = keras.models.clone_model(nested)
    report = load_weights(fresh, tmp_path / "backbone.weights.h5")
    assert (report.loaded, report.missing) == (["backbone/conv1", "backbone/conv2"], ["top"])
    assert same(values(backbone.variables), values(fresh.variables)[:4])


def test_layers_made_of_layers_and_bfloat16(tmp_path):
    def attention():
        inputs = keras.Input((10, 16))
        attended = layers.MultiHeadAttention(2, 8, name="mha")(inputs, inputs)
        return keras.Model(inputs, layers.Dense(3, name="top")(attended))

    keras.config.set_dtype_policy("bfloat16")
    one, other = attention(), attention()
    one.save_weights(tmp_path / "one.weights.h5")
    report = load_weights(other, tmp_path / "one.weights.h5")
    assert {"mha/query", "mha/key", "mha/value", "mha/attention_output"} < set(report.loaded) and not report.missing
    assert same(values(one.variables), values(other.variables))


def test_a_name_that_two_layers_share_is_not_guessed(tmp_path):
    def twice():
        inputs = keras.Input(SHAPE)
        parts = [keras.Model(inputs, layers.Conv2D(2, 1, name="conv")(inputs), name=name) for name in ("a", "b")]
        return keras.Model(inputs, layers.Add()([part(inputs) for part in parts]))

    alone = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(2, 1, name="conv")])
    twice().save_weights(tmp_path / "twice.weights.h5")
    with pytest.raises(ValueError, match="a/conv, b/conv"):
        load_weights(alone, tmp_path / "twice.weights.h5")


@pytest.mark.parametrize("file", ["model.keras", "model.weights.h5"])
@pytest.mark.parametrize("earlier", [1, 20])
def test_names_that_keras_gave_are_matched_by_their_order(earlier, file, tmp_path):
    def unnamed():
        inner = keras.Sequential([layers.Conv2D(3, 1), layers.Conv2D(3, 1), layers.BatchNormalization()])
        return keras.Sequential([keras.Input(SHAPE), layers.Conv2D(3, 1), layers.Conv2D(3, 1), inner])

    keras.utils.clear_session()
    saved = unnamed()
    saved.save(tmp_path / file) if file.endswith(".keras") else saved.save_weights(tmp_path / file)
    keras.utils.clear_session()
    for _ in range(earlier):  # the numbers of the next network overlap with those in the file, or they do not
        layers.Conv2D(3, 1)
    other = unnamed()
    assert other.layers[0].name != saved.layers[0].name
    report = load_weights(other, tmp_path / file)
    assert same(values(saved.variables), values(other.variables))
    assert len(report.loaded) == 5 and not (report.mismatched or report.missing or report.skipped)


def test_names_by_keras_that_agree_by_chance_are_not_followed(tmp_path):
    def network(*widths):
        return keras.Sequential([keras.Input((4,)), *(layers.Dense(width) for width in widths)])

    keras.utils.clear_session()
    layers.Dense(1)
    saved = network(5, 6)  # dense_1, dense_2
    saved.save_weights(tmp_path / "model.weights.h5")
    keras.utils.clear_session()
    longer = network(5, 6, 3)  # dense, dense_1, dense_2
    report = load_weights(longer, tmp_path / "model.weights.h5")
    assert (report.loaded, report.missing, report.mismatched) == (["dense", "dense_1"], ["dense_2"], {})
    assert same(values(saved.variables), values(longer.variables)[:4])


def test_names_of_the_user_that_look_like_those_of_keras_stay(tmp_path):
    inputs = keras.Input((4,))
    hidden = layers.Dense(4, name="dense_1")(inputs)
    keras.Model(inputs, layers.Dense(4, name="dense_2")(hidden)).save_weights(tmp_path / "model.weights.h5")
    part = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense_2")])
    assert str(load_weights(part, tmp_path / "model.weights.h5")) == (
        "1 layers loaded\nin the file, not in the model: dense_1"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, dtype, tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a", dtype=dtype), layers.Dense(2, name="b")])
    before = values(model.weights)
    bias = model.get_layer("b" if dtype == "float32" else "a").bias
    bias.assign(np.full(bias.shape, value))
    model.save_weights(tmp_path / "diverged.weights.h5")
    bias.assign(np.zeros(bias.shape))
    expected = rf"finite weights in .*diverged.weights.h5.*{bias.shape[0]} of {bias.shape[0]} .*earlier checkpoint"
    with pytest.raises(ValueError, match=expected):
        load_weights(model, tmp_path / "diverged.weights.h5")
    assert same(values(model.weights), before)


def test_a_rejected_file_changes_nothing(tmp_path):
    model = convolutional()
    before = values(model.variables)
    (tmp_path / "text.weights.h5").write_text("no HDF5")
    (tmp_path / "text.keras").write_text("no archive")
    build("mlp", (4, 4, 1), 3).save_weights(tmp_path / "other.weights.h5")
    model.save(tmp_path / "half.keras")
    (tmp_path / "half.keras").write_bytes((tmp_path / "half.keras").read_bytes()[:3000])
    (tmp_path / "directory.keras").mkdir()
    for file, message in {
        "nowhere.keras": "does not exist",
        "directory.keras": "directory.keras, which is not a file",
        "text.weights.h5": "complete .keras or .weights.h5 file",
        "text.keras": "complete .keras or .weights.h5 file",
        "half.keras": "complete .keras or .weights.h5 file",
        "other.weights.h5": "of other names or shapes",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_weights(model, tmp_path / file)
    assert same(before, values(model.variables))


STATISTICS = PixelStatistics((101.0, 102.0, 103.0), (51.0, 52.0, 53.0))


def surrounded(network):
    inputs = keras.Input(network.input_shape[1:])
    return keras.Model(inputs, layers.Softmax()(network(inputs)))


def in_a_sequence(network):
    return keras.Sequential([keras.Input(network.input_shape[1:]), network, layers.Softmax()])


def with_early_exit(network):
    return EarlyExit(build("multi_exit/resnet8", network.input_shape[1:], 4, STATISTICS), 0.9)


@pytest.mark.parametrize("around", [lambda network: network, surrounded, in_a_sequence, with_early_exit])
def test_the_pixel_statistics_of_a_network_and_of_its_file(around, tmp_path):
    network = around(build("resnet8", (16, 16, 3), 4, STATISTICS))
    network.save(tmp_path / "model.keras")
    for source in (network, tmp_path / "model.keras", str(tmp_path / "model.keras")):
        statistics = pixel_statistics(source)
        assert statistics.mean == STATISTICS.mean and statistics.std == pytest.approx(STATISTICS.std)
    again = build("resnet8", (16, 16, 3), 4, pixel_statistics(tmp_path / "model.keras"))
    assert pixel_statistics(again).std == pytest.approx(STATISTICS.std)


def test_networks_without_a_normalization_of_the_image(tmp_path):
    inputs = keras.Input(SHAPE)
    scaled_before = keras.Model(inputs, layers.Normalization(mean=0.5, variance=1.0)(layers.Rescaling(2.0)(inputs)))
    normalization = layers.Normalization(mean=0.5, variance=1.0)
    read_by_two = keras.Model(inputs, layers.Add()([normalization(inputs), inputs]))
    adapted = keras.Sequential([keras.Input(SHAPE), layers.Normalization()])
    application = build("applications/MobileNet", (32, 32, 3), 4, alpha=0.25)
    application.save_weights(tmp_path / "some.weights.h5")
    for network in (convolutional(), scaled_before, read_by_two, adapted, application, tmp_path / "some.weights.h5"):
        assert pixel_statistics(network) is None
    (tmp_path / "text.keras").write_text("no archive")
    with pytest.raises(ValueError, match="complete .keras"):
        pixel_statistics(tmp_path / "text.keras")
    with pytest.raises(ValueError, match="does not exist"):
        pixel_statistics(tmp_path / "nowhere.keras")


def legacy(model, path, whole=False):
    """Writes the layout of the files that Keras downloads for keras.applications."""
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file.create_group("model_weights") if whole else file, model)
    return path


@pytest.mark.parametrize("whole", [False, True])
def test_legacy_files_as_keras_downloads_them(whole, tmp_path):
    published = keras.applications.MobileNet(alpha=0.25, weights=None, input_shape=(32, 32, 3), classes=7)
    for variable in published.variables:
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    path = legacy(published, tmp_path / "mobilenet_2_5_32_tf.h5", whole)
    network = build("applications/MobileNet", (32, 32, 3), 7, alpha=0.25)
    report = load_weights(network, path)
    assert not (report.missing or report.mismatched or report.skipped)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    logits = keras.ops.convert_to_numpy(network(images))
    expected = published(keras.applications.mobilenet.preprocess_input(images.copy()))
    np.testing.assert_allclose(keras.ops.softmax(logits), expected, atol=1e-5)
    other = build("applications/MobileNet", (32, 32, 3), 4, alpha=0.25)
    assert list(load_weights(other, path).mismatched) == ["conv_preds"]


def test_legacy_files_of_unnamed_and_nested_layers(tmp_path):
    def network(wide):
        inner = keras.Sequential([layers.Conv2D(3, 1), layers.BatchNormalization()], name="inner")
        heads = layers.MultiHeadAttention(2, 4, name="mha")
        inputs = keras.Input(SHAPE)
        maps = layers.Reshape((-1, 3))(inner(layers.Conv2D(wide, 1)(layers.Conv2D(3, 1)(inputs))))
        return keras.Model(inputs, layers.Dense(2, name="a_b")(heads(maps, maps)))

    keras.utils.clear_session()
    saved = network(4)
    for variable in saved.variables:
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5))
    path = legacy(saved, tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:  # earlier versions of Keras had slashes in names
        file.attrs["layer_names"] = [
            name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]
        ]
        file.attrs["layer_names"] = ["a/b" if name == "a_b" else name for name in file.attrs["layer_names"]]
        file.move("a_b", "a/b")
    other = network(4)
    report = load_weights(other, path)
    assert not (report.missing or report.mismatched or report.skipped) and len(report.loaded) == 9
    assert same(values(saved.variables), values(other.variables))
