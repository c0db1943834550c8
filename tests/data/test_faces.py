"""Faces: the split by identity, pairs, and alignment by landmarks."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data
from kd_keras.data import Source, all_pairs, read_pairs, split_identities
from kd_keras.data.alignment import TEMPLATE, align_face, align_folder, read_landmarks, similarity_transform

LABELS = np.array([2, 0, 1, 3, 0, 2, 2, 5])


def people(labels=LABELS, names=tuple("abcdef")):
    images = np.arange(len(labels) * 4, dtype="uint8").reshape(-1, 2, 2, 1)
    columns = {"image": images, "label": np.asarray(labels, "int64"), "index": np.arange(len(labels))}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "people", len(labels), 6, names, (2, 2, 1))


def rows(source):
    return [(int(e["index"]), int(e["label"]), int(e["image"][0, 0, 0]) // 4) for e in source.examples]


def test_no_identity_is_in_both_parts():
    train, test = split_identities(people(), held_out=[0, 5])
    assert rows(train) == [(0, 1, 0), (1, 0, 2), (2, 2, 3), (3, 1, 5), (4, 1, 6)]
    assert rows(test) == [(0, 0, 1), (1, 0, 4), (2, 1, 7)]
    assert train.class_names == ("b", "c", "d") and test.class_names == ("a", "f")
    assert (train.size, train.classes, test.size, test.classes) == (5, 3, 3, 2)
    assert rows(split_identities(people(), held_out=2)[1]) == [(0, 0, 3), (1, 1, 7)]  # the last two
    assert train.version != test.version


@pytest.mark.parametrize("held_out", [0, 5, [], [4], [0, 1, 2, 3, 5], [9]])
def test_a_part_without_identities_raises(held_out):
    with pytest.raises(ValueError, match="identities"):
        split_identities(people(), held_out=held_out)


def test_images_without_identities_raise():
    examples = tf.data.Dataset.range(3).map(lambda i: {"image": tf.zeros((2, 2, 1), tf.uint8), "index": i})
    with pytest.raises(ValueError, match="one identity for each image"):
        split_identities(Source(examples, "images", 3), held_out=1)


def test_masks_are_no_identities():
    columns = {"image": np.zeros((3, 2, 2, 1), "uint8"), "index": np.arange(3), "label": np.zeros((3, 2, 2), "int32")}
    source = Source(tf.data.Dataset.from_tensor_slices(columns), "masks", 3, 2)
    with pytest.raises(ValueError, match="one identity for each image of 'masks', but received labels that are masks"):
        split_identities(source, held_out=1)


def test_all_pairs_and_balanced_folds():
    pairs = all_pairs(np.arange(24) // 4, folds=3)
    assert len(pairs.same) == 24 * 23 // 2 and pairs.same.sum() == 6 * 6
    assert (pairs.first < pairs.second).all()
    np.testing.assert_array_equal(pairs.same, pairs.first // 4 == pairs.second // 4)
    for kind in (pairs.same, ~pairs.same):
        assert np.bincount(pairs.fold[kind]).tolist() == [kind.sum() // 3] * 3
    again, reseeded = all_pairs(np.arange(24) // 4, folds=3), all_pairs(np.arange(24) // 4, folds=3, seed=1)
    np.testing.assert_array_equal(pairs.fold, again.fold)
    assert (pairs.fold != reseeded.fold).any()
    with pytest.raises(ValueError, match="genuine"):
        all_pairs(np.array([0, 0, 1, 2]), folds=2)


@pytest.fixture
def folder(tmp_path):
    for name, count in (("Ann_Lee", 3), ("Bob", 1), ("Cem", 2)):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = np.full((4, 4), 10 * number, "uint8")
            Image.fromarray(pixels).save(tmp_path / "faces" / name / f"{name}_{number:04d}.png")
    return tmp_path / "faces"


def write(folder, text):
    path = folder.parent / "pairs.txt"
    path.write_text(text)
    return path


def test_pairs_of_a_file(folder):
    text = "2\t1\nAnn_Lee\t1\t3\nAnn_Lee\t2\tBob\t1\nCem\t1\t2\nBob\t1\tCem\t2\n"
    pairs = read_pairs(write(folder, text), folder)
    assert [pairs.first.tolist(), pairs.second.tolist()] == [[0, 1, 4, 3], [2, 3, 5, 5]]
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold.tolist() == [0, 0, 1, 1]
    images = [int(example["image"][0, 0, 0]) for example in data.load(folder, "all").examples]
    assert [images[number] for number in pairs.second] == [30, 10, 20, 20]  # the numbers in the names


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "an empty file"),
        ("ten\n", "first line"),
        ("1\t1\nBob\t1\tCem\t1\nCem\t1\t2\n", "a genuine pair in line 2"),
        ("1\t1\nCem\t1\t2\nBob\t2\tCem\t1\n", "Image 2 of 'Bob', in line 3"),
        ("1\t1\nCem\t1\t2\nBob\tCem\t1\n", "line 3"),
        ("1\t2\nCem\t1\t2\nBob\t1\tCem\t1\n", "4 lines.*2 lines"),
    ],
)
def test_a_wrong_file_of_pairs_raises(folder, text, message):
    with pytest.raises(ValueError, match=message):
        read_pairs(write(folder, text), folder)


def umeyama(points, targets):
    """Umeyama 1991, equations 40 to 42, by a singular value decomposition."""
    centered, moved = points - points.mean(0), targets - targets.mean(0)
    u, d, vt = np.linalg.svd(moved.T @ centered / len(points))
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / centered.var(0).sum()
    rotation = scale * u @ sign @ vt
    return np.column_stack([rotation, targets.mean(0) - rotation @ points.mean(0)])


def test_the_transform_is_the_closed_form():
    random = np.random.default_rng(0)
    for _ in range(5):
        angle, scale = random.uniform(-3, 3), random.uniform(0.2, 3)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift, points = random.normal(size=2), random.normal(size=(5, 2))
        exact = similarity_transform(points, points @ turn.T + shift)
        np.testing.assert_allclose(exact, np.column_stack([turn, shift]), atol=1e-12)
        noisy = points @ turn.T + shift + 0.1 * random.normal(size=(5, 2))
        np.testing.assert_allclose(similarity_transform(points, noisy), umeyama(points, noisy), atol=1e-10)


def test_a_turned_face_is_moved_to_the_template():
    """Spots at the landmarks of a turned, enlarged face arrive at the template's landmarks."""
    turn = 2.0 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    landmarks = TEMPLATE @ turn.T + [90, 20]
    image = np.zeros((300, 340, 1), "uint8")
    for x, y in landmarks.round().astype(int):
        image[y - 3 : y + 4, x - 3 : x + 4] = 200
    aligned = align_face(image, landmarks)
    assert aligned.shape == (112, 112, 1)
    for x, y in TEMPLATE.round().astype(int):
        assert aligned[y, x, 0] > 150
    assert (aligned > 100).mean() < 0.02


