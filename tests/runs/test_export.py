"""kd_keras.export: what it writes for a run, and what it does about an export that is rejected."""

import json
import logging
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras.export import runtimes
from tests.support.networks import SHAPE, convolutional, source
from tests.support.runs import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), "student", 4, "--train_split=train")


def test_the_exports_of_a_run(run, caplog):
    with caplog.at_level(logging.INFO, "kd_keras"):
        exports = kd.export(run, ["saved_model", "litert_int8"], calibration=50)
    assert [export.format for export in exports] == ["saved_model", "litert_int8"]
    table = json.loads((run / "export" / "export.json").read_text())
    assert table["images"] == 200 and list(table["formats"]) == ["saved_model", "litert_int8"] and not table["rejected"]
    lines = [record.getMessage() for record in caplog.records]
    images = kd.data.load("digits", "test[:200]", str(run.parent / "data"))
    pixels, labels = (np.stack([example[key].numpy() for example in images.examples]) for key in ("image", "label"))
    classes = np.array(kd.Run(run).model()(pixels.astype("float32"))).argmax(-1)
    for export, name in zip(exports, ("saved_model", "model_int8.tflite"), strict=True):
        assert export.path == run / "export" / name and export.path.exists()
        assert any(line.startswith(f"| {export.format} | {name} | {export.bytes / 1000:,.1f} |") for line in lines)
        assert export.source_accuracy == pytest.approx(np.mean(classes == labels)) and export.agreement > 0.9
        assert runtimes.load(export.path)(pixels[:3]).shape == (3, 10)
    assert exports[0].agreement == 1.0 and exports[0].parameters == kd.Run(run).model().count_params()
    recorded = np.load(run / "export" / "saved_model" / "check.npz")
    np.testing.assert_array_equal(recorded["images"], pixels)
    np.testing.assert_array_equal(recorded["classes"], classes)


def test_the_lines_that_read_an_image_file_see_what_the_test_saw(run, tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO, "kd_keras"):
        kd.export(run, ["saved_model"], output=tmp_path)
    message = next(record.getMessage() for record in caplog.records if "decode_image" in record.getMessage())
    lines = message[message.index("import tensorflow") :]
    assert len(lines.splitlines()) == 6
    photograph = np.random.default_rng(0).integers(0, 256, (61, 47, 1)).astype("uint8")
    tf.io.write_file(str(tmp_path / "image.png"), tf.io.encode_png(photograph))
    monkeypatch.chdir(tmp_path)
    values = {}
    exec(lines, values)
    one = tf.data.Dataset.from_tensors({"image": tf.constant(photograph)}).enumerate()
    examples = one.map(lambda index, example: {**example, "index": index})
    batches = kd.data.evaluation(
        kd.data.Source(examples, name="photograph", size=1, image_shape=(61, 47, 1)), batch_size=1, image_size=(8, 8)
    )
    expected = kd.Run(run).model()(
        next(iter(batches)) if not isinstance(next(iter(batches)), tuple) else next(iter(batches))[0]
    )
    np.testing.assert_allclose(values["outputs"]["logits"], expected, atol=1e-4)


def test_the_check_is_in_place_with_the_saved_model(run, tmp_path, monkeypatch):
    """An export that ends before its table, for example on a full disk, leaves no SavedModel without its check."""
    monkeypatch.setattr(sys.modules["kd_keras.runs.export"], "_record", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        kd.export(run, ["saved_model"], output=tmp_path)
    assert len(np.load(tmp_path / "saved_model" / "check.npz")["classes"]) == 200
    assert [path.name for path in tmp_path.iterdir()] == ["saved_model"]


def test_a_rejected_format_does_not_prevent_the_others(run, tmp_path):
    with pytest.raises(ValueError, match="saved_model export is rejected"):
        kd.export(run, ["saved_model", "litert"], output=tmp_path, tolerance={"agreement": 1.1})
    assert not (tmp_path / "saved_model").exists() and not (tmp_path / "model.tflite").exists()
    table = json.loads((tmp_path / "export.json").read_text())
    assert list(table["rejected"]) == ["saved_model", "litert"] and not table["formats"]


def test_the_table_keeps_other_formats_of_the_same_network(run, tmp_path):
    def formats():
        table = json.loads((tmp_path / "export.json").read_text())
        return sorted(table["formats"]), sorted(table["rejected"])

    kd.export(run, ["saved_model"], output=tmp_path)
    kd.export(run, ["litert"], output=tmp_path)
    assert formats() == (["litert", "saved_model"], [])
    with pytest.raises(ValueError, match="litert export is rejected"):
        kd.export(run, ["litert"], output=tmp_path, tolerance={"agreement": 1.1})
    assert formats() == (["saved_model"], ["litert"])
    kd.export(run, ["litert"], output=tmp_path)
    assert formats() == (["litert", "saved_model"], [])
    another = keras.models.clone_model(kd.Run(run).model())
    kd.export(another, ["litert"], output=tmp_path, data="digits", data_dir=str(run.parent / "data"))
    assert formats() == (["litert"], [])
    (tmp_path / "export.json").write_text("{")
    kd.export(run, ["litert"], output=tmp_path)
    assert formats() == (["litert"], [])


def test_labels_are_in_the_order_of_the_networks_outputs(run, tmp_path):
    """A run whose network was trained with the classes in reverse has the same accuracy."""
    directory = trained(tmp_path, "turned", 4, "--train_split=train")
    model = keras.saving.load_model(directory / "model.keras")
    head = model.layers[-1].get_layer("logits")
    head.set_weights([weights[..., ::-1] for weights in head.get_weights()])
    model.save(directory / "model.keras")
    names = [str(number) for number in range(10)][::-1]
    (directory / "result.json").write_text(json.dumps({"data": {"class_names": names, "image_shape": [8, 8, 1]}}))
    (turned,) = kd.export(directory, ["litert"])
    (original,) = kd.export(run, ["litert"], output=tmp_path)
    assert turned.source_accuracy == original.source_accuracy == turned.accuracy


def test_a_keras_model(tmp_path):
    (export,) = kd.export(convolutional(), output=tmp_path, data=source(12))
    assert export.path == tmp_path / "saved_model" and export.accuracy is not None
    assert np.load(tmp_path / "saved_model" / "check.npz")["images"].shape == (12, *SHAPE)


def test_invalid_requests(run, tmp_path):
    with pytest.raises(ValueError, match="did you mean litert"):
        kd.export(run, ["litrt"])
    with pytest.raises(TypeError, match=r"formats=\['litert'\]"):
        kd.export(run, "litert")
    with pytest.raises(ValueError, match="formats must name at least one"):
        kd.export(run, [])
    with pytest.raises(TypeError, match="epochs"):
        kd.export(run, epochs=3)
    with pytest.raises(ValueError, match="received class_names=a,b. Leave it out"):
        kd.export(run, ["litert"], output=tmp_path, class_names=("a", "b"))
    with pytest.raises(ValueError, match="Pass output="):
        kd.export(convolutional(), data=source(12))
    with pytest.raises(ValueError, match="Pass data="):
        kd.export(convolutional(), output=tmp_path)
