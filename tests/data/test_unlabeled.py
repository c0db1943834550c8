"""Images without labels: nested folders, lists of paths, damaged files, and datasets whose labels are left out."""

import numpy as np
import pytest
from PIL import Image

from kd_keras import data
from kd_keras.data.unlabeled import read_unlabeled, without_labels


def write(path, value, size=(4, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value if mode == "L" else (value,) * 3).save(path)


def levels(source):
    return [int(example["image"].max()) for example in source.examples.as_numpy_iterator()]


def test_all_folders_are_read_in_the_order_of_the_paths(tmp_path):
    for number, name in enumerate(("b.png", "a/z.bmp", "a/deep/er/still/x.PNG", "c/d.gif")):
        write(tmp_path / name, 10 * number + 1)
    write(tmp_path / ".hidden" / "x.png", 200)
    (tmp_path / "a" / "readme.md").write_text("text")
    source = read_unlabeled(tmp_path)
    assert levels(source) == [21, 11, 1, 31]
    assert source.image_shape == (4, 6, 1) and not source.has_labels and source.classes is None
    assert [int(example["index"]) for example in source.examples] == [0, 1, 2, 3]


def test_a_link_to_a_folder_above_is_not_followed_again(tmp_path):
    write(tmp_path / "a" / "one.png", 1)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert levels(read_unlabeled(tmp_path)) == [1]


def test_a_text_file_lists_paths_relative_to_its_folder(tmp_path):
    write(tmp_path / "images" / "one.png", 1)
    write(tmp_path / "elsewhere" / "two.png", 2, mode="RGB")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/elsewhere/two.png\n\nimages/one.png\nimages/one.png\n")
    source = read_unlabeled(tmp_path / "list.txt")
    assert levels(source) == [2, 1] and source.image_shape == (4, 6, 3)


def test_damaged_files_are_named_and_left_out(tmp_path):
    write(tmp_path / "good.png", 3)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), "uint8")).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])  # its header is that of an image
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 of 3 files cannot be read and are left out.*cut\.jpg.*empty\.png"):
        source = read_unlabeled(tmp_path)
    assert levels(source) == [3]


def test_nothing_readable_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"images \(.*\) in .*empty, but received none"):
        read_unlabeled(tmp_path / "empty")
    (tmp_path / "empty" / "text.png").write_text("text")
    with pytest.raises(ValueError, match=r"but received 1 files, none of which is an image: .*text\.png"):
        read_unlabeled(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="a folder of images or a text file"):
        read_unlabeled(tmp_path / "nowhere")


def test_images_of_several_sizes_and_channels(tmp_path):
    write(tmp_path / "a.png", 1, size=(4, 6), mode="RGB")
    write(tmp_path / "b.png", 2, size=(8, 6))
    source = read_unlabeled(tmp_path)
    assert source.image_shape is None and source.examples.element_spec["image"].shape[-1] == 3
    assert read_unlabeled(tmp_path, channels=1).examples.element_spec["image"].shape[-1] == 1


def test_the_version_follows_the_files(tmp_path):
    write(tmp_path / "images" / "a.png", 1)
    first = read_unlabeled(tmp_path / "images").version
    assert read_unlabeled(tmp_path / "images").version == first
    write(tmp_path / "images" / "b.png", 1)
    assert read_unlabeled(tmp_path / "images").version != first


def test_labels_are_left_out_of_a_dataset(tmp_path):
    labeled = data.load("digits", "train[:20]", str(tmp_path))
    plain = without_labels(labeled)
    assert labeled.has_labels and not plain.has_labels and plain.size == 20 and plain.version != labeled.version
    for one, other in zip(labeled.examples, plain.examples, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    (shard, _) = plain.shards(2)
    assert not shard.has_labels and shard.size == 10
    assert without_labels(plain) is plain
