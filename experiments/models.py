"""Prints the zoo as a table, or one model's taps.

    python -m experiments.models --image_size=32,32 --classes=100
    python -m experiments.models --model="shufflenet_v2(width=0.5)" --model=applications/ResNet50 --image_size=224,224
    python -m experiments.models --model=runs/teacher
"""

import tempfile
from pathlib import Path

import keras
from absl import app, flags

from experiments import arguments, devices
from experiments.runs import load_model
from kd_keras import models
from kd_keras.contracts import TapSpec
from kd_keras.evaluation import macs
from kd_keras.networks.taps import Tapped

FLAGS = flags.FLAGS
devices.define_place()
flags.adopt_module_key_flags(devices)
flags.DEFINE_multi_string("model", [], "A model of the zoo, with options, a run or a .keras file; repeat for several.")
flags.DEFINE_list("image_size", ["32", "32"], "Height,width of the images, in pixels; a file has its own.")
flags.DEFINE_integer("channels", 3, "Channels of the images.", lower_bound=1)
flags.DEFINE_integer("classes", 100, "Number of classes.", lower_bound=2)

HEAD = "| model | parameters | multiply-accumulates | kilobytes | stages |\n|---|---:|---:|---:|---|"


def main(_: list[str]) -> None:
    arguments.quiet()
    if not devices.chief_alone():
        return
    if not FLAGS.model:
        size = ",".join(FLAGS.image_size)
        print(f"{FLAGS.classes} classes, images of {size},{FLAGS.channels}; trainable parameters.\n\n{HEAD}")
        for name in models.ZOO:
            print(row(name, built(name)), flush=True)
            keras.backend.clear_session()
    for text in FLAGS.model:
        model = built(text)
        print(f"{HEAD}\n{row(text, model)}\n\n{taps(model)}\n")


def built(text: str) -> keras.Model:
    """A model by its name in the zoo or from a file."""
    if Path(text).exists():
        return load_model(text)
    name, options = arguments.parse_call(text)
    return models.build(name, (*arguments.integers("image_size", 2), FLAGS.channels), FLAGS.classes, **options)


def row(name: str, model: keras.Model) -> str:
    """What a model costs, and the shapes of its stages."""
    trainable = sum(int(keras.ops.size(variable)) for variable in model.trainable_variables)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        kilobytes = Path(f"{folder}/model.keras").stat().st_size / 1000
    stages = " ".join("x".join(map(str, spec.shape[1:])) for spec in specs(model, "stages")) or "none"
    return f"| {name} | {trainable:,} | {macs(model):,} | {kilobytes:,.0f} | {stages} |"


def taps(model: keras.Model) -> str:
    """Every tap of a model, the layer that it reads, and for a stage what comes before its activation."""
    lines = ["| tap | layer | shape | before its activation |", "|---|---|---|---|"]
    stages = specs(model, "stages")
    for number, (spec, before) in enumerate(zip(stages, specs(model, "stages:pre"))):
        earlier = before.layer if before != spec else "nothing: stages:pre gives the same"
        lines.append(line(f"stages[{number}]", spec, earlier))
    # The zoo's own names for the maps that published tables compare; where they are no stages they have no activation
    # or are not the last of their size.
    lines += [line(spec.layer, spec) for spec in specs(model, "stage?_out") if spec not in stages]
    lines += [line(tap, spec) for tap in ("embedding", "logits") for spec in specs(model, tap)]
    return "\n".join(lines)


def specs(model: keras.Model, tap: str) -> list:
    """What a tap delivers, or nothing where the model lacks it."""
    try:
        found = Tapped(model, [tap]).specs[tap]
    except ValueError:
        return []
    return found if isinstance(found, list) else [found]


def line(tap: str, spec: TapSpec, before: str = "") -> str:
    return f"| {tap} | {spec.layer} | {'x'.join(map(str, spec.shape[1:]))} | {before} |"


if __name__ == "__main__":
    app.run(main)
