"""The table, the front and the figure of a choice of a student."""

import numpy as np
from PIL import Image

from kd_keras.report.choice import Point, find_front, in_order, markdown, pareto_front, plot

POINTS = [
    Point("small", 10.0, 0.1, 0.70, 3),
    Point("middle", 50.0, 0.5, 0.80, 9, "chosen"),
    Point("slow", 40.0, 2.0, 0.75, 3),
    Point("large", 900.0, 0.3, None),
    Point("middle", 50.0, 0.5, 0.78, 9, "baseline"),
    Point("teacher", 2000.0, 4.0, 0.90, role="teacher"),
]


def test_the_front():
    points = {"a": (3, -3), "b": (2, -1), "c": (2, -2), "d": (1, -1), "e": (3, -3)}
    assert pareto_front(points) == ["a", "b", "e"]


def test_the_front_has_candidates_only_and_one_cost_or_both():
    assert [point.name for point in find_front(POINTS)] == ["small", "middle", "slow"]
    assert [point.name for point in find_front(POINTS, ("milliseconds",))] == ["small", "middle"]
    assert [point.name for point in find_front(POINTS, ("kilobytes",))] == ["small", "slow", "middle"]


def test_the_table_is_in_the_order_of_accuracy():
    assert [point.name for point in in_order(POINTS)] == ["teacher", "middle", "middle", "slow", "small", "large"]
    lines = markdown(in_order(POINTS)).splitlines()[2:]
    assert "| chosen, on the front | 9 | 80.00 | 50.0 | 0.500 |" in lines[1] and "baseline" in lines[2]
    assert "does not fit | - | - | 900.0 | 0.300 |" in lines[5]


def test_the_figure_has_points_limits_and_the_teacher(tmp_path):
    plot(POINTS, {"kilobytes": 100.0}, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    for color in ((0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)):  # candidates, chosen, teacher
        assert (np.abs(pixels.astype(int) - color).max(axis=1) < 3).sum() > 20
    plot([*POINTS[:3], Point("teacher", None, None, 0.9, role="teacher")], {}, tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 10_000
