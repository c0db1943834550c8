"""Draws the boxes that an exported detector finds in a JPEG; needs only LiteRT (or TensorFlow), NumPy and Pillow.

python scripts/draw_boxes.py student.tflite photo.jpg boxes.png
"""

import sys
import zipfile

import numpy as np
from PIL import Image, ImageDraw

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    import tensorflow as tf

    Interpreter = tf.lite.Interpreter


def main(model: str, photo: str, drawing: str, lowest_score: float = 0.3) -> None:
    names = zipfile.ZipFile(model).read("labels.txt").decode().split("\n") if zipfile.is_zipfile(model) else None
    detector = Interpreter(model).get_signature_runner("serving_default")
    _, height, width, _ = detector.get_input_details()["images"]["shape"]
    image = Image.open(photo).convert("RGB")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))  # antialiased
    found = {name: values[0] for name, values in detector(images=pixels[None]).items()}
    pen, scale = ImageDraw.Draw(image), np.array([image.width / width, image.height / height] * 2)
    for box, score, number in zip(found["boxes"] * scale, found["scores"], found["classes"], strict=True):
        if score >= lowest_score:
            pen.rectangle(box.tolist(), outline="red", width=2)
            pen.text((box[0] + 3, box[1] + 2), f"{names[number] if names else number} {score:.2f}", fill="red")
    image.save(drawing)


if __name__ == "__main__":
    main(*sys.argv[1:4])
