"""A run belongs to the content of its images and its teacher, not only to their names."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kd_keras as kd
from kd_keras.functions.pixel_range import PixelRange
from kd_keras.runs.inputs import check_inputs

SMALL = {"train_split": "train[:64]", "test_split": "test[:64]", "batch_size": 32, "epochs": 1}
MLP = "mlp(hidden=(4,))"


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])


TEACHERS = {
    "model": network,
    "order": lambda seed: kd.Teacher(network(0), class_order=list(range(9, -1, -1)) if seed else None),
    "weights": lambda seed: kd.Teacher([network(0), network(7)], weights=(1, 1 + seed)),
    "range": lambda seed: kd.Teacher(network(0), preprocess=PixelRange(0, 1) if seed else None),
}


@pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS)
def test_another_teacher_of_the_same_shapes_is_refused(make, tmp_path):
    options = {"student": MLP, "run": tmp_path / "run", "data_dir": str(tmp_path), "hard_weight": 0, **SMALL}
    first = kd.distill(teacher=make(0), **options)
    with pytest.raises(ValueError, match="was started, but received"):
        kd.distill(teacher=make(1), **options)
    assert kd.distill(teacher=make(0), **options).result == first.result


def dataset(count, seed):
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1)).astype("uint8")
    return tf.data.Dataset.from_tensor_slices((images, np.arange(count) % 10))


def test_another_dataset_of_the_same_elements_is_refused(tmp_path):
    options = {"model": MLP, "run": tmp_path / "run", "batch_size": 32, "epochs": 1}
    first = kd.train(data=dataset(64, 0), test_data=dataset(32, 1), **options)
    for images, test in ((dataset(64, 2), dataset(32, 1)), (dataset(65, 0), dataset(32, 1))):
        with pytest.raises(ValueError, match=r"(?s)was started, but received training images: recorded 64 examples"):
            kd.train(data=images, test_data=test, **options)
    with pytest.raises(ValueError, match="received test images: recorded 32 examples"):
        kd.train(data=dataset(64, 0), test_data=dataset(32, 0), **options)
    assert kd.train(data=dataset(64, 0), test_data=dataset(32, 1), **options).result == first.result
    shuffled_once = dataset(64, 0).shuffle(64, seed=3, reshuffle_each_iteration=False)
    assert kd.train(data=shuffled_once, test_data=dataset(32, 1), **options).result == first.result


def test_teachers_of_several_seeds_are_one_row(tmp_path):
    options = {"student": MLP, "data_dir": str(tmp_path), "hard_weight": 0, **SMALL}
    runs = [kd.distill(teacher=network(seed), seed=seed, run=tmp_path / f"{seed}", **options) for seed in (0, 1)]
    assert [row["seeds"] for row in kd.compare(runs).rows] == [2]


def write_images(folder, count):
    for split, label, number in ((s, c, n) for s in ("train", "test") for c in "ab" for n in range(count)):
        (folder / split / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), dtype="uint8")
        Image.fromarray(pixels).save(folder / split / label / f"{number}.png")


def test_a_run_does_not_resume_with_other_images_or_another_teacher_of_the_same_path(tmp_path):
    folder, options = tmp_path / "images", {"batch_size": 8, "epochs": 1}
    write_images(folder, 10)
    teacher = kd.train(model=MLP, data=str(folder), run=tmp_path / "teacher", **options)
    request = {"teacher": str(teacher.path), "student": MLP, "data": str(folder), "run": tmp_path / "run", **options}
    run = kd.distill(**request)
    (run.path / "result.json").unlink()  # as if it was killed before its end
    write_images(folder, 11)
    with pytest.raises(ValueError, match=r"(?s)training images: recorded 20 examples.*now 22 examples"):
        kd.distill(**request)
    for path in folder.glob("*/*/10.png"):
        path.unlink()
    weights = keras.saving.load_model(teacher.path / "model.keras")
    weights.set_weights([value + 1 for value in weights.get_weights()])
    good = (teacher.path / "model.keras").read_bytes()
    weights.save(teacher.path / "model.keras")
    with pytest.raises(ValueError, match=r"(?s)received teacher: recorded"):
        kd.distill(**request)
    (teacher.path / "model.keras").write_bytes(good)
    assert kd.distill(**request).is_complete


def test_a_damaged_file_is_reported(tmp_path):
    (tmp_path / "inputs.json").write_text("{")
    with pytest.raises(ValueError, match="inputs.json as JSON, but received a damaged file .*Delete it"):
        check_inputs(tmp_path, {})


@pytest.mark.filterwarnings("ignore:tf.data.Dataset gives other examples")
def test_a_shuffled_dataset_is_known_by_its_size_alone(tmp_path):
    options = {"model": MLP, "run": tmp_path / "run", "batch_size": 32, "epochs": 1}
    kd.train(data=dataset(64, 0).shuffle(64), **options)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"recorded 64 examples \(in an order that changes\), now 65 examples"):
        kd.train(data=dataset(65, 0).shuffle(65), **options)
    assert kd.train(data=dataset(64, 0).shuffle(64), **options).is_complete
