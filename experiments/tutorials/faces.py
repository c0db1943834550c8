# %% [markdown]
"""
# Faces

From folders of people to a distilled network that says whether two photographs show the same person.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kd_keras as kd
from kd_keras.tasks.faces.export import load_embedder

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/faces")
SHORT = bool(os.environ.get("KD_SHORT"))
EPOCHS, PEOPLE, STRANGERS, TEACHER = (1, 6, 4, "resnet8") if SHORT else (40, 60, 20, "resnet14")

# %% [markdown]
"""
## People

Set `KD_IMAGES` to your own folder: `train/<person>/` and `test/<person>/`, with other people in `test` than in `train`.
Faces must be cropped in one way; `kd_keras.data.align_folder` aligns them by five landmarks. Without a folder, the
tutorial draws faces of ovals with eyes and mouths, 32 pixels wide.
"""

# %%


def draw(random: np.random.Generator, person: np.ndarray) -> np.ndarray:
    """A face `(32, 32, 1)` with the sizes of a person, 8 numbers from 0 to 1, moved and under some light."""
    y, x = np.mgrid[:32, :32] - 15.5 - random.uniform(-2, 2, (2, 1, 1))
    face = 60.0 * np.ones((32, 32)) + 120 * ((x / (9 + 4 * person[0])) ** 2 + (y / (11 + 4 * person[1])) ** 2 < 1)
    for side in (-1, 1):
        eye = np.hypot(x - side * (3 + 4 * person[2]), y + 2 + 4 * person[3]) < 1 + 2 * person[4]
        face[eye] = 20
    face[(np.abs(x) < 2 + 5 * person[5]) & (np.abs(y - 5 - 3 * person[6]) < 0.6 + 1.5 * person[7])] = 90
    return (face * random.uniform(0.8, 1.2) + random.normal(0, 8, face.shape)).clip(0, 255)[..., None]


folder = Path(os.environ.get("KD_IMAGES", RUNS / "images"))
if not folder.exists():
    random = np.random.default_rng(0)
    for split, count in (("train", PEOPLE), ("test", STRANGERS)):
        for number in range(count):
            directory, person = folder / split / f"{split}{number:02}", random.uniform(0, 1, 8)
            directory.mkdir(parents=True)
            for image in range(4 if SHORT else 10):
                keras.utils.save_img(directory / f"{image}.png", draw(random, person), scale=False)

# %% [markdown]
"""
## Teacher and baseline

`embedder/<network>` gives any network of the zoo an embedding, and a margin softmax over the people of the training,
which is not exported. The same folder could be a classification; `task="faces"` says that its classes are people. All
pairs of test images are verified every `test_every` epochs; the accuracy decides which of these epochs is the best one.
If the splits of a dataset share people, `train_split="train+test/identities[:30]"` and
`test_split="train+test/identities[30:]"` separate them.
"""

# %%
recipe: dict[str, Any] = {
    "data": str(folder),
    "task": "faces",
    "batch_size": 32,
    "epochs": EPOCHS,
    "test_every": max(1, EPOCHS // 4),
    "optimizer": "adam",
    "learning_rate": 0.003,
    "flip": True,
}
STUDENT = "embedder/resnet8(dimension=32, scale=16.0)"
teacher = kd.train(model=f"embedder/{TEACHER}(dimension=64, scale=16.0)", run=RUNS / "teacher", **recipe)
baseline = kd.train(model=STUDENT, run=RUNS / "baseline", **recipe)

# %% [markdown]
"""
## The distilled student

`Embedding` pulls the student's embedding toward the teacher's, through a linear adapter because their dimensions
differ. It needs no labels. Methods that compare images of one person, such as `"ekd"`, need several of them in each
batch: `images_per_identity=4`. In the shell:

    python -m experiments.distill --teacher=RUN --student="embedder/resnet8(dimension=32)" --data=FOLDER --task=faces \\
        --method=embedding --run=runs/student
"""

# %%
student = kd.distill(teacher=teacher, student=STUDENT, methods=["embedding"], run=RUNS / "student", **recipe)

# %% [markdown]
"""
## Side by side

Verification accuracy and TAR at FAR with intervals over people, the rank correlation of similarities with the teacher,
size and time. `report=` writes a page with ROC curves and the hardest pairs as images. All pairs of the test images are
verified, or with `pairs="pairs.txt"` those of a file in the format of LFW.
"""

# %%
result = kd.evaluate([baseline, student], teacher=teacher, report=None if SHORT else RUNS / "page.html")
print(result)

# %% [markdown]
"""
## A LiteRT file

It takes one uint8 image and returns an embedding of length 1. Two photographs show the same person if the cosine of
their embeddings is at least the threshold of the evaluation. In the shell: `python -m scripts.same_person MODEL IMAGE
IMAGE THRESHOLD`.
"""

# %%
(exported,) = kd.export(student, ["litert"])
print(f"{exported.path.name}: {exported.bytes / 1000:.0f} kB, {exported.milliseconds:.2f} ms")
threshold = result.findings[str(student.path)]["threshold"]
first, *_, last = sorted((folder / "test").iterdir())
photographs = sorted(first.iterdir())[:2] + sorted(last.iterdir())[:1]
embed, image_shape = load_embedder(exported.path)
embeddings = embed(np.stack([kd.data.read_image(photograph) for photograph in photographs]))
for photograph, embedding in zip(photographs[1:], embeddings[1:], strict=True):
    similarity = float(embeddings[0] @ embedding)
    text = "the same person" if similarity >= threshold else "different persons"
    print(f"{photographs[0].name} and {photograph}: {text} (similarity {similarity:.3f}, threshold {threshold:.3f})")
