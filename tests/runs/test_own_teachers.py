"""Teachers that are named by a text: files, arrays and servers, recorded by the program and distilled from."""

import json

import numpy as np
import pytest
from PIL import Image

import kd_keras as kd
from kd_keras.data import file_names
from tests.support.programs import SMALL, program
from tests.support.runs import trained
from tests.support.serving import Serving

DIGITS = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def run(place):
    """A run whose classes are the digits in reverse order."""
    run = trained(place, "teacher", 4)
    data = {"class_names": DIGITS[::-1], "image_shape": [8, 8, 1]}
    (run / "result.json").write_text(json.dumps({"data": data, "metric": "accuracy", "last": {}}))
    return run


@pytest.fixture(scope="module")
def exports(run, place):
    formats = ["saved_model", "litert", "onnx"]
    return {export.format: export.path for export in kd.export(run, formats, output=place / "export")}


@pytest.fixture(scope="module")
def small(place):
    return {"data": "digits", "data_dir": str(place / "data"), "train_split": "train[:64]", "batch_size": 32}


def logits(recording):
    return recording.read(0, np.arange(64))[0]


@pytest.fixture(scope="module")
def expected(run, small, place):
    """The logits of the network with its classes in the order of the digits."""
    recorded = logits(kd.record(teacher=run, output=place / "expected", **small))
    examples = kd.data.load("digits", "train[:64]", small["data_dir"]).examples
    images = np.stack([example["image"] for example in examples])
    np.testing.assert_allclose(recorded, kd.Run(run).model()(images.astype("float32"))[:, ::-1], atol=1e-5)
    return recorded


@pytest.mark.parametrize("kind", ["saved_model", "litert", "onnx"])
def test_a_file_that_names_its_classes_is_recorded_in_the_order_of_the_images(kind, exports, expected, small, tmp_path):
    recording = kd.record(teacher=exports[kind], output=tmp_path / "recording", **small)
    np.testing.assert_allclose(logits(recording), expected, atol=1e-4)
    text = f"{exports[kind]}(output='probabilities', probabilities=True)"
    recording = kd.record(teacher=text, output=tmp_path / "probabilities", **small)
    shifted = logits(recording) - logits(recording).mean(-1, keepdims=True)
    np.testing.assert_allclose(shifted, expected - expected.mean(-1, keepdims=True), atol=1e-3)


def test_the_program_records_a_file_and_a_student_is_distilled_from_it(exports, place, tmp_path, monkeypatch):
    data = [*SMALL, f"--data_dir={place / 'data'}"]
    given = [part for part in data if not part.startswith("--epochs")]
    program("record", f"--teacher={exports['onnx']}", *given, f"--output={tmp_path / 'recording'}")
    again = program("record", f"--teacher={exports['onnx']}", *given, f"--output={tmp_path / 'recording'}", "--verify")
    assert "the checksums of all shards are correct" in again.stdout
    options = ["--student=mlp(hidden=(8,))", *data, f"--run={tmp_path / 'run'}"]
    program("distill", f"--recording={tmp_path / 'recording'}", *options)
    assert kd.Run(tmp_path / "run").is_complete
    refused = program("distill", f"--teacher={exports['onnx']}", *options, check=False)
    assert refused.returncode == 2 and "Record it first with kd_keras.record" in refused.stderr
    assert refused.stderr.count("\n") <= 1
    other = program(
        "record", f"--teacher={exports['litert']}", *given, f"--output={tmp_path / 'recording'}", check=False
    )
    assert other.returncode == 2 and "teacher onnx: recorded" in other.stderr


def test_a_saved_model_teaches_without_a_recording(exports, small, tmp_path):
    options = {**small, "epochs": 1, "test_split": "test[:64]"}
    student = kd.distill(teacher=exports["saved_model"], student="mlp(hidden=(8,))", run=tmp_path / "run", **options)
    assert student.is_complete and "teacher_accuracy" in student.result