@pytest.mark.parametrize("size", [56, 224])
def test_pixels_are_interpolated_and_outside_is_black(size):
    ramp = np.tile(np.arange(100, dtype="uint8"), (100, 1))[..., None]
    landmarks = TEMPLATE / 2 + [30, 40]  # the template at half its size
    aligned = align_face(ramp, landmarks, size)
    expected = np.arange(size) * (112 / size) / 2 + 30
    np.testing.assert_allclose(aligned[10, :, 0], np.where(expected > 99, 0, expected), atol=0.51)
    assert (align_face(ramp, landmarks - [200, 0], size) == 0).all()


def test_a_folder_is_aligned_as_its_table_says(folder):
    lines = ["file,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5"]
    for path in sorted(folder.rglob("*.png")):
        points = ",".join(f"{value:.3f}" for value in (TEMPLATE / 28).ravel())
        lines.append(f"{path.relative_to(folder).as_posix()},{points}")
    table = folder.parent / "landmarks.csv"
    table.write_text("\n".join(lines))
    assert len(read_landmarks(table)) == 6
    output = align_folder(folder, table, folder.parent / "aligned", size=16)
    source = data.load(output, "all")
    assert source.size == 6 and source.class_names == ("Ann_Lee", "Bob", "Cem") and source.image_shape == (16, 16, 1)
    with pytest.raises(ValueError, match="new or empty"):
        align_folder(folder, table, output)
    table.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="none for 1 of 6 images, such as Cem/Cem_0002.png"):
        align_folder(folder, table, folder.parent / "again")


@pytest.mark.parametrize(
    "line, message",
    [("a.png,1,2", "ten numbers in line 2"), ("a.png" + ",x" * 10, "line 2"), ("a.png" + ",nan" * 10, "line 2")],
)
def test_a_wrong_table_of_landmarks_raises(tmp_path, line, message):
    (tmp_path / "table.csv").write_text(f"file\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_landmarks(tmp_path / "table.csv")


def test_landmarks_without_an_extent_raise():
    with pytest.raises(ValueError, match="points that differ"):
        align_face(np.zeros((4, 4, 1), "uint8"), np.ones((5, 2)))
    with pytest.raises(ValueError, match="five landmarks"):
        align_face(np.zeros((4, 4, 1), "uint8"), np.ones((4, 2)))
