# %% [markdown]
"""
# A detector

From images with Pascal VOC labels to a distilled detector, to a LiteRT file, and to a program that draws boxes on a
JPEG with LiteRT's interpreter alone.
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
RUNS = Path("runs/tutorials/detection")
SHORT = bool(os.environ.get("KD_SHORT"))
EPOCHS, COUNT, TEACHER = (1, 8, "resnet8") if SHORT else (40, 200, "resnet14")

# %% [markdown]
"""
## Images with boxes

Set `KD_IMAGES` to your own folder: Pascal VOC (`JPEGImages/`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`),
COCO (`annotations/instances_<split>.json`) or YOLO (`images/<split>/`, `labels/<split>/*.txt` and `data.yaml` or
`classes.txt` with the names of the classes) with the splits "train" and "test". The task is inferred from the labels.
Without a folder, the tutorial draws pictures of bars, disks and squares, 64 pixels wide, with their boxes.
"""

# %%
KINDS = ("bar", "disk", "square")
SIZE = "<size><width>64</width><height>64</height><depth>3</depth></size>"
OBJECT = "<object><name>{}</name><bndbox>{}</bndbox></object>"


def draw(random: np.random.Generator) -> tuple[np.ndarray, str]:
    """A picture `(64, 64, 3)` of one or two objects, and their VOC labels."""
    picture, label = random.uniform(0, 100, 3) * np.ones((64, 64, 1)), ""
    for left in random.permutation([0, 32])[: random.integers(1, 3)]:
        kind, (height, width) = random.choice(KINDS), random.integers(12, 28, 2)
        height = {"bar": 8, "disk": width, "square": width}[str(kind)]
        top, start = random.integers(0, 64 - height), left + random.integers(0, 32 - width)
        y, x = (np.mgrid[:height, :width] + 0.5) / [[[height]], [[width]]] - 0.5
        inside = (x**2 + y**2 < 0.25) if kind == "disk" else np.ones_like(x, bool)
        area = picture[top : top + height, start : start + width]
        area[inside] = random.uniform(150, 255, 3)
        corners = {"xmin": start, "ymin": top, "xmax": start + width, "ymax": top + height}
        label += OBJECT.format(kind, "".join(f"<{name}>{value}</{name}>" for name, value in corners.items()))
    picture += random.normal(0, 8, picture.shape)
    return np.clip(picture, 0, 255).astype("uint8"), label


folder = Path(os.environ.get("KD_IMAGES", RUNS / "images"))
if not folder.exists():
    random = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", COUNT), ("test", COUNT // 2)):
        stems = [f"{split}{number}" for number in range(count)]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            pixels, label = draw(random)
            keras.utils.save_img(folder / "JPEGImages" / f"{stem}.jpg", pixels, scale=False)
            label = f"<annotation><filename>{stem}.jpg</filename>{SIZE}{label}</annotation>"
            (folder / "Annotations" / f"{stem}.xml").write_text(label)

# %% [markdown]
"""
## Teacher and baseline

`detector/<network>` is a detector on the stages of any network of the zoo. For small images choose the levels 2 and 3
of the pyramid (strides 4 and 8) and anchors of two strides; for images of 320 pixels and more the defaults fit. Boxes
follow the augmentation. The average precision (AP) on the test images decides which epoch is the best one.
"""

# %%
recipe: dict[str, Any] = {
    "data": str(folder),
    "image_size": (64, 64),
    "batch_size": 8,
    "epochs": EPOCHS,
    "test_every": max(1, EPOCHS // 4),
    "optimizer": "adam",
    "learning_rate": 0.003,
    "flip": True,
}
HEADS = "pyramid=(2, 3), anchor_scale=2.0"
STUDENT = f"detector/resnet8({HEADS}, width=16, depth=1)"
teacher = kd.train(model=f"detector/{TEACHER}({HEADS}, width=48)", run=RUNS / "teacher", **recipe)
baseline = kd.train(model=STUDENT, run=RUNS / "baseline", **recipe)

# %% [markdown]
"""
## The distilled student

`BCKD` follows the teacher's class scores and boxes, and needs equal anchors: the same image size, pyramid and
anchor_scale. `PKD` follows the maps of the pyramid, whatever the networks are. In the shell:

    python -m experiments.distill --teacher=RUN --student="detector/resnet8(...)" --data=FOLDER --method=bckd \\
        --method="pkd(student_tap='pyramid_p*', teacher_tap='pyramid_p*')" --run=runs/student

A RetinaNet of KerasHub is a teacher too, or a student: `hub/retinanet_resnet50_fpn_coco` as the name of a model, or
`kd.models.hub_detector(network, (H, W, 3))` for one that you trained. It learns in `kd.train` as a detector built here
does, because it gets the loss and the initial bias of the paper. For `BCKD` its student needs its anchors:
`detector/...(pyramid=(3, 4, 5, 6, 7), anchors="whole")`. D-FINE has no anchors and cannot be used here.
"""

# %%
methods = ["bckd", "pkd(student_tap='pyramid_p*', teacher_tap='pyramid_p*')"]
student = kd.distill(teacher=teacher, student=STUDENT, methods=methods, run=RUNS / "student", **recipe)

# %% [markdown]
"""
## Side by side

AP by COCO's rules (`pip install pycocotools`), agreement (the AP with the teacher's boxes as objects), size and time.
With `requirements=` the last model is judged: `{"max_ap_drop": 0.02}` accepts a loss of two percentage points.
"""

# %%
print(kd.evaluate([baseline, student], teacher=teacher, requirements={"max_ap_drop": 0.02}))

# %% [markdown]
"""
## A LiteRT file

It takes one uint8 image and returns boxes, scores and classes after non-maximum suppression. The export is compared
with the Keras model on the test images.
"""

# %%
# In the short form, which tests run, the student is hardly trained: all scores are nearly equal, and rounding decides
# which boxes win. The default tolerance of exports is tested in tests/runs/test_detectors.py.
tolerance = {"score": 1.0, "pixels": 1e9, "matched": 0.0} if SHORT else None
(exported,) = kd.export(student, ["litert"], tolerance=tolerance)
print(f"{exported.path.name}: {exported.bytes / 1000:.0f} kB, {exported.milliseconds:.2f} ms")

# %% [markdown]
"""
## Boxes in photographs

`predict` runs the student or an exported file on a photograph or a folder. The boxes are in pixels of the original
images, whatever their size is, and the contact sheet shows them. In the shell:

    python -m experiments.predict --model=runs/student --images=FOLDER --output=boxes.csv --sheet=boxes.png
"""

# %%
photograph = next(path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".png"))
print(kd.predict(exported.path, photograph, score=0.5, sheet=RUNS / "sheet.png").predictions[0])

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
from PIL import Image, ImageDraw
try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tensorflow import lite
    Interpreter = lite.Interpreter
file, source, target = sys.argv[1:]
names = zipfile.ZipFile(file).read("labels.txt").decode().splitlines()
run = Interpreter(file).get_signature_runner("serving_default")
height, width = run.get_input_details()["images"]["shape"][1:3]
image = Image.open(source).convert("RGB")
detected = run(images=np.asarray(image.resize((width, height), Image.BILINEAR), "uint8")[None])
draw = ImageDraw.Draw(image)
for box, score, number in zip(detected["boxes"][0], detected["scores"][0], detected["classes"][0]):
    if score > 0.5:
        draw.rectangle((box.reshape(2, 2) * [image.width / width, image.height / height]).flatten().tolist())
        print(names[number], round(float(score), 3), box.round(1).tolist())
image.save(target)
"""
(RUNS / "detect.py").write_text(PROGRAM.strip() + "\n")
sys.argv = ["detect.py", str(exported.path), str(photograph), str(RUNS / "boxes.jpg")]
runpy.run_path(str(RUNS / "detect.py"))