def test_the_program_says_that_a_server_went_away(place, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    given = ["--data=digits", "--train_split=train[:64]", "--batch_size=8", f"--data_dir={place / 'data'}"]
    output = f"--output={tmp_path / 'recording'}"

    def predict(images):
        return (images[:, 0, :, 0].repeat(2, axis=-1)[:, :10] / 3).tolist()

    with Serving(predict, dies_after=3) as server:
        ran = program("record", f"--teacher={server.url}(retries=0)", *given, output, check=False)
        assert ran.returncode == 1 and "does not reply after 1 attempt," in ran.stderr
    with Serving(predict) as server:
        program("record", f"--teacher={server.url}(batch_size=8, retries=0)", *given, output)
        assert len(server.images) == 64 - 3 * 8
        program("record", f"--teacher={server.url}", *given, f"--output={tmp_path / 'whole'}")
    for name in ("whole", "recording"):
        kd.recording.Recording(tmp_path / name).verify()
    parts = [logits(kd.recording.Recording(tmp_path / name)) for name in ("whole", "recording")]
    np.testing.assert_array_equal(*parts)


def test_arrays_by_the_names_of_the_files_of_a_folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cat/b.png", "cat/a.png", "dog/c.png", "dog/a.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8)).astype("uint8")).save(path)
    names = file_names(tmp_path / "images")
    assert names == ["cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png"]
    values = random.normal(size=(4, 2)).astype("float32")
    order, options = [2, 0, 3, 1], {"data": tmp_path / "images", "batch_size": 2, "test_split": "train"}
    files = np.array([names[place] for place in order])
    np.savez(tmp_path / "p.npz", logits=values[order][:, ::-1], files=files, class_names=["dog", "cat"])
    recording = kd.record(teacher=tmp_path / "p.npz", output=tmp_path / "recording", **options)
    np.testing.assert_array_equal(recording.read(0, np.arange(4))[0], values)
    np.savez(tmp_path / "q.npz", logits=values[:3], files=files[:3])
    with pytest.raises(ValueError, match=r"whose 'files' lack 1 of 4, such as \['cat/b.png'\]"):
        kd.record(teacher=tmp_path / "q.npz", output=tmp_path / "other", **options)
    with pytest.raises(ValueError, match=r"no predictions for views of them"):
        kd.record(teacher=tmp_path / "p.npz", output=tmp_path / "other", flip=True, **options)


def test_the_embeddings_of_a_network_are_a_teacher_for_methods_that_read_them(run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    vectors = kd.embed(run, folder, output=tmp_path / "e.npz").vectors
    options = {"data": folder, "batch_size": 4}
    recording = kd.record(teacher=tmp_path / "e.npz", methods=["rkd"], output=tmp_path / "recording", **options)
    np.testing.assert_allclose(recording.read(0, np.arange(8))[0], vectors, rtol=1e-3, atol=1e-4)  # stored as float16


def test_a_python_function_is_recorded(small, expected, run, tmp_path):
    network = kd.Run(run).model()
    recording = kd.record(teacher=lambda images: network(images).numpy()[:, ::-1], output=tmp_path / "r", **small)
    np.testing.assert_allclose(logits(recording), expected, atol=1e-5)


def test_the_range_of_pixels_is_that_of_the_flag(small, tmp_path):
    seen = []

    def ask(images):
        seen.append((images.min(), images.max()))
        return images[:, 0, :, 0].repeat(2, axis=-1)[:, :10] * 9

    kd.record(teacher=ask, teacher_range=(-1, 1), output=tmp_path / "r", **small)
    assert seen[0] == pytest.approx((-1, 1), abs=1e-6)


def test_options_that_do_not_fit_are_refused(exports, small, tmp_path):
    options = {"output": tmp_path / "r", **small}
    with pytest.raises(ValueError, match="no options of networks with .* received teacher_precision='float16'"):
        kd.record(teacher=exports["onnx"], teacher_precision="float16", **options)
    with pytest.raises(ValueError, match=r"takes output, probabilities, tap, class_order, but received outputs"):
        kd.record(teacher=f"{exports['onnx']}(outputs='logits')", **options)
    with pytest.raises(ValueError, match="no teacher_range= with the ONNX file"):
        kd.record(teacher=kd.Teacher.onnx(exports["onnx"]), teacher_range=(0, 1), **options)
    with pytest.raises(
        ValueError, match="a file for ONNX that ends in .onnx, but received .*none.onnx, which does not"
    ):
        kd.record(teacher=tmp_path / "none.onnx", **options)
    assert not (tmp_path / "r").exists()
