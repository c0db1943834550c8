"""The section on networks that were trained for int8: where rounding loses most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd_keras.evaluation.layer_noise import FINDING
from kd_keras.report.figures import Series, draw_lines
from kd_keras.report.sections.base import Network, Plot, Section, Table

ROWS = 20  # the table has at most as many layers
NAMED = 3  # layers that the caption names


def show_quantization(networks: Sequence[Network], classes: Sequence[str]) -> Section | None:
    """The signal-to-noise ratio of each layer in order, and a table of the layers with the lowest ones."""
    known = [network for network in networks if _layers(network)]
    if not known:
        return None
    lines, sentences = [], []
    for network in known:
        ratios = [ratio for ratio, _, _ in _layers(network).values()]
        lines.append(Series(network.label, network.style, range(1, 1 + len(ratios)), ratios))
        sentences.append(_describe(network))
    alt = f"Signal-to-noise ratio of the layers in int8. {' '.join(sentences)}"
    svg = draw_lines("int8-layers", alt, lines, "layer, in order of computation", "decibels", percent=False)
    intro = "The signal-to-noise ratio of each rounded tensor on test images: its values if nothing is rounded,"
    intro += " compared with its values in int8, where the noise of all layers before it is included. A ratio"
    intro += " that is 10 dB lower means ten times the noise power. If the accuracy in int8 is too low, find the layer"
    intro += " at which the ratio falls sharply, keep that convolution, or the one before a sum, in float"
    intro += " (keep_float= of kd_keras.distill, --keep_float in the shell), and train again."
    return Section([Plot(svg, " ".join(sentences))], [_table(known[-1])], intro=intro)


def _layers(network: Network) -> dict[str, np.ndarray]:
    """The ratio in decibels and the ends of the range of each layer, in order."""
    findings = {name: value for name, value in network.findings.items() if name.startswith(FINDING)}
    return {name.removeprefix(FINDING): np.asarray(value, "float64") for name, value in findings.items()}


def _falls(network: Network) -> dict[str, float]:
    """How many decibels each layer has less than the one before it, the first one 0."""
    layers = _layers(network)
    ratios = np.array([ratio for ratio, _, _ in layers.values()])
    return dict(zip(layers, np.append(0.0, ratios[:-1] - ratios[1:]), strict=True))


def _describe(network: Network) -> str:
    ratios = {name: ratio for name, (ratio, _, _) in _layers(network).items()}
    falls = _falls(network)
    lowest = sorted(ratios, key=lambda name: ratios[name])[:NAMED]
    sharpest = [name for name in sorted(falls, key=lambda name: -falls[name]) if falls[name] > 0][:NAMED]
    text = f"{network.label}: lowest at {', '.join(f'{name} ({ratios[name]:.1f} dB)' for name in lowest)}"
    if sharpest:
        text += f"; sharpest falls at {', '.join(f'{name} (by {falls[name]:.1f} dB)' for name in sharpest)}"
    return f"{text}."


def _table(network: Network) -> Table:
    layers, falls = _layers(network), _falls(network)
    indices = {name: index for index, name in enumerate(layers, 1)}
    order = sorted(layers, key=lambda name: layers[name][0])[:ROWS]
    rows = []
    for name in order:
        ratio, low, high = layers[name]
        numbers = [f"{ratio:.1f}", f"{-falls[name]:+.1f}", f"{low:.4g}", f"{high:.4g}"]
        rows.append([name, f"{indices[name]} of {len(layers)}", *numbers])
    which = f"The {ROWS} layers with the lowest ratio" if len(layers) > ROWS else "All layers"
    caption = f"{which} of {network.phrase}, the lowest one first, and the ranges that int8 represents."
    return Table(caption, ["layer", "position", "dB", "change, dB", "smallest value", "largest value"], rows)
