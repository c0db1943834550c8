"""Labels with boxes and detections, written down as rows of numbers, and the overlap of two boxes by plain arithmetic.

Images of labels and detections are 100 pixels high and 200 wide.
"""

import numpy as np

from kd_keras.detection.decoding import Detections

SIZE = (100, 200)


def intersection_and_union(first, second):
    """The areas that two boxes (x0, y0, x1, y1) share and cover together, by intervals."""
    sides = [max(0.0, min(first[i + 2], second[i + 2]) - max(first[i], second[i])) for i in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return sides[0] * sides[1], sum(areas) - sides[0] * sides[1]


def box_iou(first, second):
    """The IoU of two boxes; 0 if both are empty."""
    shared, union = intersection_and_union(first, second)
    return shared / union if union > 0 else 0.0


def box_giou(first, second):
    """The GIoU of two boxes."""
    shared, union = intersection_and_union(first, second)
    hull = np.prod([max(first[i + 2], second[i + 2]) - min(first[i], second[i]) for i in (0, 1)])
    return shared / union - (hull - union) / hull


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
    truth, detected = [], []
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
        detected.append(rows)
    return labels(*truth), detections(*detected)
