"""Anchors and offsets against loops in NumPy."""

import numpy as np
import pytest

from kd_keras.detection.anchors import PER_POSITION, decode_deltas, encode_deltas, make_anchors


def test_anchors_are_those_of_the_paper():
    sizes, strides = [(3, 5), (2, 3)], [8, 16]
    anchors, row = make_anchors(sizes, strides, scale=3.0), 0
    assert anchors.shape == ((15 + 6) * PER_POSITION, 4) and anchors.dtype == np.float32
    for (height, width), stride in zip(sizes, strides, strict=True):
        for y in range(height):
            for x in range(width):
                for ratio in (0.5, 1, 2):
                    for octave in range(3):
                        area = (3 * stride * 2 ** (octave / 3)) ** 2
                        x0, y0, x1, y1 = anchors[row]
                        assert (y1 - y0) / (x1 - x0) == pytest.approx(ratio, rel=1e-4)
                        assert (y1 - y0) * (x1 - x0) == pytest.approx(area, rel=1e-4)
                        assert (x0 + x1) / 2 == pytest.approx((x + 0.5) * stride, abs=1e-4)
                        assert (y0 + y1) / 2 == pytest.approx((y + 0.5) * stride, abs=1e-4)
                        row += 1


def test_decoding_is_that_of_the_formula_and_inverts_encoding():
    anchors = make_anchors([(2, 3)], [8])
    deltas = np.random.default_rng(0).normal(size=(2, len(anchors), 4)).astype("float32")
    expected = []
    for offsets in deltas.astype("float64"):
        for (dx, dy, dw, dh), (x0, y0, x1, y1) in zip(offsets, anchors, strict=True):
            width, height = x1 - x0, y1 - y0
            x, y = (x0 + x1) / 2 + dx * width, (y0 + y1) / 2 + dy * height
            w, h = width * np.exp(dw), height * np.exp(dh)
            expected.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    boxes = decode_deltas(deltas, anchors)
    np.testing.assert_allclose(boxes, np.reshape(expected, deltas.shape), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(encode_deltas(boxes, anchors), deltas, atol=1e-4)


def test_a_decoded_box_is_finite():
    boxes = decode_deltas(np.full((1, 4), 400.0), [[0.0, 0.0, 16.0, 16.0]]).numpy()
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], 1000.0, rtol=1e-4)
