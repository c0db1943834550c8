"""Boxes read from COCO, Pascal VOC, YOLO and TFDS, and errors that name the file and the line."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data
from kd_keras.detection.boxes import NO_OBJECT

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
# Two objects in an image of height 20 and width 40, none in the other: xmin, ymin, xmax, ymax.
OBJECTS = [("dog", (4, 5, 24, 15)), ("cat", (0, 0, 40, 10))]
EXPECTED = {
    "boxes": [[[0.25, 0.1, 0.75, 0.6], [0.0, 0.0, 0.5, 1.0]], [[0.0] * 4] * 2],
    "classes": [[1, 0], [NO_OBJECT] * 2],
}


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), "red").save(folder / "a.png")
    Image.new("RGB", (40, 20), "blue").save(folder / "b.png")


def voc_text(name, objects):
    lines = [f"<annotation><filename>{name}</filename>", "<size><width>40</width><height>20</height></size>"]
    for label, box in objects:
        corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
        lines += ["<object>", f"<name>{label}</name>", f"<bndbox>{corners}</bndbox>{part}", "</object>"]
    return "\n".join([*lines, "</annotation>"])


def write_voc(folder, objects=OBJECTS):
    write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations" / "a.xml").write_text(voc_text("a.png", objects))
    (folder / "Annotations" / "b.xml").write_text(voc_text("b.png", []))
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb\n")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("b\n")


def write_flat_voc(folder):
    write_images(folder)
    (folder / "a.xml").write_text(voc_text("a.png", OBJECTS))
    (folder / "b.xml").write_text(voc_text("b.png", []))


def coco():
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 40}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [4, 5, 20, 10]},
            {"id": 2, "image_id": 9, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 1},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [5, 5, 0, 9]},
            {"id": 4, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 10]},
        ],
    }


def write_coco(folder, content=None):
    write_images(folder / "train")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content or coco()))


def write_roboflow(folder):
    write_images(folder / "train")
    (folder / "train" / "_annotations.coco.json").write_text(json.dumps(coco()))


YOLO_LINES = "1 0.35 0.5 0.5 0.5\n\n0 0.5 0.25 1 0.5\n"


def write_yolo(images, labels, text=YOLO_LINES):
    write_images(images)
    labels.mkdir(parents=True, exist_ok=True)
    (labels / "a.txt").write_text(text)
    (labels / "classes.txt").write_text("cat\ndog\n")


LAYOUTS = {
    "voc": write_voc,
    "flat voc": write_flat_voc,
    "coco": write_coco,
    "roboflow": write_roboflow,
    "yolo by split": lambda folder: write_yolo(folder / "images" / "train", folder / "labels" / "train"),
    "split by yolo": lambda folder: write_yolo(folder / "train" / "images", folder / "train" / "labels"),
    "yolo": lambda folder: write_yolo(folder / "images", folder / "labels"),
    "flat yolo": lambda folder: write_yolo(folder, folder),
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_source(write, tmp_path):
    write(tmp_path)
    source = data.load_boxes(tmp_path, "train")
    assert (source.size, source.classes, source.class_names) == (2, 2, ("cat", "dog"))
    assert source.has_boxes and source.image_shape == (20, 40, 3)
    examples = list(source.examples.as_numpy_iterator())
    assert [int(example["index"]) for example in examples] == [0, 1]
    assert examples[0]["image"][0, 0].tolist() == [255, 0, 0] and examples[1]["image"][0, 0].tolist() == [0, 0, 255]
    for key, expected in EXPECTED.items():
        np.testing.assert_allclose([example["label"][key] for example in examples], expected, atol=1e-6)
    (part,) = source.read_range(1, 2).as_numpy_iterator()
    assert int(part["index"]) == 1
    ((images, y),) = data.evaluation(source, batch_size=2, image_size=(10, 10))
    assert images.shape == (2, 10, 10, 3) and y["boxes"].shape == (2, 2, 4)


def test_the_rows_of_a_label_can_be_fixed(tmp_path):
    write_flat_voc(tmp_path)
    source = data.load_boxes(tmp_path, "all", max_boxes=5, image_channels=1)
    assert source.examples.element_spec["label"]["boxes"].shape == (5, 4) and source.image_shape == (20, 40, 1)
    with pytest.raises(ValueError, match=r"max_boxes=1 objects.*2 at .*a\.xml"):
        data.load_boxes(tmp_path, "all", max_boxes=1)


def test_a_change_of_a_box_is_another_version(tmp_path):
    write_flat_voc(tmp_path)
    before = data.load_boxes(tmp_path, "train").version
    (tmp_path / "a.xml").write_text(voc_text("a.png", [("dog", (4, 5, 24, 16)), OBJECTS[1]]))
    assert data.load_boxes(tmp_path, "train").version != before


def test_splits_of_voc_have_the_classes_of_all(tmp_path):
    write_voc(tmp_path)
    test = data.load_boxes(tmp_path, "test")
    assert test.size == 1 and test.class_names == ("cat", "dog")
    with pytest.raises(ValueError, match="a split of.*'tset'.*test"):
        data.load_boxes(tmp_path, "tset")


@pytest.mark.parametrize(
    "objects, expected",
    [
        ([("dog", (24, 5, 4, 15))], r"positive width and height at .*a\.xml:3.*24"),
        ([OBJECTS[0], ("dog", (4, 5, 42.5, 15))], r"inside the image of height 20 and width 40 at .*a\.xml:7.*42\.5"),
        ([("dog", (4, "x", 24, 15))], r"bndbox/ymin at .*a\.xml:5.*'x'"),
        ([("dog", (4, 5, "nan", 15))], r"positive width and height at .*a\.xml:3"),
    ],
)
def test_errors_of_voc_name_the_line(objects, expected, tmp_path):
    write_voc(tmp_path, objects)
    with pytest.raises(ValueError, match=expected):
        data.load_boxes(tmp_path, "train")


def test_more_errors_of_voc(tmp_path):
    write_voc(tmp_path)
    with pytest.raises(ValueError, match=r"one of the classes cat, bird at .*a\.xml:4.*'dog'"):
        data.load_boxes(tmp_path, "train", class_names=("cat", "bird"))
    Image.new("RGB", (20, 40)).save(tmp_path / "JPEGImages" / "b.png")
    with pytest.raises(ValueError, match=r"\(20, 40\), according to .*b\.xml:1, but received \(40, 20\)"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "JPEGImages" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png, which .*b\.xml:1 annotates, but it is missing"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation>\n<filename>")
    with pytest.raises(ValueError, match=r"XML at .*b\.xml:2"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "Annotations" / "b.xml").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.xml, which .*train\.txt:2 names"):
        data.load_boxes(tmp_path, "train")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("1 0.5 0.5 -0.5 0.5", r"positive width and height at .*a\.txt:2"),
        ("1 0.5 0.5 1.2 0.5", r"inside the image .* at .*a\.txt:2"),
        ("2 0.5 0.5 0.5 0.5", r"class from 0 to 1 at .*a\.txt:2, but received 2"),
        ("1 0.5 0.5 0.5", r"four numbers .* at .*a\.txt:2"),
        ("dog 0.5 0.5 0.5 0.5", r"four numbers .* at .*a\.txt:2"),
    ],
)
def test_errors_of_yolo_name_the_line(line, expected, tmp_path):
    write_yolo(tmp_path, tmp_path, f"1 0.35 0.5 0.5 0.5\n{line}")
    with pytest.raises(ValueError, match=expected):
        data.load_boxes(tmp_path, "train")


def test_more_errors_of_yolo(tmp_path):
    write_yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "labels" / "c.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"image for .*c\.txt"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "labels" / "classes.txt").unlink()
    with pytest.raises(ValueError, match="class_names="):
        data.load_boxes(tmp_path, "train")
    with pytest.raises(ValueError, match="a split of.*'test'"):
        data.load_boxes(tmp_path, "test", class_names=("cat", "dog"))


def test_the_names_of_yolo_have_one_order(tmp_path):
    write_yolo(tmp_path / "images" / "train", tmp_path / "labels" / "train")
    for names in (("dog", "cat"), ("sky", "cat")):
        with pytest.raises(ValueError, match=r"order in .*classes\.txt, but received \['cat', 'dog'\]"):
            data.load_boxes(tmp_path, "train", class_names=names)
    (tmp_path / "obj.names").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match=r"\('dog', 'cat'\) in this order in .*classes\.txt"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "obj.names").unlink()
    assert data.load_boxes(tmp_path, "train", class_names=("cat", "dog", "fox")).classes == 3
    assert data.load_boxes(tmp_path, "train", class_names=("Katze", "Hund")).class_names == ("Katze", "Hund")


@pytest.mark.parametrize("text", ["names: [no, dog]", "names:\n  1: dog\n  0: 'no'\nnc: 2\ntrain: train/images\n"])
def test_the_names_of_yolo_in_yaml(text, tmp_path):
    write_yolo(tmp_path / "train" / "images", tmp_path / "train" / "labels")
    (tmp_path / "train" / "labels" / "classes.txt").unlink()
    (tmp_path / "compose.yml").write_text("services: {}\n")
    (tmp_path / "data.yaml").write_text(text)
    source = data.load_boxes(tmp_path, "train")
    assert source.class_names == ("no", "dog")
    assert next(source.examples.as_numpy_iterator())["label"]["classes"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"\('dog', 'no'\) in this order in .*data\.yaml"):
        data.load_boxes(tmp_path, "train", class_names=("dog", "no"))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("names: {1: cat, 2: dog}", r"numbers 0 to K - 1, but received .*'2': 'dog'"),
        ("names: []", "a list or an object"),
        ("names: [[cat]]", "a list or an object"),
        ("names: [cat", r"format of YAML in .*data\.yaml"),
    ],
)
def test_wrong_names_of_yolo_in_yaml(text, expected, tmp_path):
    write_yolo(tmp_path / "images", tmp_path / "labels")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=expected):
        data.load_boxes(tmp_path, "train")


def test_the_text_of_yolo(tmp_path):
    write_yolo(tmp_path, tmp_path, "\ufeff" + YOLO_LINES)
    (tmp_path / "classes.txt").write_text("\ufeffcat\ndog\n")
    source = data.load_boxes(tmp_path, "train")
    assert source.class_names == ("cat", "dog")
    assert next(source.examples.as_numpy_iterator())["label"]["classes"].tolist() == [1, 0]
    (tmp_path / "a.txt").write_bytes(YOLO_LINES.encode("utf-16"))
    with pytest.raises(ValueError, match=r"a text in UTF-8 in .*a\.txt"):
        data.load_boxes(tmp_path, "train")
    (tmp_path / "a.txt").rename(tmp_path / "a.TXT")
    with pytest.raises(ValueError, match=r"ends in \.txt in .*, but received a\.TXT"):
        data.load_boxes(tmp_path, "train")


def test_a_box_beyond_the_edge_is_refused_with_its_line(tmp_path):
    write_yolo(tmp_path, tmp_path, "1 1.01 0.5 0.015 0.5\n")  # 0.1 to 0.7 pixels outside
    with pytest.raises(ValueError, match=r"inside the image of height 20 and width 40 at .*a\.txt:1"):
        data.load_boxes(tmp_path, "train")


def test_an_image_is_annotated_once(tmp_path):
    write_flat_voc(tmp_path)
    (tmp_path / "b.xml").write_text(voc_text("a.png", []))
    with pytest.raises(
        ValueError, match=r"one annotation of .*a\.png, but received those at .*a\.xml:1 and .*b\.xml:1"
    ):
        data.load_boxes(tmp_path, "train")


def test_twelve_bits_in_files_of_sixteen_are_refused(tmp_path):
    write_yolo(tmp_path, tmp_path)
    Image.fromarray(np.full((20, 40), 4095, "uint16")).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="up to 65535, but the highest value is 4095.*8 bits"):
        data.load_boxes(tmp_path, "train")


def changed(key, number, **values):
    content = coco()
    content[key][number] |= values
    return content


@pytest.mark.parametrize(
    "content, error, expected",
    [
        (changed("annotations", 0, bbox=[4, 5, -20, 10]), ValueError, "at least 0 at .*annotation 1"),
        (changed("annotations", 0, bbox=[4, 5, float("nan"), 10]), ValueError, "at least 0 at .*annotation 1"),
        (changed("annotations", 0, bbox=7), ValueError, "at least 0 at .*annotation 1.*7"),
        (changed("annotations", 0, bbox=[4, 5, 40, 10]), ValueError, "inside the image .* at .*annotation 1"),
        (changed("annotations", 3, category_id=5), ValueError, r"\[3, 18\] at .*annotation 4.*5"),
        (changed("annotations", 3, image_id=5), ValueError, "an image of the file at .*annotation 4"),
        (changed("images", 1, file_name="c.png"), FileNotFoundError, r"c\.png, which .*image 9 annotates"),
        (changed("images", 1, id=7), ValueError, "different ids of the images of .*json, but received the id 7 twice"),
        (changed("categories", 1, id=18), ValueError, "different ids of the categories of .*the id 18 twice"),
        (changed("images", 1, file_name="a.png"), ValueError, r"one annotation of .*a\.png.*image 7 and .*image 9"),
        (coco() | {"images": [{"file_name": "a.png"}]}, ValueError, "an id and a file_name of each of the images"),
        ({"images": []}, ValueError, "lists of images, annotations, categories"),
    ],
)
def test_errors_of_coco_name_the_annotation(content, error, expected, tmp_path):
    write_coco(tmp_path, content)
    with pytest.raises(error, match=expected):
        data.load_boxes(tmp_path, "train")


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="the dataset bccd is not prepared beside this repository")
def test_a_tfds_dataset_with_boxes():
    source = data.load_boxes("bccd", "test", SHARED)
    assert (source.size, source.classes, source.image_shape) == (72, 3, (480, 640, 3))
    assert source.ranges == (("bccd/1.0.0 test", 0, 72),)
    labels = list(source.examples.map(lambda example: example["label"]).as_numpy_iterator())
    counts = np.bincount(np.concatenate([label["classes"][label["classes"] >= 0] for label in labels]), minlength=3)
    assert dict(zip(source.class_names, counts.tolist(), strict=True)) == {"RBC": 805, "WBC": 71, "Platelets": 69}
    (x, y), *_ = data.evaluation(source, batch_size=8, image_size=(48, 64))
    assert x.shape == (8, 48, 64, 3) and tf.reduce_max(y["boxes"]) <= 1
    with pytest.raises(ValueError, match="max_boxes=1 objects in an image of bccd"):
        data.load_boxes("bccd", "test", SHARED, max_boxes=1)


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="cifar10 is not prepared beside this repository")
def test_a_dataset_without_boxes_raises():
    with pytest.raises(ValueError, match="BBoxFeature.*cifar10"):
        data.load_boxes("cifar10", "test", SHARED)
