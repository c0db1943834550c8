"""The lines of Python that read an image file of any size as an exported network was tested."""

from __future__ import annotations


def reading_lines(image_shape: tuple[int, int, int], saved_model: str | None = None) -> str:
    """The lines that decode an image file, resize it, and run a SavedModel.

    Another resize changes the predictions: without antialiasing, or with other weights, the network sees other pixels.
    `tf.io.decode_image` ignores the orientation in EXIF and transparency, which `image_files.read_image` applies.

    Args:
        image_shape: `(H, W, C)` of the images that the export takes.
        saved_model: the directory of the SavedModel, if there is one.

    >>> print(reading_lines((32, 32, 3)))
    import tensorflow as tf
    image = tf.io.decode_image(tf.io.read_file("image.png"), channels=3, expand_animations=False)
    image = tf.image.resize(image, (32, 32), antialias=True)
    image = tf.cast(tf.round(image), tf.uint8)[None]
    """
    height, width, channels = image_shape
    lines = [
        "import tensorflow as tf",
        f'image = tf.io.decode_image(tf.io.read_file("image.png"), channels={channels}, expand_animations=False)',
        f"image = tf.image.resize(image, ({height}, {width}), antialias=True)",
        "image = tf.cast(tf.round(image), tf.uint8)[None]",
    ]
    if saved_model is not None:
        # In one expression TensorFlow would delete the variables of the loaded model before it runs.
        lines += [f"model = tf.saved_model.load({saved_model!r})", "outputs = model.serve(image)"]
    return "\n".join(lines)
