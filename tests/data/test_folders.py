"""Folders of images, written here with TensorFlow's encoders."""

import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data

ENCODERS = {".png": tf.io.encode_png, ".jpg": lambda image: tf.io.encode_jpeg(image, quality=100)}


def picture(path, value, size=(6, 4), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    tf.io.write_file(str(path), ENCODERS[path.suffix.lower()](np.full((*size, channels), value, np.uint8)))


def rows(source):
    return list(source.examples.as_numpy_iterator())


def test_class_folders(tmp_path):
    for value, name in [(10, "b/2.png"), (20, "b/10.png"), (30, "a/x.jpg"), (40, "c/y.PNG")]:
        picture(tmp_path / name, value)
    (tmp_path / "a" / ".hidden.png").write_text("not an image")
    (tmp_path / ".empty").mkdir()
    source = data.load(str(tmp_path), "train")
    assert (source.size, source.classes, source.class_names) == (4, 3, ("a", "b", "c"))
    assert source.image_shape == (6, 4, 3) and source.has_labels and source.name == str(tmp_path)
    read = rows(source)
    assert [int(row["image"][0, 0, 0]) for row in read] == [30, 20, 10, 40]  # a/x b/10 b/2 c/y
    assert [row["label"] for row in read] == [0, 1, 1, 2]
    assert [row["index"] for row in read] == [0, 1, 2, 3]
    assert [row["label"] for row in rows(data.load(str(tmp_path), "all"))] == [0, 1, 1, 2]


def test_split_folders_share_their_class_numbers(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/b/1.png", "test/c/1.png"):
        picture(tmp_path / name, 7)
    test = data.load(str(tmp_path), "test")
    assert (test.size, test.class_names) == (2, ("a", "b", "c"))
    assert [row["label"] for row in rows(test)] == [1, 2]
    assert data.load(str(tmp_path), "all").size == 5
    with pytest.raises(ValueError, match="a split of .*, but received 'tests'. Did you mean test"):
        data.load(str(tmp_path), "tests")


def test_images_without_labels(tmp_path):
    picture(tmp_path / "2.jpg", 20)
    picture(tmp_path / "1.png", 10)
    source = data.load(str(tmp_path), "train")
    assert not source.has_labels and source.classes is None and source.class_names is None and source.size == 2
    assert [set(row) for row in rows(source)] == [{"image", "index"}] * 2
    assert [int(row["image"][0, 0, 0]) for row in rows(source)] == [10, 20]


def test_files_that_are_left_out_are_counted_and_named(tmp_path, recwarn):
    for name in ("a/1.png", "b/1.png", "b/2.jpg"):
        picture(tmp_path / name, 7)
    data.load(str(tmp_path), "train")
    assert not recwarn.list  # no false alarm
    for name in ("a/notes.txt", "a/2.heic", "b/3.heic", "b/deeper/4.png", "a/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "b" / "deeper" / "4.png").rename(tmp_path / "b" / "deeper" / "4.raw")
    with pytest.warns(UserWarning) as caught:
        assert data.load(str(tmp_path), "train").size == 3
    (warning,) = caught
    assert "4 files are left out (2 .heic, 1 .raw, 1 .txt: " in str(warning.message)
    assert all(name in str(warning.message) for name in ("a/2.heic", "b/3.heic", "a/notes.txt", "deeper/4.raw"))
    assert warning.filename == __file__


@pytest.mark.parametrize(
    "content, message", [(None, "'dog' has none. Add"), ("1.heic", r"'dog' has none \(1 .heic: .*dog/1.heic")]
)
@pytest.mark.parametrize("above", ["", "train"])
def test_a_class_without_images_is_rejected(above, content, message, tmp_path):
    picture(tmp_path / above / "cat" / "1.png", 7)
    (tmp_path / above / "dog").mkdir()
    if content:
        (tmp_path / above / "dog" / content).write_bytes(b"?")
    with pytest.raises(ValueError, match=f"Each class folder of .* must have images, but {message}"):
        data.load(str(tmp_path), "train")


def test_a_class_that_is_missing_in_one_split_is_named(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/b/1.png"):
        picture(tmp_path / name, 7)
    (tmp_path / "test" / "a").mkdir()
    with pytest.warns(UserWarning, match="split 'test' has no images of 1 of the 2 classes, .*: 'a'"):
        assert data.load(str(tmp_path), "test").class_names == ("a", "b")


def test_class_folders_that_differ_by_capitals_between_splits_are_rejected(tmp_path):
    for name in ("train/Cat/1.png", "train/Dog/1.png", "test/cat/1.png", "test/Dog/1.png"):
        picture(tmp_path / name, 7)
    with pytest.raises(ValueError, match="the same name in all splits, but received 'Cat' and 'cat'"):
        data.load(str(tmp_path), "train")
    picture(tmp_path / "train" / "cat" / "1.png", 7)  # two classes on purpose, such as letters
    picture(tmp_path / "test" / "Cat" / "1.png", 7)
    assert data.load(str(tmp_path), "train").classes == 3


def test_a_folder_of_gray_images_stays_gray(tmp_path):
    for value, name in [(10, "train/a/1.png"), (20, "train/b/1.jpg"), (30, "test/a/1.png"), (40, "test/b/1.png")]:
        picture(tmp_path / name, value, channels=1)
    source = data.load(str(tmp_path), "train")
    assert source.image_shape == (6, 4, 1) and [int(row["image"][0, 0, 0]) for row in rows(source)] == [10, 20]
    colors = data.load(str(tmp_path), "train", image_channels=3)
    assert colors.image_shape == (6, 4, 3) and colors.version != source.version
    assert [row["image"][0, 0].tolist() for row in rows(colors)] == [[10] * 3, [20] * 3]
    picture(tmp_path / "test" / "a" / "2.png", 10)  # colors in one split: both splits have the same channels
    assert data.load(str(tmp_path), "train").image_shape == (6, 4, 3)


def test_sixteen_bits_that_use_fewer_are_rejected_until_their_number_is_given(tmp_path):
    for value, name in [(4095, "train/a/1.png"), (2048, "train/b/1.png"), (0, "test/a/1.png"), (9, "test/b/1.png")]:
        (tmp_path / name).parent.mkdir(parents=True)
        tf.io.write_file(str(tmp_path / name), tf.io.encode_png(np.full((6, 4, 1), value, np.uint16)))
    with pytest.raises(ValueError, match="up to 65535, but the highest value is 4095.*image_bits=12, 4095 becomes 255"):
        data.load(str(tmp_path), "test")
    source = data.load(str(tmp_path), "train", image_bits=12)
    assert [row["image"][0, 0, 0] for row in rows(source)] == [255, 128]
    tf.io.write_file(str(tmp_path / "train/a/2.png"), tf.io.encode_png(np.full((6, 4, 1), 65535, np.uint16)))
    source = data.load(str(tmp_path), "train")
    assert [row["image"][0, 0, 0] for row in rows(source)] == [16, 255, 8]  # the value divided by 257


def test_gray_images_become_three_channels_and_sizes_may_differ(tmp_path):
    picture(tmp_path / "1.png", 10, channels=1)
    picture(tmp_path / "2.png", 20, size=(3, 9))
    source = data.load(str(tmp_path), "train")
    assert source.image_shape is None
    assert [row["image"].shape for row in rows(source)] == [(6, 4, 3), (3, 9, 3)]


def test_other_formats(tmp_path):
    header = b"BM" + (58).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
    one_pixel = (1).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
    (tmp_path / "a.bmp").write_bytes(header + one_pixel + bytes([30, 20, 10, 0]))  # blue, green, red
    (tmp_path / "b.gif").write_bytes(
        bytes.fromhex("474946383961010001008000000a141e0000002c00000000010001000002024401003b")
    )
    read = rows(data.load(str(tmp_path), "train"))
    assert [row["image"].tolist() for row in read] == [[[[10, 20, 30]]], [[[10, 20, 30]]]]


def test_an_unknown_split_is_rejected(tmp_path):
    picture(tmp_path / "a" / "1.png", 1)
    with pytest.raises(ValueError, match="'validation'. Choose one of: all, train"):
        data.load(str(tmp_path), "validation")


def test_no_images(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(FileNotFoundError, match=r"Split 'train' of .* has no images \(.bmp .gif .*notes.txt"):
        data.load(str(tmp_path), "train")


def test_images_in_deeper_folders_are_told_where_they_must_be(tmp_path):
    picture(tmp_path / "train" / "animals" / "cat" / "x.png", 1)
    with pytest.raises(FileNotFoundError, match=r"has no images .*cat/x.png.*only; move those of deeper folders there"):
        data.load(str(tmp_path), "train")
    picture(tmp_path / "train" / "animals" / "y.png", 2)
    with pytest.warns(UserWarning, match=r"1 file is left out .*in <class>/ or in <split>/<class>/ only"):
        assert data.load(str(tmp_path), "train").class_names == ("animals",)


def test_names_that_are_not_unicode(tmp_path):
    """File systems allow any bytes, as old archives have them."""
    folder = os.fsencode(tmp_path / "class")
    os.mkdir(folder)
    encoded = tf.io.encode_png(np.full((6, 4, 3), 7, np.uint8)).numpy()
    try:
        with open(folder + b"/caf\xe9.png", "wb") as file:
            file.write(encoded)
    except OSError:
        pytest.skip("this file system allows Unicode only")
    (row,) = rows(data.load(str(tmp_path), "train"))
    assert row["image"][0, 0, 0] == 7


def test_a_mixture_of_layouts_is_rejected(tmp_path):
    picture(tmp_path / "a" / "1.png", 1)
    picture(tmp_path / "1.png", 1)
    with pytest.raises(ValueError, match="a mixture: 1 images, class folders .'a'."):
        data.load(str(tmp_path), "train")


def test_split_folders_are_no_classes(tmp_path):
    picture(tmp_path / "train" / "a.png", 1)
    picture(tmp_path / "val" / "b.png", 2)
    with pytest.raises(ValueError, match="class folders in the split folders .*images in train/, val/ themselves"):
        data.load(tmp_path, "train")
    assert data.load(tmp_path / "train", "train").class_names is None


def test_black_images_of_sixteen_bits_do_not_count(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 6), "uint16")).save(tmp_path / name / "1.png")
    assert data.load(tmp_path, "train").size == 2


def test_a_broken_image_is_named_when_the_folder_is_opened(tmp_path):
    picture(tmp_path / "1.png", 1)
    (tmp_path / "2.png").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="2.png is not an image that can be decoded"):
        data.load(str(tmp_path), "train")


def test_a_broken_image_is_named_when_it_is_read(tmp_path):
    picture(tmp_path / "1.png", 1)
    picture(tmp_path / "2.png", 1, size=(9, 9))  # the sizes differ: opening the folder stops here
    whole = tf.io.encode_jpeg(np.zeros((9, 9, 3), np.uint8)).numpy()
    (tmp_path / "3.jpg").write_bytes(whole[: len(whole) // 2])
    source = data.load(str(tmp_path), "train")
    with pytest.raises(tf.errors.InvalidArgumentError, match="3.jpg"):
        rows(source)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^[^\n]*3.jpg is not an image[^\n]*$") as caught:
        data.training(source, batch_size=2, image_size=(4, 4))
    assert str(caught.value).startswith(str(tmp_path))


def test_a_folder_feeds_the_pipeline(tmp_path):
    picture(tmp_path / "a" / "1.png", 51, size=(5, 7))
    picture(tmp_path / "b" / "1.png", 102, size=(8, 3))
    source = data.load(str(tmp_path), "train")
    ((x, y),) = data.evaluation(source, batch_size=2, image_size=(4, 4))
    np.testing.assert_array_equal(x, np.array([51, 102])[:, None, None, None] * np.ones((1, 4, 4, 3)))
    assert y.numpy().tolist() == [0, 1]
