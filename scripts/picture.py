"""Draws the README's picture: teacher, taps, methods, student.

    python -m scripts.picture                       writes experiments/results/picture.svg
    python -m scripts.picture --output=FILE

The file carries its own background and colors for light and dark pages (`prefers-color-scheme`).
"""

from __future__ import annotations

import argparse
import itertools
from html import escape
from pathlib import Path
from typing import NamedTuple

OUTPUT = Path(__file__).parent.parent / "experiments" / "results" / "picture.svg"
WIDTH, HEIGHT = 960, 410
TEACHER_Y, METHOD_Y, STUDENT_Y = 54, 182, 302  # tops of the boxes of the three rows
LEFT, RIGHT, LOSS_X = 162, 724, 856  # edges of the rows' frames; center of the labels and the loss
STYLE = """
  text { font: 15px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328; text-anchor: middle }
  .small { font-size: 12.5px; fill: #57606a }
  .start { text-anchor: start }
  .title { font-weight: 600 }
  .panel { fill: #ffffff; stroke: #d0d7de }
  .group { fill: #f6f8fa; stroke: #d0d7de }
  .teacher { fill: #dbeafe; stroke: #3b74c4 }
  .student { fill: #dcf3e1; stroke: #2f8f4e }
  .method { fill: #fdebd3; stroke: #c77d1b }
  .loss { fill: #f3e3fb; stroke: #8d4fb0 }
  .data { fill: #eaeef2; stroke: #8c959f }
  .line { fill: none; stroke: #57606a; stroke-width: 1.6 }
  .tap { fill: none; stroke: #c77d1b; stroke-width: 1.6; stroke-dasharray: 5 4 }
  .update { fill: none; stroke: #8d4fb0; stroke-width: 2 }
  .head { fill: #57606a } .tap-head { fill: #c77d1b } .update-head { fill: #8d4fb0 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9da7b3 }
    .panel { fill: #0d1117; stroke: #30363d } .group { fill: #161b22; stroke: #30363d }
    .teacher { fill: #14305a; stroke: #5b9bf0 } .student { fill: #123a20; stroke: #4fbf74 }
    .method { fill: #46300f; stroke: #e0a04a } .loss { fill: #3a1f4a; stroke: #bf86e0 }
    .data { fill: #262c34; stroke: #7d8590 } .line { stroke: #9da7b3 } .head { fill: #9da7b3 }
    .tap { stroke: #e0a04a } .tap-head { fill: #e0a04a } .update { stroke: #bf86e0 } .update-head { fill: #bf86e0 }
  }
"""


class Column(NamedTuple):
    """One tap: its name, the center and width of its boxes, and some methods that read it."""

    tap: str
    x: int
    width: int
    methods: str


COLUMNS = (
    Column("stages", 276, 200, "FitNet, AT, ReviewKD"),
    Column("embedding", 476, 132, "CRD, RKD, PKT"),
    Column("logits", 640, 132, "KD, DKD, DIST"),
)
STAGES = COLUMNS[0]


def text(x: float, y: float, content: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{style}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, style: str, *lines: str) -> str:
    """A rounded box with its lines of text, centered at x; the lines after the first are small."""
    parts = [f'<rect x="{x - width / 2}" y="{y}" width="{width}" height="{height}" rx="7" class="{style}"/>']
    top = y + height / 2 + 5 - 9 * (len(lines) - 1)
    parts += [text(x, top + 18 * row, line, "small" if row else "") for row, line in enumerate(lines)]
    return "".join(parts)


def arrow(path: str, style: str = "line") -> str:
    head = {"line": "head", "tap": "tap-head", "update": "update-head"}[style]
    return f'<path d="{path}" class="{style}" marker-end="url(#{head})"/>'


def markers() -> str:
    shape = '<path d="M0 0 L8 4 L0 8 z" class="{0}"/>'
    common = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"'
    common += ' markerUnits="userSpaceOnUse"'
    heads = ("head", "tap-head", "update-head")
    return "<defs>" + "".join(f'<marker id="{h}" {common}>{shape.format(h)}</marker>' for h in heads) + "</defs>"


