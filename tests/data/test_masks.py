"""Masks read from folders and TFDS, and how they follow views: against the colors that are painted into the image."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data
from kd_keras.contracts import IGNORED, INDEX, INPUTS
from kd_keras.data import scaling
from kd_keras.data.augment import Augmentation
from kd_keras.data.base import Source
from kd_keras.data.labels import Window, mask_in_window, whole_image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
SIZE = (18, 26)


def areas():
    """A mask of classes 0 to 3 in areas of several pixels."""
    mask = np.zeros(SIZE, "int32")
    mask[4:13, 5:17] = 1
    mask[9:, 14:] = 2
    mask[:6, 20:] = 3
    return mask


def painted(mask):
    """An image with a channel for each class; all are 0 in padding."""
    return tf.constant((255 * (mask[..., None] == np.arange(4))).astype("uint8"))


def source(count=4, masks=None):
    masks = np.repeat(areas()[None], count, 0) if masks is None else masks
    images = np.stack([painted(mask) for mask in masks])
    columns = {"image": images, "index": np.arange(len(masks)), "label": masks}
    return Source(tf.data.Dataset.from_tensor_slices(columns), "painted", len(masks), 4, image_shape=(*SIZE, 4))


def seen_classes(view):
    """The class that each pixel of a view says, and whether it is not a blend of two."""
    is_class = view.max(-1) == 255
    return np.where(is_class, view.argmax(-1), IGNORED), is_class | (view.max(-1) == 0)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(crop=6, flip=True),
        Augmentation(shift=3),
        Augmentation(resized_crop=True, flip=True),
        Augmentation(scale=(0.5, 2.0), flip=True),
    ],
    ids=["flip", "crop", "shift", "resized crop", "scale"],
)
def test_classes_are_where_their_pixels_are(augmentation):
    mask, exact, views = tf.constant(areas()), 0, set()
    view_with_label = tf.function(augmentation.view_with_label)
    for number in range(30):
        seed = tf.constant([5, number])
        view, moved = view_with_label(painted(areas()), mask, seed)
        # A graph may round an interpolated value of one half to the other side.
        atol = 1 if augmentation.scale else 0
        np.testing.assert_allclose(view, tf.cast(augmentation.view(painted(areas()), seed), "float32"), atol=atol)
        expected, is_pure = seen_classes(view.numpy())
        # A pixel of which the interpolation made a blend can have the class of either side.
        np.testing.assert_array_equal(moved.numpy()[is_pure], expected[is_pure])
        exact += is_pure.mean()
        views.add(moved.numpy().tobytes())
    assert exact / 30 > 0.7 and len(views) > 1


def nearest(mask, edges, flipped, size):
    """A view pixel by pixel."""
    out = np.full(size, IGNORED)
    for row in range(size[0]):
        for column in range(size[1]):
            across = (column + 0.5) / size[1]
            across = 1 - across if flipped else across
            y = (edges[0] + (row + 0.5) / size[0] * (edges[2] - edges[0])) * mask.shape[0]
            x = (edges[1] + across * (edges[3] - edges[1])) * mask.shape[1]
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                out[row, column] = mask[int(y), int(x)]
    return out


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("edges", [(0, 0, 1, 1), (-0.3, 0.21, 0.83, 1.4), (0.11, 0.2, 0.37, 0.9)])
def test_a_view_is_the_nearest_neighbour(edges, flipped):
    window = Window(tf.constant(edges, tf.float32), tf.constant(flipped))
    for size in (SIZE, (7, 33)):
        view = mask_in_window(tf.constant(areas()), window, size)
        np.testing.assert_array_equal(view, nearest(areas(), edges, flipped, size))
    assert mask_in_window(tf.constant(areas()), whole_image()).dtype == tf.int32


def test_the_scale_and_the_position_are_random():
    shares, scale_and_crop = [], tf.function(scaling.scale_and_crop)
    for number in range(200):
        view, window = scale_and_crop(tf.ones((*SIZE, 1), tf.uint8), tf.constant([1, number]))
        sides = (window.edges[2:] - window.edges[:2]).numpy()
        assert 0.49 <= sides.min() and sides.max() <= 2.01
        shares.append(1 / sides[1])
        visible = np.clip(window.edges[2:], 0, 1) - np.clip(window.edges[:2], 0, 1)
        assert view.numpy().mean() == pytest.approx(np.prod(visible / sides), abs=1e-5)
    assert np.mean(shares) == pytest.approx(1.25, abs=0.12) and np.std(shares) == pytest.approx(1.5 / 12**0.5, abs=0.06)


@pytest.mark.parametrize("cache", [True, False])
def test_batches_are_a_function_of_seed_epoch_and_index(cache):
    augmentation = Augmentation(scale=(0.5, 2.0), flip=True)
    options = {"batch_size": 3, "augmentation": augmentation, "seed": 5, "with_index": True, "cache": cache}
    batches = list(data.training(source(), **options, epochs=2))
    assert len(batches) == 4
    for number, (x, y) in enumerate(batches):
        assert y.dtype == tf.int32 and y.shape[1:] == SIZE
        view_seed = tf.random.fold_in(tf.constant([5, 0], tf.int64), tf.constant(number // 2, tf.int64))
        for row, index in enumerate(x[INDEX]):
            image, mask = augmentation.view_with_label(
                painted(areas()), tf.constant(areas()), tf.random.fold_in(view_seed, index)
            )
            np.testing.assert_allclose(x[INPUTS][row], tf.cast(image, tf.float32), atol=1)
            np.testing.assert_array_equal(y[row], mask)
    resumed = list(data.training(source(), **options, epochs=1, start_epoch=1))
    for (_, y), (_, again) in zip(batches[2:], resumed, strict=True):
        np.testing.assert_array_equal(y, again)


def test_evaluation_resizes_masks():
    ((images, y),) = data.evaluation(source(2), batch_size=4, image_size=(9, 39))
    assert images.shape == (2, 9, 39, 4)
    np.testing.assert_array_equal(y[1], nearest(areas(), (0, 0, 1, 1), False, (9, 39)))


@pytest.mark.parametrize("value", [4, -2])
def test_a_wrong_class_raises_with_its_example(value):
    masks = np.repeat(areas()[None], 2, 0)
    masks[1, 3, 3] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"(?s)0 to 3.*-1 for no class.*{value}.*at example 1"):
        list(data.evaluation(source(masks=masks), batch_size=2))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"augmentation": Augmentation(mixup=0.2)}, "mixup"),
        ({"augmentation": Augmentation(rand_augment=(2, 9))}, "which the masks of painted can follow"),
        ({"one_hot": True}, "one_hot.*each pixel"),
    ],
)
def test_what_masks_cannot_follow_raises(options, expected):
    with pytest.raises(ValueError, match=expected):
        data.training(source(), batch_size=2, **options)
    with pytest.raises(ValueError, match="labels are masks"):
        source().without([1])
    with pytest.raises(ValueError, match="masks cannot follow rand_augment"):
        Augmentation(rand_augment=(2, 9)).view_with_label(painted(areas()), tf.constant(areas()), [1, 2])


@pytest.mark.parametrize("scale", [(0, 1), (2, 1), 0.5, (0.5, float("inf"))])
def test_an_invalid_scale_raises(scale):
    with pytest.raises(ValueError, match="scale must be"):
        Augmentation(scale=scale)
    with pytest.raises(ValueError, match="crop and scale"):
        Augmentation(scale=(0.5, 2.0), crop=4)


def test_a_mask_of_another_size_than_its_image_is_rejected():
    columns = {
        "image": np.zeros((1, 4, 4, 1), "uint8"),
        "index": np.zeros(1, "int64"),
        "label": np.zeros((1, 4, 5), "int32"),
    }
    with pytest.raises(ValueError, match=r"masks \(H, W\) of the size of their images"):
        Source(tf.data.Dataset.from_tensor_slices(columns), "bad", 1, 2, image_shape=(4, 4, 1))


# ---- folders

NUMBERS = np.array([[0, 1, 2], [2, 1, 255]], "uint8")
COLORS = {"sky": (0, 0, 255), "road": (90, 0, 90), "car": (0, 60, 0)}
CLASSES = [[0, 1, 2], [2, 1, IGNORED]]


def write(images, masks, mask, names=("a", "b")):
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (3, 2), "red").save(images / f"{name}.jpg")
        mask.save(masks / f"{name}.png")


def palette():
    mask = Image.fromarray(NUMBERS, "P")
    mask.putpalette([10, 20, 30] * 256)
    return mask


def in_colors():
    table = np.full((256, 3), 7, "uint8")
    table[:3] = list(COLORS.values())
    return Image.fromarray(table[NUMBERS])


def sixteen_bits():
    return Image.fromarray(np.where(NUMBERS == 255, 1000, NUMBERS.astype("uint16")).astype("uint16"))


FORMS = {
    "numbers": (lambda: Image.fromarray(NUMBERS), list(COLORS), 255),
    "palette": (palette, list(COLORS), 255),
    "gray as colors": (lambda: Image.fromarray(np.repeat(NUMBERS[..., None], 3, -1)), list(COLORS), 255),
    "sixteen bits": (sixteen_bits, list(COLORS), 1000),
    "colors": (in_colors, COLORS, [(7, 7, 7)]),
}


def write_gray_png(path, values, bits):
    """A gray PNG of less than 8 bits per pixel, which Pillow cannot write."""
    height, width = values.shape
    lines = b""
    for row in values:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        lines += b"\0" + int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8), "big")
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_keeps_its_numbers(bits, tmp_path):
    values = np.array([[0, 1, 2], [2, 1, 3]]) % 2**bits
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS))
    for name in ("a", "b"):
        write_gray_png(tmp_path / "masks" / f"{name}.png", values, bits)
    source = data.load_masks(tmp_path, "train", class_names=["sky", "road", "car", "tree"])
    assert next(source.examples.as_numpy_iterator())["label"].tolist() == values.tolist()


@pytest.mark.parametrize("highest", [1, 3, 4, 150, 255, 256, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_keeps_its_numbers(highest, plain, tmp_path):
    values = np.minimum(np.array([[0, 1, 2], [2, 1, 3]]), highest)
    stored = values.astype(">u2" if highest > 255 else "u1").tobytes()
    content = " ".join(map(str, values.ravel())).encode() if plain else stored
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS))
    for name in ("a", "b"):
        (tmp_path / "masks" / f"{name}.png").unlink()
        (tmp_path / "masks" / f"{name}.pgm").write_bytes(b"P%d 3 2 %d\n" % (2 if plain else 5, highest) + content)
    source = data.load_masks(tmp_path, "train", class_names=["sky", "road", "car", "tree"], ignored=255)
    assert next(source.examples.as_numpy_iterator())["label"].tolist() == values.tolist()


def test_colors_of_sixteen_bits_are_refused(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS))
    deep = np.repeat(NUMBERS[..., None] % 3, 3, -1).astype("uint16")
    (tmp_path / "masks" / "a.png").write_bytes(tf.io.encode_png(deep).numpy())
    source = data.load_masks(tmp_path, "train", class_names=list(COLORS), ignored=255)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a\.png is not a mask.*16 bits per channel"):
        list(source.examples)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_is_turned_as_its_header_says(orientation, suffix, tmp_path):
    stored = {3: NUMBERS[::-1, ::-1], 6: np.rot90(NUMBERS)}[orientation]
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS), names=("a",))
    (tmp_path / "masks" / "a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "masks" / f"a.{suffix}", exif=exif)
    source = data.load_masks(tmp_path, "train", class_names=list(COLORS), ignored=255)
    assert next(source.examples.as_numpy_iterator())["label"].tolist() == CLASSES


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mask_gives_the_same_classes(form, tmp_path):
    mask, names, ignored = FORMS[form]
    write(tmp_path / "images", tmp_path / "masks", mask())
    source = data.load_masks(tmp_path, "train", class_names=names, ignored=ignored)
    assert source.has_masks and source.classes == 3 and source.class_names == tuple(COLORS)
    for example in source.examples.as_numpy_iterator():
        assert example["label"].tolist() == CLASSES and example["label"].dtype == "int32"
    (part,) = source.read_range(1, 2).as_numpy_iterator()
    assert int(part["index"]) == 1 and part["image"].shape == (2, 3, 3)


@pytest.mark.parametrize("layout", ["images/train:masks/train", "train/images:train/masks", "images:masks"])
def test_layouts_and_names_in_the_folder(layout, tmp_path):
    images, masks = layout.split(":")
    write(tmp_path / images, tmp_path / masks, Image.fromarray(NUMBERS))
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    assert data.load_masks(tmp_path, "train", ignored=255).class_names == tuple(COLORS)
    (tmp_path / "classes.json").write_text(json.dumps({"car": 2, "sky": 0, "road": 1}))
    source = data.load_masks(tmp_path, "train", ignored=(255,))
    assert source.class_names == ("car", "sky", "road")
    label = next(source.examples.as_numpy_iterator())["label"]
    assert label.tolist() == [[1, 2, 0], [0, 2, IGNORED]]
    with pytest.raises(ValueError, match="a split of.*'tset'"):
        data.load_masks(tmp_path, "tset")


def test_errors_name_the_file(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    write(images, masks, Image.fromarray(NUMBERS))
    options = {"class_names": list(COLORS), "ignored": 255}
    source = data.load_masks(tmp_path, "train", class_names=list(COLORS))
    with pytest.raises(tf.errors.OpError, match=r"masks/a\.png, but received \[255\]"):
        next(iter(source.examples))
    colored = data.load_masks(tmp_path, "train", class_names=COLORS)
    with pytest.raises(tf.errors.OpError, match=r"masks/a\.png, but received \[\(0, 0, 0\), "):
        next(iter(colored.examples))
    in_colors().save(masks / "a.png")
    with pytest.raises(tf.errors.OpError, match=r"numbers of classes in .*a\.png, but received colors"):
        next(iter(data.load_masks(tmp_path, "train", **options).examples))
    Image.new("L", (2, 3)).save(masks / "b.png")
    with pytest.raises(ValueError, match=r"\(2, 3\), the size of .*b\.jpg, but received \(3, 2\) in .*b\.png"):
        data.load_masks(tmp_path, "train", **options)
    (masks / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a mask for .*b\.jpg"):
        data.load_masks(tmp_path, "train", **options)
    (images / "b.jpg").rename(images / "c.jpg")
    Image.fromarray(NUMBERS).save(masks / "b.png")
    with pytest.raises(FileNotFoundError, match=r"an image for .*b\.png"):
        data.load_masks(tmp_path, "train", **options)
    (masks / "b.png").unlink()
    Image.new("L", (3, 2)).save(masks / "c.jpg")
    with pytest.raises(ValueError, match="lossy"):
        data.load_masks(tmp_path, "train", **options)


def test_numbers_are_not_read_from_colors_for_printing(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS), names="a")
    (tmp_path / "masks" / "a.png").unlink()
    Image.fromarray(np.array([[[0, 255, 255, 0], [1, 0, 0, 0], [2, 0, 0, 0]]] * 2, "uint8"), "CMYK").save(
        tmp_path / "masks" / "a.tif"
    )
    source = data.load_masks(tmp_path, "train", class_names=list(COLORS))
    with pytest.raises(tf.errors.OpError, match=r"numbers of classes in .*a\.tif, but received colors"):
        next(iter(source.examples))


@pytest.mark.parametrize(
    "names, ignored, expected",
    [
        (["a", "b"], 1, "different value"),
        ({"a": 0, "b": (1, 2, 3)}, (), "either numbers or colors"),
        ({"a": (1, 2, 256)}, (), "a color"),
        ({"a": 70000}, (), "0 to 65535"),
        ([], (), "at least one class"),
    ],
)
def test_wrong_values_raise(names, ignored, expected, tmp_path):
    write(tmp_path / "images", tmp_path / "masks", Image.fromarray(NUMBERS))
    with pytest.raises(ValueError, match=expected):
        data.load_masks(tmp_path, "train", class_names=names, ignored=ignored)


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="camvid is not prepared beside this repository")
def test_a_tfds_dataset_with_masks():
    names = [f"class{number}" for number in range(11)]
    source = data.load_masks("camvid", "test[:8]", SHARED, class_names=names, ignored=11)
    assert (source.size, source.classes, source.image_shape) == (8, 11, (192, 256, 3))
    assert [row[1:] for row in source.ranges] == [(0, 8)]
    ((x, y),) = data.evaluation(source, batch_size=8)
    assert x.shape == (8, 192, 256, 3) and y.shape == (8, 192, 256)
    assert {IGNORED} < set(np.unique(y).tolist()) <= {IGNORED, *range(11)}
    with pytest.raises(tf.errors.OpError, match=r"example 0 of camvid test, but received \[11\]"):
        next(iter(data.load_masks("camvid", "test", SHARED, class_names=names).examples))
    with pytest.raises(ValueError, match="names of the classes of camvid"):
        data.load_masks("camvid", "test", SHARED)
    with pytest.raises(ValueError, match="an 8-bit image and a mask"):
        data.load_masks("bccd", "test", SHARED)
