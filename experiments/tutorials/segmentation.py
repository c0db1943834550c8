# %% [markdown]
"""
# Segmentation

From a folder of images and masks to a distilled network that gives each pixel a class, and to a LiteRT file.
"""

# %%
import json
import logging
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kd_keras as kd
from kd_keras.tasks.segmentation.export import load_class_maps

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/segmentation")
SHORT = bool(os.environ.get("KD_SHORT"))
EPOCHS, COUNT, TEACHER = (1, 8, "resnet8") if SHORT else (40, 200, "resnet14")

# %% [markdown]
"""
## Images and masks

Set `KD_IMAGES` to your own folder: `train/images/`, `train/masks/`, `test/images/` and `test/masks/`. A mask is a PNG
with the name of its image, whose pixels are numbers of classes; `classes.json` lists the names of the classes, or maps
each name to its number or color in the masks. Pixels of the value 255 belong to no class here. Without a folder, the
tutorial draws pictures of disks and squares, 64 pixels wide, with their masks.
"""

# %%
NAMES, IGNORED = ("ground", "disk", "square"), 255


def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture `(64, 64, 3)` of a disk and a square, and its mask `(64, 64, 1)`; edges have no class."""
    picture, mask = random.uniform(0, 100, 3) * np.ones((64, 64, 1)), np.zeros((64, 64, 1))
    y, x = np.mgrid[:64, :64]
    for number, left in enumerate(random.permutation([0, 32]), start=1):
        radius, middle = random.uniform(6, 14), (random.uniform(16, 48), left + 16)
        distances = np.stack([y - middle[0], x - middle[1]])
        distance = np.hypot(*distances) if number == 1 else np.abs(distances).max(0)
        picture[distance <= radius] = random.uniform(150, 255, 3)
        mask[distance <= radius] = number
        mask[np.abs(distance - radius) < 0.5] = IGNORED
    picture += random.normal(0, 8, picture.shape)
    return picture.clip(0, 255), mask


folder = Path(os.environ.get("KD_IMAGES", RUNS / "images"))
if not folder.exists():
    random = np.random.default_rng(0)
    for split, count in (("train", COUNT), ("test", COUNT // 2)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for image in range(count):
            for kind, pixels in zip(("images", "masks"), draw(random), strict=True):
                keras.utils.save_img(folder / split / kind / f"{image:03}.png", pixels, scale=False)
    (folder / "classes.json").write_text(json.dumps(NAMES))

# %% [markdown]
"""
## Teacher and baseline

`segmenter/<network>` puts the light head LR-ASPP on the stages of any network of the zoo. With
`head='deeplab_v3_plus'` it has the larger head of DeepLabV3+, which looks around each place of the coarse map at
several distances and joins it with an early stage; the teacher has it here. `hub/SegFormerImageSegmenter`,
`hub/DeepLabV3ImageSegmenter` and their presets are those of KerasHub. Masks follow the random scale, crop and flip. The
mean IoU over all test images decides which epoch is the best one. A dataset of TFDS whose mask does not name its
classes needs `class_names=`.
"""

# %%
recipe: dict[str, Any] = {
    "data": str(folder),
    "ignored": (IGNORED,),
    "image_size": (64, 64),
    "batch_size": 8,
    "epochs": EPOCHS,
    "test_every": max(1, EPOCHS // 4),
    "optimizer": "adam",
    "learning_rate": 0.003,
    "scale": (0.5, 2.0),
    "flip": True,
}
STUDENT = "segmenter/resnet8(width=16)"
teacher = kd.train(model=f"segmenter/{TEACHER}(head='deeplab_v3_plus', width=64)", run=RUNS / "teacher", **recipe)
baseline = kd.train(model=STUDENT, run=RUNS / "baseline", **recipe)

# %% [markdown]
"""
## The distilled student

`KD` compares the class probabilities at each position, and `CWD` the positions at which a class is likely. Both read
`logits_map`, the logits before they are resized to the size of the image. The settings below were published for
segmentation; the defaults are those of classification and detection. In the shell:

    python -m experiments.distill --teacher=RUN --student="segmenter/resnet8(width=16)" --data=FOLDER --ignored=255 \\
        --method="kd(student_tap='logits_map', teacher_tap='logits_map', temperature=1, weight=1)" --hard_weight=1 \\
        --method="cwd(student_tap='logits_map', teacher_tap='logits_map', temperature=4, weight=3)" \\
        --scale=0.5,2.0 --run=runs/student
"""

# %%
TAPS: dict[str, Any] = {"student_tap": "logits_map", "teacher_tap": "logits_map"}
METHODS = [kd.methods.KD(temperature=1.0, weight=1.0, **TAPS), kd.methods.CWD(temperature=4.0, weight=3.0, **TAPS)]
student = kd.distill(teacher=teacher, student=STUDENT, methods=METHODS, hard_weight=1.0, run=RUNS / "student", **recipe)

# %% [markdown]
"""
## Side by side

Mean IoU, pixel accuracy, boundary F, agreement (the fraction of pixels to which student and teacher give the same
class), size and time. With `requirements=` the last model is judged; `report=` writes a page with masks on images.
"""

# %%
page = None if SHORT else RUNS / "page.html"
print(kd.evaluate([baseline, student], teacher=teacher, requirements={"max_miou_drop": 0.02}, report=page))

# %% [markdown]
"""
## A LiteRT file

It takes one uint8 image and returns the class of each pixel. The export is compared with the Keras model on the test
images, and must give the same class to 99.9 % of the pixels.
"""

# %%
(exported,) = kd.export(student, ["litert"])
print(f"{exported.path.name}: {exported.bytes / 1000:.0f} kB, {exported.milliseconds:.2f} ms")
picture = kd.data.read_image(sorted((folder / "test" / "images").iterdir())[0])
classes, counts = np.unique(load_class_maps(exported.path)(picture[None]), return_counts=True)
print({NAMES[number]: int(count) for number, count in zip(classes, counts, strict=True)}, "pixels")

# %% [markdown]
"""
## Masks of a folder

`predict` runs the student or an exported file on a folder. It writes a mask of the original size for each image, whose
pixels are the numbers of the classes from 0 in the order of their names, also if the masks for training have other
numbers or colors in `classes.json`; the contact sheet shows them with a key. In the shell:

    python -m experiments.predict --model=runs/student --images=FOLDER --masks=masks --output=shares.csv
"""

# %%
masks = kd.predict(exported.path, folder / "test" / "images", masks=RUNS / "masks", sheet=RUNS / "sheet.png")
print(masks.predictions[0])
