"""Says whether two photographs show the same person, with an exported network of faces.

    python -m scripts.same_person export/model.tflite ann.jpg unknown.jpg 0.42

The threshold, a cosine, is that of an evaluation: `kd_keras.tasks.faces.verification.threshold_at_far`. Faces must be
cropped, or aligned by `kd_keras.data.align_face`, in the way of the training images. Exit code 0: the same, 1: not.
"""

import sys

import numpy as np
from PIL import Image

from kd_keras.data import read_image
from kd_keras.tasks.faces.export import load_embedder


def main(model: str, first: str, second: str, threshold: str) -> int:
    """Prints the similarity and the decision."""
    embed, (height, width, channels) = load_embedder(model)
    images = [np.squeeze(read_image(path, channels)) for path in (first, second)]
    images = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)) for image in images]
    a, b = (embed(image.reshape(1, height, width, channels))[0] for image in images)
    similarity = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    is_same = similarity >= float(threshold)
    print(
        f"{'the same person' if is_same else 'different persons'} (similarity {similarity:.3f}, threshold {threshold})"
    )
    return 0 if is_same else 1


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
