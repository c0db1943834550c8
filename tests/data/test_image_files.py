"""Image files of every format, written by Pillow and TensorFlow, against the arrays that they were made of."""

import logging
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kd_keras import data
from kd_keras.data.image_files import Header, read_header, read_image

COLORS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype("uint8")
GRAY = COLORS[..., :1]
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 9, 3)).astype("uint16")
LOSSLESS = {"lossless": True}


def saved(path, image, **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.png", {}),
        ("a.webp", LOSSLESS),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tiff", {"compression": "tiff_lzw"}),
        ("a.ppm", {}),
    ],
)
def test_lossless_formats_give_the_same_pixels(name, options, tmp_path):
    path = saved(tmp_path / name, COLORS, **options)
    np.testing.assert_array_equal(read_image(path), COLORS)
    assert read_header(path) == Header((6, 9), is_gray=False, is_deep=False)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.pgm", "a.gif"])
def test_gray_files_are_gray(name, tmp_path):
    path = saved(tmp_path / name, GRAY)
    np.testing.assert_array_equal(read_image(path), GRAY)
    assert read_header(path).is_gray
    np.testing.assert_array_equal(read_image(path, channels=3), np.repeat(GRAY, 3, axis=-1))


def test_jpeg_in_colors_gray_and_cmyk(tmp_path):
    smooth = np.full((16, 16, 3), (200, 100, 50), "uint8")
    for mode in ("RGB", "CMYK"):
        path = saved(tmp_path / f"{mode}.jpg", Image.fromarray(smooth).convert(mode), quality=100)
        np.testing.assert_allclose(read_image(path), smooth, atol=3)
    path = saved(tmp_path / "gray.jpg", smooth[..., :1], quality=100)
    assert read_header(path).is_gray and read_image(path).shape == (16, 16, 1)
    np.testing.assert_allclose(read_image(tmp_path / "RGB.jpg", 1), np.full((16, 16, 1), 124), atol=2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_png_of_16_bits(channels, has_alpha, tmp_path):
    values = DEEP[..., :channels]
    opacity = np.where(np.arange(9)[:, None] < 4, 65535, 0).astype("uint16") * np.ones((6, 9, 1), "uint16")
    path = tmp_path / "a.png"
    stored = np.concatenate([values, opacity], axis=-1) if has_alpha else values
    tf.io.write_file(str(path), tf.io.encode_png(stored))
    expected = np.round(values / 257)
    if has_alpha:
        expected[:, 4:] = 255
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_header(path) == Header((6, 9), is_gray=channels == 1, is_deep=True)
    np.testing.assert_array_equal(read_image(path, bits=8)[:, :4], np.minimum(values, 255)[:, :4])


def test_tiff_and_pgm_of_16_bits(tmp_path):
    for name in ("a.tif", "a.pgm"):
        path = saved(tmp_path / name, DEEP[..., 0])
        np.testing.assert_array_equal(read_image(path)[..., 0], np.round(DEEP[..., 0] / 257))
        assert read_header(path).is_deep and read_header(path).is_gray


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp", "b.png"])
def test_transparent_pixels_are_blended_onto_white(name, tmp_path):
    pixels = np.zeros((2, 3, 4), "uint8")
    pixels[:, 0], pixels[:, 1], pixels[:, 2] = (10, 20, 30, 255), (0, 0, 0, 0), (100, 100, 100, 128)
    image = Image.fromarray(pixels)
    if name == "b.png":  # a palette with one transparent color
        image = Image.new("P", (3, 2), 0)
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.putpixel((1, 0), 1)
        path = saved(tmp_path / name, image, transparency=1)
        assert read_image(path)[0].tolist() == [[10, 20, 30], [255] * 3, [10, 20, 30]]
        return
    path = saved(tmp_path / name, image, **(LOSSLESS | {"exact": True} if name == "a.webp" else {}))
    assert read_image(path)[0].tolist() == [[10, 20, 30], [255] * 3, [177] * 3]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation, name, tmp_path):
    upright = np.zeros((16, 32, 3), "uint8")
    upright[:8, :16] = 255  # bright at the upper left
    # What a camera stores so that a viewer that follows the EXIF standard shows the upright image.
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / name, np.ascontiguousarray(turned), exif=exif)
    np.testing.assert_allclose(read_image(path), upright, atol=5)
    assert read_header(path).size == (16, 32)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_orientation_of_a_gray_tiff_is_applied(dtype, tmp_path):
    upright = (np.arange(54).reshape(6, 9) * np.iinfo(dtype).max / 53).astype(dtype)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.tif", np.ascontiguousarray(np.rot90(upright)), exif=exif)
    expected = np.round(upright * (255 / np.iinfo(dtype).max))
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)


