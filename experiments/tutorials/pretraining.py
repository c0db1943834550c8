# %% [markdown]
"""
# Pretraining: a student of images without labels

Labels are few, images are many. `kd.pretrain` takes a folder of images, a teacher whose features are good, and any
student: the student's features follow the teacher's, without a label. `kd.train` then fine-tunes with the labels that
there are.

The teacher here is a small network that is trained on the spot, so that nothing is downloaded. In practice it is a
foundation model that others have trained on millions of images; the end of this tutorial shows how to pass one.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

from PIL import Image

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/pretraining")
SHORT = bool(os.environ.get("KD_SHORT"))
EPOCHS, PRETRAINING = (1, 1) if SHORT else (20, 60)
teacher = kd.train(model="resnet8", data="digits", shift=1, epochs=EPOCHS, run=RUNS / "teacher")

# %% [markdown]
"""
## A folder of images

The images may lie in folders of any depth and have any format that Pillow reads. A text file with one path in each
line takes the place of the folder. Damaged files are left out, and a warning names them. Images of several sizes need
`image_size=(height, width)`.
"""

# %%
folder = RUNS / "images"
for number, example in enumerate(kd.data.load("digits", "train").examples.as_numpy_iterator()):
    directory = folder / f"part{number // 250}"
    directory.mkdir(parents=True, exist_ok=True)
    Image.fromarray(example["image"][..., 0]).save(directory / f"{number:04}.png")

# %% [markdown]
"""
## Pretrain

The loss is that of LightlyTrain's third version: the student's embedding is as similar to recent images as the
teacher's ("queue"), and the positions of its map are as similar to each other ("tokens"). "dense" is the second
version, for students that become detectors or segmentation networks. Mixup, AdamW, the scaling of the learning rate and
the clipping of gradients are the published ones. All options of `kd.Recipe` can be added.

`labeled=` names images with classes that train nothing: after each tested epoch they say how well the embeddings
separate the classes, by the nearest neighbors and by a linear probe.
"""

# %%
pretrained = kd.pretrain(
    data=folder,
    teacher=teacher,
    student="resnet8",
    batch_size=100,
    learning_rate=5e-3,  # higher than published: these networks are small, and the training is short
    shift=1,
    epochs=PRETRAINING,
    test_every=PRETRAINING if SHORT else 10,
    labeled="digits",
    run=RUNS / "pretrained",
)
print(pretrained.result["last"])

# %% [markdown]
"""
The same call resumes an interrupted run. The run contains the network from images to embeddings, without a classifier
and without the linear layers of the losses.

## Fine-tune

`kd.train` puts a new classifier on it. Trained weights start with a lower learning rate by default.
`freeze_backbone=True` trains only the classifier; a second call can then train the whole network from that run.
`first_layer_rate=0.1` lets the first layer, whose features are general, learn ten times as slowly as the classifier.
Compare with a network that starts anew and sees the same 50 labels.
"""

# %%
few: dict[str, Any] = {
    "data": "digits",
    "train_split": "train[:50]",
    "batch_size": 25,
    "shift": 1,
    "test_every": EPOCHS,
}
tuned = kd.train(model=pretrained, learning_rate=0.01, epochs=EPOCHS, run=RUNS / "tuned", **few)
anew = kd.train(model="resnet8", epochs=EPOCHS, run=RUNS / "anew", **few)
for name, run in {"pretrained": tuned, "anew": anew}.items():
    print(f"{name}: accuracy {run.result['last']['val_accuracy']:.3f} with 50 labels")

# %% [markdown]
"""
A detector or a segmentation network takes the layers that it shares with the student from the file of the run:
`kd.train(model="detector/resnet8", weights=RUNS / "pretrained" / "model.keras", data=...)`.

## A foundation model as teacher

KerasHub has vision transformers with weights (`pip install "kd_keras[hub]"`): ViT, DeiT, DINOv2, DINOv3, and the image
encoders of CLIP and SigLIP. `teacher="hub/dinov2_small"` downloads one when it is first used, with the normalization
that it was trained with. The tap "cls" is the class token, "tokens" is the map of the patches, without class and
register tokens; it is also the last stage, which the methods "tokens" and "dense" read by default.

```python
kd.pretrain(
    data="images/",
    teacher="hub/dinov2_small",
    student="applications/ResNet50",
    methods=["queue(teacher_tap='cls')", "tokens"],
    image_size=(224, 224),
    flip=True,
    resized_crop=True,
    run="runs/pretrained",
)
```

A teacher that is slow, or no TensorFlow graph, is recorded once: `kd.record(teacher="teacher.onnx(tap='embedding')",
unlabeled=True, data="images/", methods=["queue"], mixup=1.0, batch_size=..., views=..., output="recording")`, then
`kd.pretrain(recording="recording", methods=["queue"], ...)` with the same data, batch size and augmentation.

In the shell: `python -m experiments.pretrain --data=images --teacher=RUN --student=resnet20 --run=runs/pretrained`,
then `python -m experiments.train --model=runs/pretrained --data=LABELED --run=runs/student`.
"""
