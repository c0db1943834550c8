# %% [markdown]
"""
# An int8 student

From a folder of photographs to a LiteRT file that computes in 8-bit integers, and to a program that classifies one
image with LiteRT's interpreter alone.

The usual way, post-training quantization, rounds a trained network and hopes that its accuracy survives. Here the
network trains on while its kernels and activations are rounded exactly as the file will round them, and it learns from
its own float version.
"""

# %%
import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/int8_student")
SHORT = bool(os.environ.get("KD_SHORT"))
EPOCHS, COUNT = (2, 20) if SHORT else (20, 400)

# %% [markdown]
"""
## Photographs

Any folder of the form `FOLDER/<split>/<class>/*.png` will do: set `KD_PHOTOGRAPHS` to yours. Without one, the tutorial
draws pictures of three kinds of objects, 32 pixels wide, in random colors and places.
"""

# %%
KINDS = ("bar", "disk", "square")


def draw(kind: str, random: np.random.Generator) -> np.ndarray:
    """A picture `(32, 32, 3)` of an object of one kind."""
    y, x = np.mgrid[:32, :32] - random.uniform(11, 21, (2, 1, 1))
    radius = random.uniform(5, 9)
    shapes = {
        "bar": (abs(y) < 2) & (abs(x) < radius),
        "disk": x**2 + y**2 < radius**2,
        "square": np.maximum(abs(x), abs(y)) < radius * 0.9,
    }
    background, color = random.uniform(0, 120, 3), random.uniform(135, 255, 3)
    picture = np.where(shapes[kind][..., None], color, background)
    return np.clip(picture + random.normal(0, 12, picture.shape), 0, 255).astype("uint8")


photographs = Path(os.environ.get("KD_PHOTOGRAPHS", RUNS / "photographs"))
if not photographs.exists():
    random = np.random.default_rng(0)
    for split, count in (("train", COUNT), ("test", COUNT // 2)):
        for kind in KINDS:
            directory = photographs / split / kind
            directory.mkdir(parents=True)
            for number in range(count):
                keras.utils.save_img(directory / f"{number}.png", draw(kind, random), scale=False)

# %% [markdown]
"""
## The float student

Quantization-aware training starts from a trained network. `resnet8` is small; every network of the zoo works.
"""

# %%
recipe: dict[str, Any] = {"data": str(photographs), "batch_size": 32, "image_size": (32, 32), "optimizer": "adam"}
student = kd.train(model="resnet8", epochs=EPOCHS, learning_rate=0.003, run=RUNS / "float", **recipe)

# %% [markdown]
"""
## Where int8 loses

`kd.quantization_aware` makes a copy that computes in floats what the int8 file computes in integers. Its ranges start
from real images. The signal-to-noise ratio of each layer's output shows where rounding costs most; a convolution at
which it falls sharply can stay in float with `keep_float=["its name"]`, here and in `kd.distill`. The page of
`kd.evaluate(..., report="page.html")` shows the ratios of an int8 student as a figure.
"""

# %%
files = sorted(photographs.glob("train/*/*"))[:: max(1, 3 * COUNT // 60)]
pixels = np.stack([np.asarray(keras.utils.load_img(file, target_size=(32, 32)), "uint8") for file in files])
copy = kd.quantization_aware(student.model(), pixels)
print(kd.evaluation.layer_noise_table(kd.evaluation.layer_noise(copy, pixels)))

# %% [markdown]
"""
## The int8 student

`quantize="int8"` makes the same copy and trains it with a small learning rate, here by KD from the float student. A
tenth of the epochs of the float training is enough. In the shell:

    python -m experiments.distill --teacher=RUN --student=RUN --quantize=int8 --data=FOLDER --epochs=2 --run=INT8_RUN

`quantize="int8_lsq"` learns the ranges of activations by their gradient instead of following their values. With
`kernel_bits=4` (`--kernel_bits=4`) and `quantize=` the student has kernels of 4 bits, which the LiteRT of TensorFlow
2.21 converts and runs.
"""

# %%
int8_student = kd.distill(
    teacher=student,
    student=student,
    quantize="int8",
    methods=["kd"],
    epochs=max(1, EPOCHS // 10),
    learning_rate=1e-4,
    run=RUNS / "int8",
    **recipe,
)

# %% [markdown]
"""
## Side by side

The float student as a LiteRT file, its post-training int8 file, and the int8 file of the student that trained for it.
The format "onnx" writes the latter in integers too, as QuantizeLinear and DequantizeLinear for onnxruntime.
"""

# %%
exports: list[Any] = kd.export(student, ["litert", "litert_int8"]) + kd.export(int8_student, ["litert_int8"])
for name, exported in zip(("float", "post-training int8", "quantization-aware int8"), exports, strict=True):
    print(f"{name}: accuracy {exported.accuracy:.3f}, {exported.bytes / 1000:.0f} kB, {exported.milliseconds:.2f} ms")

# %% [markdown]
"""
## A program for the device

It needs NumPy, Pillow and LiteRT (`pip install ai-edge-litert`; the interpreter in TensorFlow is the same).
"""

# %%
PROGRAM = """
import sys
import zipfile
import numpy as np
from PIL import Image
try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tensorflow import lite
    Interpreter = lite.Interpreter
file, image = sys.argv[1:]
names = zipfile.ZipFile(file).read("labels.txt").decode().splitlines()
run = Interpreter(file).get_signature_runner("serving_default")
height, width = run.get_input_details()["images"]["shape"][1:3]
pixels = np.asarray(Image.open(image).convert("RGB").resize((width, height), Image.BILINEAR), "uint8")
probabilities = run(images=pixels[None])["probabilities"][0] / 256
print(names[probabilities.argmax()], probabilities.max())
"""
(RUNS / "classify.py").write_text(PROGRAM.strip() + "\n")
sys.argv = ["classify.py", str(exports[-1].path), str(sorted(photographs.glob("test/*/*"))[0])]
runpy.run_path(str(RUNS / "classify.py"))
