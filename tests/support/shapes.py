"""Images with objects that a small detector can learn: rectangles whose color is their class."""

import numpy as np


def colored_rectangles(count, size=48, sides=(10, 24), seed=0):
    """Images `(count, size, size, 3)`, 0..255, and their labels; one to three objects that do not overlap."""
    random = np.random.default_rng(seed)
    images = random.uniform(0, 60, (count, size, size, 3)).astype("float32")
    boxes, classes = np.zeros((count, 3, 4), "float32"), np.full((count, 3), -1)
    for image in range(count):
        free = np.ones((size, size), bool)
        for row in range(1 + image % 3):
            for _ in range(1000):
                height, width = random.integers(*sides, 2)
                y, x = random.integers(0, size - height), random.integers(0, size - width)
                place = (image, slice(y, y + height), slice(x, x + width))
                if free[place[1:]].all():
                    break
            free[place[1:]] = False
            classes[image, row] = random.integers(0, 3)
            images[place][..., classes[image, row]] += 160
            boxes[image, row] = np.array([y, x, y + height, x + width]) / size
    return images, {"boxes": boxes, "classes": classes}
