"""Recorded teachers: they train the same student as the live teacher, and unsuitable recordings are rejected."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kd_keras as kd
from kd_keras import Distiller, Teacher, data
from kd_keras.contracts import INDEX, RECORDED, Batch, TapSpec, as_batch
from kd_keras.data import Augmentation, Source
from kd_keras.distribute.slices import BatchSlice
from kd_keras.methods import KD, FitNet
from kd_keras.recording.format import decode, divergence, encode
from kd_keras.recording.writer import record
from tests.support.networks import CLASSES, compiled, convolutional, counted, mirrored, same, values

COUNT = 37  # in batches of 8: the last one is smaller
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:Gradients do not")
MIXED = Augmentation(crop=1, flip=True, mixup=0.5, cutmix=1.0)


def images(count=COUNT, seed=0, name="random"):
    random = np.random.default_rng(seed)
    columns = {"image": random.integers(0, 256, (count, 8, 8, 3)).astype("uint8"), "index": np.arange(count)}
    columns["label"] = random.integers(0, CLASSES, count)
    return Source(tf.data.Dataset.from_tensor_slices(columns), name, count, CLASSES, None, (8, 8, 3))


def on_pixels(network):
    """The network after a layer that scales pixel values to 0..1."""
    inputs = keras.Input(network.input_shape[1:])
    x = keras.layers.Rescaling(1 / 255)(inputs)
    for layer in network.layers[1:]:
        x = layer(x)
    return keras.Model(inputs, x, name=network.name)


def wide(seed=3, **options):
    keras.utils.set_random_seed(seed)
    return on_pixels(convolutional(6, normalized=True, name="teacher", **options))


def recorded(directory, network=None, source=None, **options):
    options = {"batch_size": 8, "seed": 5} | options
    return record(directory, Teacher(network or wide()), source or images(), **options)


def trained(teacher, methods=(KD,), epochs=4, hard=True, **view):
    keras.utils.set_random_seed(0)
    distiller = Distiller(student=on_pixels(convolutional(4)), teacher=teacher, methods=[make() for make in methods])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = compiled(distiller, loss=loss, jit_compile=False)
    source = view.pop("source", images())
    train = data.training(source, **{"batch_size": 8, "seed": 5, "one_hot": True} | view)
    distiller.fit(train, epochs=epochs, steps_per_epoch=5, verbose=0)
    return values(distiller.student.variables)


@pytest.mark.parametrize("augmentation", [None, Augmentation(crop=2, flip=True), MIXED], ids=["none", "crop", "mixed"])
def test_a_recording_trains_the_same_student_as_the_live_teacher(augmentation, tmp_path):
    teacher, passes = counted(wide())
    recording = recorded(tmp_path, teacher, views=2, augmentation=augmentation)
    recording.verify()
    passes.counts[False].assign(0.0)
    live = trained(teacher, views=2, augmentation=augmentation)
    assert passes.read() == (0, 5 + 20)  # the check of the teacher before the training, and one pass a step
    again = trained(Teacher.recorded(tmp_path), recorded=recording, augmentation=augmentation)
    assert passes.read() == (0, 5 + 20) and same(live, again, atol=1e-5)
    if augmentation:
        without_views = trained(teacher, augmentation=augmentation)  # a new view in each epoch
        assert not same(live, without_views, atol=1e-3)


def test_recording_over_replicas_gives_the_same_outputs(tmp_path):
    on_one = recorded(tmp_path / "one", views=1)
    with mirrored(2).scope():  # 37 images in batches of 8: the last one has 5
        on_two = recorded(tmp_path / "two", views=1)
    assert same(on_one.read(0, np.arange(COUNT)), on_two.read(0, np.arange(COUNT)), atol=1e-5)


def test_views_are_joined_by_example_in_any_order_and_batch(tmp_path):
    crop = Augmentation(crop=2)
    teacher = wide()
    recording = recorded(tmp_path, teacher, views=2, augmentation=crop)
    for batch_size, cache in ((8, True), (5, False), (37, True)):
        options = {"batch_size": batch_size, "cache": cache, "augmentation": crop, "seed": 5}
        for x, _ in data.training(images(), recorded=recording, start_epoch=3, epochs=2, **options):
            batch = as_batch((x,))
            np.testing.assert_allclose(batch.recorded["logits"], teacher(batch.inputs, training=False), atol=1e-5)


def test_stages_are_recorded_too(tmp_path):
    taps = ["logits", "stages", "stages:pre", "stages[1]"]
    recording = recorded(tmp_path, taps=taps)
    (x, _) = next(iter(data.training(images(), batch_size=8, seed=5, recorded=recording)))
    assert isinstance(as_batch((x,)).recorded["stages"], list) and x[RECORDED]["stages"][0].dtype == tf.float32
    live = Teacher(wide()).tapped(taps)
    assert recording.specs == live.specs
    assert recording.compare(live(as_batch((x,)).inputs), x[RECORDED]) < 1e-3
    methods = (KD, lambda: FitNet(weight=0.1))
    assert same(trained(wide(), methods), trained(Teacher.recorded(tmp_path), methods, recorded=recording), atol=1e-3)
    for stored, expected in zip(recording.specs.classifier(), live.specs.classifier(), strict=True):
        np.testing.assert_array_equal(stored, expected)
    norms = (teacher.batch_norms("stages:pre") for teacher in (recording.specs, live.specs))
    for stored, expected in zip(*norms, strict=True):
        np.testing.assert_array_equal(stored, expected)
    with pytest.raises(ValueError, match=r"(?s)recorded taps embedding.*logits, stages"):
        Teacher.recorded(tmp_path).tapped(["embedding"])


def test_top_k_stores_the_probabilities_and_the_mass_of_the_rest(tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, (6, 20)).astype("float32")
    specs = {"logits": TapSpec("head", (None, 20))}
    (stored,) = decode(encode({"logits": logits}, np.arange(6), specs, "top-4"), specs)
    softmax = [np.exp(side - side.max(-1, keepdims=True)) for side in (logits, stored)]
    exact, approximate = (side / side.sum(-1, keepdims=True) for side in softmax)
    largest = np.argsort(exact, -1)[:, -4:]
    np.testing.assert_allclose(*(np.take_along_axis(side, largest, -1) for side in (exact, approximate)), rtol=5e-3)
    for row in range(6):
        others = np.delete(approximate[row], largest[row])
        np.testing.assert_allclose(others, (1 - approximate[row][largest[row]].sum()) / 16, rtol=1e-4)
    log_ratio = np.log(exact / approximate)
    np.testing.assert_allclose(divergence(logits, stored)[0], (exact * log_ratio).sum(-1), rtol=1e-4, atol=1e-6)
    sizes = {}
    for form in ("float32", "float16", "top-2"):
        recording = recorded(tmp_path / form, logits=form)
        sizes[form] = recording.type.itemsize
        errors = [shard["error"] for shard in recording.plan["shards"]]
        assert (errors[0] == {}) == (form == "float32")
        assert form == "float32" or 0 <= errors[0]["T=4"][0] <= errors[0]["T=4"][1] < (1e-5 if form == "float16" else 1)
    assert sizes == {"float32": 28, "float16": 18, "top-2": 20}


def test_several_workers_write_shards_of_one_recording(tmp_path):
    assert recorded(tmp_path / "parts", views=2, shard=(1, 3)) is None
    with pytest.raises(ValueError, match="a complete recording.*resumes if interrupted"):
        Teacher.recorded(tmp_path / "parts")
    assert recorded(tmp_path / "parts", views=2, shard=(0, 3)) is None
    parts = recorded(tmp_path / "parts", views=2, shard=(2, 3))
    whole = recorded(tmp_path / "whole", views=2)
    parts.verify()
    files = (sorted(recording.directory.glob("*.tfrecord")) for recording in (whole, parts))
    for paths in zip(*files, strict=True):
        rows = [
            np.stack(
                list(
                    tf.data.TFRecordDataset(str(path))
                    .map(lambda row: tf.io.decode_raw(row, tf.uint8))
                    .as_numpy_iterator()
                )
            )
            for path in paths
        ]
        of_one, of_three = (records.view(whole.type)[:, 0] for records in rows)
        np.testing.assert_array_equal(of_one["index"], of_three["index"])
        np.testing.assert_allclose(of_one["logits/0"], of_three["logits/0"], atol=1e-5)


def test_only_missing_and_damaged_shards_are_written_again(tmp_path):
    recorded(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord")}
    lost, cut = list(times)[:2]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-5])
    recorded(tmp_path).verify()
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost, cut}


def test_incomplete_and_damaged_shards_are_rejected(tmp_path):
    recorded(tmp_path)
    path = sorted(tmp_path.glob("*.tfrecord"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="a complete shard.*bytes.*but received.*bytes"):
        Teacher.recorded(tmp_path)
    path.write_bytes(whole[:40] + b"?" + whole[41:])
    teacher = Teacher.recorded(tmp_path)
    with pytest.raises(Exception, match="with the checksum"):
        trained(teacher, recorded=teacher.recording)
    with pytest.raises(ValueError, match="with the checksum"):
        teacher.recording.verify()


TORN = {"torn": lambda text: text[: len(text) // 2], "empty": lambda text: "", "binary": lambda text: "\udcff\x00" * 9}


@pytest.mark.parametrize("damage", TORN)
@pytest.mark.parametrize("name", ["manifest.json", "plan.json", "view-0000-02.json", "constants.npz"])
def test_a_damaged_file_is_named_and_recorded_again(name, damage, tmp_path):
    recorded(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(TORN[damage](whole.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"{name}.*but received .*Record again with the same settings"):
        recorded_again = Teacher.recorded(tmp_path)
        recorded_again.recording.verify()
    shards = {shard: shard.stat().st_mtime_ns for shard in tmp_path.glob("*.tfrecord")}
    recorded(tmp_path).verify()
    assert path.read_bytes() == whole
    again = {shard.name for shard, time in shards.items() if shard.stat().st_mtime_ns != time}
    assert again == ({"view-0000-02.tfrecord"} if name.startswith("view") else set())


def test_a_lost_plan_does_not_mix_two_teachers(tmp_path):
    recorded(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match="weights: recorded"):  # the manifest still knows it
        recorded(tmp_path, wide(seed=4))
    (tmp_path / "manifest.json").write_text("{")
    other = recorded(tmp_path, wide(seed=4))
    other.verify()
    expected = recorded(tmp_path.with_name("expected"), wide(seed=4)).read(0, np.arange(COUNT))
    assert same(other.read(0, np.arange(COUNT)), expected, atol=1e-6)


def test_constants_without_a_checksum_are_read_to_verify_them(tmp_path):
    recorded(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({k: v for k, v in manifest.items() if k != "constants"}))
    Teacher.recorded(tmp_path).recording.verify()
    (tmp_path / "constants.npz").write_bytes(b"junk" * 99)
    with pytest.raises(ValueError, match="constants.npz.*a damaged one"):
        Teacher.recorded(tmp_path).recording.verify()


def test_reading_a_recording_leaves_no_file_open(tmp_path):
    def count_open():
        return sum(str(tmp_path) in target(path) for path in Path("/proc/self/fd").iterdir())

    def target(path):
        try:
            return os.readlink(path)
        except OSError:  # closed meanwhile
            return ""

    recorded(tmp_path, views=4)
    for _ in range(2):
        teacher = Teacher.recorded(tmp_path)
        batches = data.training(images(), batch_size=8, seed=5, recorded=teacher.recording, epochs=4)
        for _ in batches:
            assert count_open() <= 4  # reads that are running
        assert count_open() == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"augmentation": Augmentation(crop=1)}, r"augmentation: recorded .*crop=2.*now .*crop=1"),
        ({"seed": 6}, "seed: recorded 5, now 6"),
        ({"source": images(name="others")}, "dataset: recorded random, now others"),
        ({"image_size": (4, 4)}, "image_size"),
    ],
)
def test_a_recording_of_other_images_is_rejected_with_the_differences(change, message, tmp_path):
    recording = recorded(tmp_path, augmentation=Augmentation(crop=2))
    options = {"batch_size": 8, "seed": 5, "augmentation": Augmentation(crop=2), "source": images()} | change
    with pytest.raises(ValueError, match=f"the images with which.*{message}"):
        data.training(options.pop("source"), recorded=recording, **options)
    options = {"augmentation": Augmentation(crop=2)} | change
    with pytest.raises(ValueError, match=f"the settings with which.*was started.*{message}"):
        recorded(tmp_path, **options)


def test_a_recording_of_mixed_batches_needs_the_same_batches(tmp_path):
    recording = recorded(tmp_path, augmentation=MIXED)
    for change in ({"batch_size": 9}, {"cache": False}, {"shuffle": False}, {"drop_remainder": True}):
        with pytest.raises(ValueError, match="batch_size|order|drop_remainder"):
            data.training(images(), recorded=recording, **{"batch_size": 8, "seed": 5, "augmentation": MIXED} | change)


def test_a_recording_of_an_older_format_is_rejected(tmp_path):
    recorded(tmp_path)
    for name in ("manifest.json", "plan.json"):
        plan = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({**plan, "format": 1}))
    message = "is a recording of format 1, but this version of kd_keras reads format 2.*pixel values from 0 to 255"
    with pytest.raises(ValueError, match=message):
        Teacher.recorded(tmp_path)
    with pytest.raises(ValueError, match=message):
        recorded(tmp_path)


def test_the_teacher_receives_pixel_values_from_0_to_255(tmp_path):
    inputs = keras.Input((8, 8, 3))
    brightest = keras.Model(inputs, keras.layers.Reshape((1,))(keras.layers.GlobalMaxPooling2D()(inputs[..., :1])))
    recording = recorded(tmp_path, brightest)
    expected = [row["image"][..., 0].max() for row in images().examples.as_numpy_iterator()]
    np.testing.assert_array_equal(recording.read(0, np.arange(COUNT))[0][:, 0], expected)


def test_recorded_outputs_travel_with_the_batch(tmp_path):
    recording = recorded(tmp_path, taps=["logits", "stages"])
    teacher = Teacher.recorded(tmp_path)
    (x, _) = next(iter(data.training(images(), batch_size=8, seed=5, recorded=recording)))
    outputs = teacher.outputs(as_batch((x,)))
    assert set(outputs) == {"logits", "stages"} and isinstance(outputs["stages"], list)
    np.testing.assert_array_equal(outputs["logits"], recording.read(0, x[INDEX].numpy())[0])


def test_progress_is_logged(tmp_path, caplog):
    with caplog.at_level("INFO", logger="kd_keras"):
        recorded(tmp_path)
    # TensorFlow warns in between, once earlier tests of the process have traced enough.
    messages = [record.getMessage() for record in caplog.records if record.name == "kd_keras"]
    assert "1 views of 37 examples" in messages[0] and len(messages) == 1 + 5
    assert all("examples of view 0" in message for message in messages[1:])


def test_another_teacher_is_rejected_by_its_weights_or_by_a_sample(tmp_path):
    recorded(tmp_path)
    Teacher.recorded(tmp_path, live=Teacher(wide()))
    with pytest.raises(ValueError, match="the teacher with which.*weights: recorded"):
        Teacher.recorded(tmp_path, live=Teacher(wide(seed=4)))
    with pytest.raises(ValueError, match="weights: recorded"):
        recorded(tmp_path, wide(seed=4))
    brighter = Teacher(wide(), preprocess=lambda x: x + 127.5)  # the same weights: only a sample of images shows it
    teacher = Teacher.recorded(tmp_path, live=brighter)
    x, _ = next(iter(data.training(images(), batch_size=8, seed=5, recorded=teacher.recording)))
    with pytest.raises(ValueError, match="a live teacher whose outputs.*relative difference.*preprocess"):
        teacher.recording.compare(brighter.tapped(["logits"])(as_batch((x,)).inputs), x[RECORDED])


def test_requests_that_cannot_be_recorded_are_rejected(tmp_path):
    broken = wide()
    broken.get_layer("logits").bias.assign([np.nan] * CLASSES)
    with pytest.raises(ValueError, match="logits/0 has NaN or infinity"):
        recorded(tmp_path / "broken", broken)
    large = wide()
    large.get_layer("logits").bias.assign([1e6] * CLASSES)
    with pytest.raises(ValueError, match="as float16.*1,0.*float32"):
        recorded(tmp_path / "large", large, logits="float16")
    for form in ("top-0", "top-5", "top", "float64"):
        with pytest.raises(ValueError, match="top-<k>"):
            recorded(tmp_path / "form", logits=form)
    with pytest.raises(ValueError, match="other files"):
        (tmp_path / "thesis.txt").write_text("years of work")
        recorded(tmp_path)
    with pytest.raises(ValueError, match="views must be a whole number"):
        recorded(tmp_path / "none", views=0)
    with pytest.raises(ValueError, match="batch_size: recorded 8, now 9"):  # its shards would have other examples
        recorded(tmp_path / "batch", shard=(0, 2))
        recorded(tmp_path / "batch", shard=(1, 2), batch_size=9)
    with pytest.raises(ValueError, match=r"shard must be \(i, n\)"):
        recorded(tmp_path / "part", shard=(2, 2))
    attributes = {"changes_images": True, "mixes": False, "view": lambda self, image, seed: image}
    user_augmentation = type("UserAugmentation", (), attributes)()
    with pytest.raises(ValueError, match=r"The repr\(\) of an augmentation"):
        recorded(tmp_path / "own", augmentation=user_augmentation)


def record_sigmoids(directory, teacher, **options):
    return kd.record(
        teacher=teacher, data=images(), output=directory, methods=["kd(binary=True)"], batch_size=8, **options
    )


@pytest.mark.parametrize("form", ["float16", "top-2"])
def test_recorded_units_with_a_sigmoid_each_are_stored_with_all_classes(form, tmp_path):
    recorded(tmp_path / "recording", logits=form)
    student, teacher = on_pixels(convolutional(4)), Teacher.recorded(tmp_path / "recording")
    Distiller(student=student, teacher=teacher, methods=[KD()])
    message = "all units with a sigmoid each.* received logits='top-2'"
    with pytest.raises(ValueError, match=message) if form == "top-2" else contextlib.nullcontext():
        Distiller(student=student, teacher=teacher, methods=[KD(binary=True)])
    with pytest.raises(ValueError, match=message) if form == "top-2" else contextlib.nullcontext():
        record_sigmoids(tmp_path / "whole", wide(), logits=form)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_recorded_teachers_of_units_with_a_sigmoid_each_are_combined_by_logits(combine, tmp_path):
    several, refused = [wide(0), wide(1)], combine == "probabilities"
    message = "sigmoid each must end in that sigmoid.* Pass combine='logits' to the teacher"
    with pytest.raises(ValueError, match=message) if refused else contextlib.nullcontext():
        record_sigmoids(tmp_path / "whole", several, combine=combine)
    record(tmp_path / "recording", Teacher(several, combine=combine), images(), batch_size=8)
    teacher = Teacher.recorded(tmp_path / "recording")
    with pytest.raises(ValueError, match=f"{message}, and record it again") if refused else contextlib.nullcontext():
        Distiller(student=on_pixels(convolutional(4)), teacher=teacher, methods=[KD(binary=True)])


def test_a_batch_without_the_recorded_outputs_is_rejected(tmp_path):
    recording = recorded(tmp_path)
    with pytest.raises(ValueError, match="recorded outputs in every batch.*recorded=teacher.recording"):
        Teacher.recorded(tmp_path).outputs(Batch(np.zeros((2, 8, 8, 3))))
    with pytest.raises(ValueError, match=r"(?s)recorded outputs in every batch.*recorded=teacher.recording"):
        trained(Teacher.recorded(tmp_path))
    with pytest.raises(Exception, match=r"(?s)examples that were recorded.*99"):
        list(tf.data.Dataset.from_tensors(np.array([3, 99])).map(lambda index: recording(tf.constant(0), index)))


def test_the_slices_of_two_replicas_are_parts_of_the_recorded_batch(tmp_path):
    for augmentation in (None, MIXED):
        recording = recorded(tmp_path / str(augmentation is None), augmentation=augmentation)
        options = {"batch_size": 8, "seed": 5, "epochs": 1, "recorded": recording, "augmentation": augmentation}
        whole = [x for x, _ in data.training(images(), **options)]
        parts = [x for x, _ in data.training(images(), batch_slice=BatchSlice(0, 2, 2), **options)]
        for key in (INDEX, RECORDED):
            sides = ([x[key] if key == INDEX else x[key]["logits"] for x in side] for side in (whole, parts))
            np.testing.assert_array_equal(*map(np.concatenate, sides))


@pytest.mark.parametrize("name", ["plan.json", "view-0000-01.json", "constants.npz", "manifest.json"])
def test_a_full_disk_ends_in_one_sentence_whatever_is_written(name, tmp_path, monkeypatch):
    def full(self, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=rf"{name} cannot be written: .*No space left.* finished shards are kept"):
        recorded(tmp_path / "recording")
    assert not list((tmp_path / "recording").glob(".writing*"))
    monkeypatch.undo()
    recorded(tmp_path / "recording").verify()


FULL = """
import resource, sys
from tests.recording.test_recording import recorded
resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))  # as on a full disk: writing a shard fails at this size
recorded(sys.argv[1], batch_size=37, views=2)
"""


def test_a_full_disk_keeps_finished_shards_and_leaves_no_temporary_file(tmp_path):
    directory, root = tmp_path / "recording", Path(__file__).parent.parent.parent
    process = subprocess.run(
        [sys.executable, "-c", FULL, directory],
        capture_output=True,
        text=True,
        cwd=root,
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    assert process.returncode == 1 and "finished shards are kept" in process.stderr, process.stderr[-2000:]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert not list(directory.glob("*.tfrecord")) and not list(directory.glob(".writing*"))
    assert json.loads((directory / "plan.json").read_text())["views"] == 2
    recorded(directory, batch_size=37, views=2).verify()


def test_a_recording_in_reading_order_keeps_the_last_examples(tmp_path):
    recording = recorded(tmp_path, drop_remainder=True)
    assert recording.examples == COUNT
    rows = data.training(images(), recorded=recording, batch_size=8, seed=5, drop_remainder=True, epochs=2)
    assert sum(1 for _ in rows) == 2 * (COUNT // 8)
