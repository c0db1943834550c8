"""Recorded teachers: the student of the live run, whatever the augmentation; what is damaged or of another run."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kd_keras import Distiller, Teacher, data
from kd_keras.contracts import INDEX, RECORDED, TapSpec, as_batch
from kd_keras.data import Augmentation, Source
from kd_keras.methods import KD, FitNet
from kd_keras.recording.format import decode, divergence, encode
from kd_keras.recording.writer import record
from tests.support.networks import CLASSES, compiled, convolutional, counted, mirrored, same, values

COUNT = 37  # in batches of 8: the last one is smaller
pytestmark = pytest.mark.filterwarnings("ignore:The teacher is right", "ignore:Gradients do not")
MIXED = Augmentation(crop=1, flip=True, mixup=0.5, cutmix=1.0)


def images(count=COUNT, seed=0, name="made"):
    random = np.random.default_rng(seed)
    columns = {"image": random.integers(0, 256, (count, 8, 8, 3)).astype("uint8"), "index": np.arange(count)}
    columns["label"] = random.integers(0, CLASSES, count)
    return Source(tf.data.Dataset.from_tensor_slices(columns), name, count, CLASSES, None, (8, 8, 3))


def wide(seed=3, **options):
    keras.utils.set_random_seed(seed)
    return convolutional(6, normalised=True, name="teacher", **options)


def recorded(directory, network=None, source=None, **options):
    options = {"batch_size": 8, "seed": 5, "say": lambda text: None} | options
    return record(directory, Teacher(network or wide()), source or images(), **options)


def trained(teacher, methods=(KD,), epochs=4, hard=True, **view):
    keras.utils.set_random_seed(0)
    distiller = Distiller(student=convolutional(4), teacher=teacher, methods=[make() for make in methods])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    distiller = compiled(distiller, loss=loss, jit_compile=False)
    source = view.pop("source", images())
    train = data.training(source, **{"batch_size": 8, "seed": 5, "one_hot": True} | view)
    distiller.fit(train, epochs=epochs, steps_per_epoch=5, verbose=0)
    return values(distiller.student.variables)


@pytest.mark.parametrize("augmentation", [None, Augmentation(crop=2, flip=True), MIXED], ids=["none", "crop", "mixed"])
def test_the_student_of_a_recording_is_that_of_the_live_run(augmentation, tmp_path):
    teacher, passes = counted(wide())
    recording = recorded(tmp_path, teacher, views=2, augmentation=augmentation)
    recording.verify()
    passes.counts[False].assign(0.0)
    live = trained(teacher, views=2, augmentation=augmentation)
    assert passes.read() == (0, 20)
    again = trained(Teacher.recorded(tmp_path), recorded=recording, augmentation=augmentation)
    assert passes.read() == (0, 20) and same(live, again, atol=1e-5)
    if augmentation:
        other = trained(teacher, augmentation=augmentation)  # a new view in every epoch
        assert not same(live, other, atol=1e-3)


def test_replicas_share_the_teachers_pass(tmp_path):
    one = recorded(tmp_path / "one", views=1)
    with mirrored(2).scope():  # 37 images in batches of 8: the last one has 5
        two = recorded(tmp_path / "two", views=1)
    assert same(one.read(0, np.arange(COUNT)), two.read(0, np.arange(COUNT)), atol=1e-5)


def test_every_view_is_joined_by_example_whatever_the_order_and_the_batch(tmp_path):
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
    for ours, theirs in zip(recording.specs.classifier(), live.specs.classifier()):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(recording.specs.batch_norms("stages:pre"), live.specs.batch_norms("stages:pre")):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match=r"(?s)recorded taps embedding.*logits, stages"):
        Teacher.recorded(tmp_path).tapped(["embedding"])


def test_top_k_keeps_the_probabilities_and_the_rest(tmp_path):
    logits = np.random.default_rng(0).normal(0, 3, (6, 20)).astype("float32")
    specs = {"logits": TapSpec("head", (None, 20))}
    (kept,) = decode(encode({"logits": logits}, np.arange(6), specs, "top-4"), specs)
    softmax = [np.exp(side - side.max(-1, keepdims=True)) for side in (logits, kept)]
    ours, theirs = (side / side.sum(-1, keepdims=True) for side in softmax)
    largest = np.argsort(ours, -1)[:, -4:]
    np.testing.assert_allclose(*(np.take_along_axis(side, largest, -1) for side in (ours, theirs)), rtol=5e-3)
    for row in range(6):
        others = np.delete(theirs[row], largest[row])
        np.testing.assert_allclose(others, (1 - theirs[row][largest[row]].sum()) / 16, rtol=1e-4)
    log_ratio = np.log(ours / theirs)
    np.testing.assert_allclose(divergence(logits, kept)[0], (ours * log_ratio).sum(-1), rtol=1e-4, atol=1e-6)
    sizes = {}
    for form in ("float32", "float16", "top-2"):
        recording = recorded(tmp_path / form, logits=form)
        sizes[form] = recording.type.itemsize
        errors = [shard["error"] for shard in recording.plan["shards"]]
        assert (errors[0] == {}) == (form == "float32")
        assert form == "float32" or 0 <= errors[0]["T=4"][0] <= errors[0]["T=4"][1] < (1e-5 if form == "float16" else 1)
    assert sizes == {"float32": 28, "float16": 18, "top-2": 20}


def test_several_workers_write_the_parts_of_one_recording(tmp_path):
    assert recorded(tmp_path / "parts", views=2, part=(1, 3)) is None
    with pytest.raises(ValueError, match=r"(?s)a complete recording.*goes on where it stopped"):
        Teacher.recorded(tmp_path / "parts")
    assert recorded(tmp_path / "parts", views=2, part=(0, 3)) is None
    parts = recorded(tmp_path / "parts", views=2, part=(2, 3))
    whole = recorded(tmp_path / "whole", views=2)
    parts.verify()
    for one, other in zip(sorted(whole.directory.glob("*.tfrecord")), sorted(parts.directory.glob("*.tfrecord"))):
        rows = [np.stack(list(tf.data.TFRecordDataset(str(path)).map(
            lambda row: tf.io.decode_raw(row, tf.uint8)).as_numpy_iterator())) for path in (one, other)]
        ours, theirs = (each.view(whole.type)[:, 0] for each in rows)
        np.testing.assert_array_equal(ours["index"], theirs["index"])
        np.testing.assert_allclose(ours["logits/0"], theirs["logits/0"], atol=1e-5)


def test_what_is_whole_is_not_written_again(tmp_path):
    recorded(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tfrecord")}
    lost, cut = list(times)[:2]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-5])
    recorded(tmp_path).verify()
    changed = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {lost, cut}


def test_half_written_and_damaged_shards_are_not_trained_on(tmp_path):
    recorded(tmp_path)
    path = sorted(tmp_path.glob("*.tfrecord"))[1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"(?s)a whole shard.*bytes"):
        Teacher.recorded(tmp_path)
    path.write_bytes(whole[:40] + b"?" + whole[41:])
    teacher = Teacher.recorded(tmp_path)
    with pytest.raises(Exception, match="with the checksum"):
        trained(teacher, recorded=teacher.recording)
    with pytest.raises(ValueError, match="with the checksum"):
        teacher.recording.verify()


@pytest.mark.parametrize("change, message", [
    ({"augmentation": Augmentation(crop=1)}, r"augmentation: recorded .*crop=2.*now .*crop=1"),
    ({"seed": 6}, "seed: recorded 5, now 6"),
    ({"source": images(name="others")}, "dataset: recorded made, now others"),
    ({"normalisation": data.Normalisation((0.5,), (0.5,))}, r"mean: recorded \[0.0\], now \[0.5\]"),
    ({"image_size": (4, 4)}, "image_size"),
])
def test_another_recording_is_refused_with_what_differs(change, message, tmp_path):
    recording = recorded(tmp_path, augmentation=Augmentation(crop=2))
    options = {"batch_size": 8, "seed": 5, "augmentation": Augmentation(crop=2), "source": images()} | change
    with pytest.raises(ValueError, match=f"(?s)the images that.*{message}"):
        data.training(options.pop("source"), recorded=recording, **options)
    options = {"augmentation": Augmentation(crop=2)} | change
    with pytest.raises(ValueError, match=f"(?s)begun with.*{message}"):
        recorded(tmp_path, **options)


def test_a_mixed_recording_needs_its_batches(tmp_path):
    recording = recorded(tmp_path, augmentation=MIXED)
    for change in ({"batch_size": 9}, {"cache": False}, {"shuffle": False}, {"drop_remainder": True}):
        with pytest.raises(ValueError, match="batch_size|order|drop_remainder"):
            data.training(images(), recorded=recording, **{"batch_size": 8, "seed": 5, "augmentation": MIXED} | change)


def test_another_teacher_is_refused_by_its_weights_or_by_a_sample(tmp_path):
    recorded(tmp_path)
    Teacher.recorded(tmp_path, live=Teacher(wide()))
    with pytest.raises(ValueError, match=r"(?s)the teacher that.*weights: recorded"):
        Teacher.recorded(tmp_path, live=Teacher(wide(seed=4)))
    with pytest.raises(ValueError, match="weights: recorded"):
        recorded(tmp_path, wide(seed=4))
    brighter = Teacher(wide(), preprocess=lambda x: x + 0.5)  # the same weights: only a sample tells
    teacher = Teacher.recorded(tmp_path, live=brighter)
    x, _ = next(iter(data.training(images(), batch_size=8, seed=5, recorded=teacher.recording)))
    with pytest.raises(ValueError, match=r"(?s)the live teacher's outputs.*preprocess"):
        teacher.recording.compare(brighter.tapped(["logits"])(as_batch((x,)).inputs), x[RECORDED])


def test_outputs_that_cannot_be_kept(tmp_path):
    broken = wide()
    broken.get_layer("logits").bias.assign([np.nan] * CLASSES)
    with pytest.raises(ValueError, match="NaN or infinity in logits/0"):
        recorded(tmp_path / "broken", broken)
    large = wide()
    large.get_layer("logits").bias.assign([1e6] * CLASSES)
    with pytest.raises(ValueError, match=r"(?s)as float16.*1,0.*float32"):
        recorded(tmp_path / "large", large, logits="float16")
    for form in ("top-0", "top-5", "top", "float64"):
        with pytest.raises(ValueError, match="top-<k>"):
            recorded(tmp_path / "form", logits=form)
    with pytest.raises(ValueError, match="something else"):
        (tmp_path / "thesis.txt").write_text("years of work")
        recorded(tmp_path)
    with pytest.raises(ValueError, match="views: a whole number"):
        recorded(tmp_path / "none", views=0)
    with pytest.raises(ValueError, match="batch_size: recorded 8, now 9"):  # its shards have other examples
        recorded(tmp_path / "batch", part=(0, 2))
        recorded(tmp_path / "batch", part=(1, 2), batch_size=9)
    with pytest.raises(ValueError, match=r"part \(i, n\)"):
        recorded(tmp_path / "part", part=(2, 2))
    own = type("Own", (), {"changes_images": True, "mixes": False, "view": lambda self, image, seed: image})()
    with pytest.raises(ValueError, match="whose repr"):
        recorded(tmp_path / "own", augmentation=own)


def test_a_batch_without_the_recorded_outputs(tmp_path):
    recording = recorded(tmp_path)
    with pytest.raises(ValueError, match=r"(?s)recorded outputs in every batch.*recorded=teacher.recording"):
        trained(Teacher.recorded(tmp_path))
    with pytest.raises(Exception, match=r"(?s)examples that were recorded.*99"):
        list(tf.data.Dataset.from_tensors(np.array([3, 99])).map(lambda index: recording(tf.constant(0), index)))


def test_the_shares_of_two_replicas_are_parts_of_the_recorded_batch(tmp_path):
    from kd_keras.distribute.slices import BatchSlice

    for augmentation in (None, MIXED):
        recording = recorded(tmp_path / str(augmentation is None), augmentation=augmentation)
        options = {"batch_size": 12, "seed": 5, "epochs": 1, "recorded": recording, "augmentation": augmentation}
        options["batch_size"] = 8
        whole = [x for x, _ in data.training(images(), **options)]
        parts = [x for x, _ in data.training(images(), share=BatchSlice(0, 2, 2), **options)]
        for key in (INDEX, RECORDED):
            ours, theirs = ([x[key] if key == INDEX else x[key]["logits"] for x in side] for side in (whole, parts))
            np.testing.assert_array_equal(np.concatenate(ours), np.concatenate(theirs))


FULL = """
import resource, sys
from tests.test_recording import recorded
resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))  # as a full disk: a shard is written until there is no more room
recorded(sys.argv[1], batch_size=37, views=2)
"""


def test_a_disk_that_fills_stops_cleanly(tmp_path):
    place, root = tmp_path / "recording", Path(__file__).parent.parent.parent
    ran = subprocess.run([sys.executable, "-c", FULL, place], capture_output=True, text=True, cwd=root,
                         preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
    assert ran.returncode == 1 and "finished shards stay" in ran.stderr, ran.stderr[-2000:]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert not list(place.glob("*.tfrecord")) and not list(place.glob(".writing*"))
    assert json.loads((place / "plan.json").read_text())["views"] == 2
    recorded(place, batch_size=37, views=2).verify()
