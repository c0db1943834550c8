"""Labels with boxes and detections, written down as rows of numbers; images are 100 pixels high and 200 wide.

And the overlap of two boxes by plain arithmetic.
"""

import numpy as np

from kd_keras.detection.decoding import Detections

SIZE = (100, 200)


def overlap(box, target):
    """IoU and GIoU of two boxes, by intervals."""
    sides = [max(0.0, min(box[i + 2], target[i + 2]) - max(box[i], target[i])) for i in (0, 1)]
    areas = [(edges[2] - edges[0]) * (edges[3] - edges[1]) for edges in (box, target)]
    shared = sides[0] * sides[1]
    union = sum(areas) - shared
    hull = np.prod([max(box[i + 2], target[i + 2]) - min(box[i], target[i]) for i in (0, 1)])
    iou = shared / union if union > 0 else 0.0
    return iou, iou - ((hull - union) / hull if hull > 0 else 0.0)


def moved_box(deltas, anchor=(3.0, 1.0, 11.0, 6.0)):
    """A box as its offsets from some anchor say."""
    x0, y0, x1, y1 = anchor
    dx, dy, dw, dh = deltas
    x, y = (x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)
    w, h = (x1 - x0) * np.exp(dw), (y1 - y0) * np.exp(dh)
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def labels(*images):
    """Labels of (class, x0, y0, x1, y1) in pixels."""
    most = max(map(len, images))
    boxes, classes = np.zeros((len(images), most, 4)), np.full((len(images), most), -1)
    for number, objects in enumerate(images):
        for row, (label, x0, y0, x1, y1) in enumerate(objects):
            boxes[number, row], classes[number, row] = (y0 / 100, x0 / 200, y1 / 100, x1 / 200), label
    return {"boxes": boxes, "classes": classes}


def detections(*images):
    """Detections of (score, class, x0, y0, x1, y1)."""
    most = max(1, *map(len, images))
    boxes, scores = np.zeros((len(images), most, 4), "float32"), np.zeros((len(images), most), "float32")
    classes = np.full((len(images), most), -1)
    for number, objects in enumerate(images):
        for row, (score, label, *box) in enumerate(objects):
            boxes[number, row], scores[number, row], classes[number, row] = box, score, label
    return Detections(boxes, scores, classes, (classes >= 0).sum(1))


def random_case(images, classes=3, seed=0, noise=4.0):
    """Labels of random objects, and detections of most of them with noise, and of some places without an object."""
    random = np.random.default_rng(seed)
    truth, predicted = [], []
    for _ in range(images):
        corners = random.uniform((0, 0), (150, 60), (random.integers(1, 6), 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 40, corners.shape)], 1)
        kinds = random.integers(0, classes, len(boxes))
        truth.append([(kind, *box) for kind, box in zip(kinds, boxes, strict=True)])
        seen = random.uniform(size=len(boxes)) < 0.8
        moved = boxes + random.normal(0, noise, boxes.shape)
        rows = [(random.uniform(0.2, 1), kind, *box) for kind, box in zip(kinds[seen], moved[seen], strict=True)]
        for _ in range(random.integers(0, 4)):
            x, y = random.uniform((0, 0), (150, 60))
            rows.append((random.uniform(0.05, 0.8), random.integers(0, classes), x, y, x + 30, y + 20))
        predicted.append(rows)
    return labels(*truth), detections(*predicted)