def frame(y: int, height: int, title_y: int, title: str, note: str) -> list[str]:
    """The frame around one row, with a title and a remark."""
    parts = [f'<rect x="{LEFT}" y="{y}" width="{RIGHT - LEFT}" height="{height}" rx="9" class="group"/>']
    return [*parts, text(LEFT + 14, title_y, title, "start title"), text(LEFT + 92, title_y, note, "small start")]


def network(y: int, style: str) -> list[str]:
    """A network as a row: three stages, the embedding and the logits, joined by arrows."""
    centers = [STAGES.x - 70, STAGES.x, STAGES.x + 70, *(column.x for column in COLUMNS[1:])]
    widths = [60, 60, 60, *(column.width for column in COLUMNS[1:])]
    names = ["stage 1", "2", "3", *(column.tap for column in COLUMNS[1:])]
    parts = [box(x, y, width, 46, style, name) for x, width, name in zip(centers, widths, names, strict=True)]
    ends = [(x - width / 2, x + width / 2) for x, width in zip(centers, widths, strict=True)]
    gaps = [(right, left) for (_, right), (left, _) in itertools.pairwise(ends)]
    return parts + [arrow(f"M{start} {y + 23} H{end - 1}") for start, end in gaps]


def methods() -> list[str]:
    """The methods between the two networks, with the taps that they read."""
    parts = frame(METHOD_Y - 36, 96, METHOD_Y - 16, "methods", "")
    for column in COLUMNS:
        parts.append(box(column.x, METHOD_Y, column.width, 46, "method", column.methods, f'tap "{column.tap}"'))
        parts.append(arrow(f"M{column.x} {TEACHER_Y + 47} V{METHOD_Y - 1}", "tap"))
        parts.append(arrow(f"M{column.x} {STUDENT_Y - 1} V{METHOD_Y + 47}", "tap"))
    return parts


def picture() -> str:
    """The whole SVG."""
    parts = [f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" class="panel"/>', markers()]
    parts += frame(TEACHER_Y - 34, 96, TEACHER_Y - 13, "teacher", "a network, several networks, or a recording; frozen")
    parts += frame(
        STUDENT_Y - 16, 96, STUDENT_Y + 67, "student", "one forward pass per step; exported without the rest"
    )
    parts += [*network(TEACHER_Y, "teacher"), *network(STUDENT_Y, "student"), *methods()]
    parts.append(box(78, METHOD_Y - 8, 122, 62, "data", "images", "pixels 0 to 255"))
    parts.append(arrow(f"M78 {METHOD_Y - 9} V{TEACHER_Y + 23} H{STAGES.x - 101}"))
    parts.append(arrow(f"M78 {METHOD_Y + 55} V{STUDENT_Y + 23} H{STAGES.x - 101}"))
    parts.append(box(LOSS_X, TEACHER_Y, 122, 46, "data", "labels", "optional"))
    parts.append(box(LOSS_X, METHOD_Y - 14, 178, 74, "loss", "loss", "hard weight × hard loss", "+ Σ weight × method"))
    parts.append(arrow(f"M{RIGHT} {METHOD_Y + 23} H{LOSS_X - 90}"))
    parts.append(arrow(f"M{LOSS_X} {TEACHER_Y + 47} V{METHOD_Y - 15}"))
    parts.append(arrow(f"M{COLUMNS[-1].x + COLUMNS[-1].width / 2} {STUDENT_Y + 12} H{LOSS_X - 40} V{METHOD_Y + 61}"))
    parts.append(arrow(f"M{LOSS_X + 40} {METHOD_Y + 61} V{STUDENT_Y + 56} H{RIGHT + 1}", "update"))
    parts.append(text(RIGHT + 12, STUDENT_Y + 74, "gradients: student and adapters", "small start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
    title = "<title>Methods compare taps of a frozen teacher with the same taps of the student.</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    output.write_text(picture())
    print(output)


if __name__ == "__main__":
    main()