def test_damaged_exif_is_ignored(tmp_path):
    path = saved(tmp_path / "a.jpg", COLORS, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_header(path).size == (6, 9) and read_image(path).shape == (6, 9, 3)


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((4, 5, 3), value, "uint8")) for value in (10, 200)]
    path = saved(tmp_path / "a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(path), 10)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp", "a.tif"])
def test_a_truncated_file_is_named(name, tmp_path):
    large = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    path = saved(tmp_path / name, large)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=f"{name} is not an image that can be decoded: "):
        read_image(path)


def test_pixels_of_other_types_are_rejected(tmp_path):
    path = saved(tmp_path / "a.tif", np.zeros((4, 4), "float32"))
    with pytest.raises(ValueError, match="a.tif is not.* its pixels are of the type F. Convert it to 8 or 16 bits"):
        read_header(path)
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="b.jpg is not an image"):
        read_image(tmp_path / "b.jpg")


def test_a_folder_of_every_format(tmp_path, recwarn):
    """All files are the same image: one color at the left, another at the right."""
    image = np.zeros((16, 32, 3), "uint8")
    image[:, :16], image[:, 16:] = (200, 100, 50), (10, 60, 250)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, suffix in enumerate((".jpg", ".JPEG", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")):
        label = tmp_path / "train" / f"class{number % 2}"
        label.mkdir(parents=True, exist_ok=True)
        saved(
            label / f"plain{suffix}",
            image,
            **({"quality": 100} if suffix.lower() in (".jpg", ".jpeg", ".webp") else {}),
        )
    tf.io.write_file(str(label / "deep.png"), tf.io.encode_png(image.astype("uint16") * 257))
    saved(label / "cmyk.jpg", Image.fromarray(image).convert("CMYK"), quality=100)
    saved(label / "alpha.png", Image.fromarray(image).convert("RGBA"))
    saved(label / "palette.png", Image.fromarray(image).quantize(4))
    saved(label / "turned.jpg", np.ascontiguousarray(np.rot90(image)), exif=exif, quality=100)
    source = data.load(tmp_path, "train")
    assert (source.size, source.classes, source.image_shape) == (14, 2, (16, 32, 3)) and not recwarn.list
    for row in source.examples.as_numpy_iterator():
        # JPEG mixes the two colors at their border.
        np.testing.assert_allclose(row["image"][:, :14], image[:, :14], atol=6)
        np.testing.assert_allclose(row["image"][:, 18:], image[:, 18:], atol=6)
    (label / "photo.heic").write_bytes(b"?")
    with pytest.warns(UserWarning, match=r"1 file is left out \(1 .heic: .*class0/photo.heic\)"):
        assert data.load(tmp_path, "train").size == 14


def test_the_formats_of_a_folder_are_logged(tmp_path, caplog):
    saved(tmp_path / "a.png", COLORS)
    saved(tmp_path / "b.webp", COLORS)
    with caplog.at_level(logging.INFO, logger="kd_keras"):
        data.load(tmp_path, "train")
    assert f"{tmp_path}: split train has 2 images (1 .png, 1 .webp) without labels, in colors." in caplog.text


def write_color_tiff(path, values):
    """Writes values `(H, W, 3)` uint16 as a TIFF, which Pillow cannot write."""
    height, width, _ = values.shape
    bits, pixels = 8 + 2 + 12 * 10 + 4, 8 + 2 + 12 * 10 + 4 + 6
    fields = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, pixels),
        (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, 2 * values.size), (284, 3, 1, 1),
    ]  # fmt: skip
    content = b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields)
    content += struct.pack("<I3H", 0, 16, 16, 16) + values.astype("<u2").tobytes()
    path.write_bytes(content)


def test_a_tiff_with_colors_is_read_in_its_full_range_alone(tmp_path):
    write_color_tiff(tmp_path / "a.tif", DEEP)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif"), DEEP / 257, atol=1)
    with pytest.raises(ValueError, match="only the upper 8 bits can be read. Convert it to a PNG of 16 bits"):
        read_image(tmp_path / "a.tif", bits=12)
