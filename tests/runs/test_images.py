"""The images that a recipe names, and the networks that read them."""

import keras
import numpy as np
import pytest
from PIL import Image

from kd_keras.runs import students, teachers
from kd_keras.runs.images import load_images
from kd_keras.runs.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gray")
    for split, value in (("train", 10), ("test", 20)):
        for label in ("a", "b"):
            (folder / split / label).mkdir(parents=True)
            Image.fromarray(np.full((8, 8), value, "uint8")).save(folder / split / label / "1.png")
    return folder


def network(channels):
    return keras.Sequential([keras.Input((8, 8, channels)), keras.layers.Flatten(), keras.layers.Dense(2)])


def test_a_folder_is_read_in_the_channels_of_the_recipe(folder):
    gray, colors = (load_images(Recipe(data=folder, image_channels=channels)) for channels in (None, 3))
    assert gray.shape == (8, 8, 1) and colors.shape == (8, 8, 3)
    assert next(iter(colors.test.examples))["image"].numpy().tolist() == np.full((8, 8, 3), 20).tolist()
    teachers.load_teacher(network(1), gray, teachers.TeacherOptions())
    teachers.load_teacher(network(3), colors, teachers.TeacherOptions())


@pytest.mark.parametrize("reads, has", [(3, None), (1, 3)])
def test_a_network_of_another_kind_of_image_is_rejected(reads, has, folder):
    images = load_images(Recipe(data=folder, image_channels=has))
    message = f"that reads the same kind of image as .*, images of {has or 1} channels.*Pass image_channels={reads}"
    with pytest.raises(ValueError, match=f"a teacher {message}"):
        teachers.load_teacher(network(reads), images, teachers.TeacherOptions())
    with pytest.raises(ValueError, match=f"a student {message}"):
        students.build_network(network(reads), images, 2)


def test_test_images_of_another_kind_are_rejected(folder, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "test" / label).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), "uint8")).save(tmp_path / "test" / label / "1.png")
    with pytest.raises(ValueError, match="test images of 1 channels, as for training, but received 3"):
        load_images(Recipe(data=folder, test_data=tmp_path))
    assert load_images(Recipe(data=folder, test_data=tmp_path, image_channels=3)).test.image_shape == (8, 8, 3)


def test_the_way_of_reading_is_recorded(folder):
    recipe = Recipe(data=folder, image_channels=3, image_bits=12, download_timeout=5)
    settings = {name: str(value) for name, value in recipe.settings().items() if name.startswith("image_") and value}
    assert Recipe.from_settings(settings).reading == recipe.reading | {"download_timeout": 60.0}
    assert "download_timeout" not in recipe.settings()
