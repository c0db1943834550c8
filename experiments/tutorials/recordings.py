# %% [markdown]
"""
# Recordings: run the teacher once

A recording holds a teacher's outputs on disk. Students that train from it do not need the teacher at all, so an epoch
costs what it costs without distillation.

## When a recording pays

A recording of V views costs V passes of the teacher over the images. It saves one pass in every epoch of every
student that trains from it. So it pays once those epochs together are more than V: nearly always from the second
student on (another seed, another method on the same taps, a search for hyper-parameters); not for one student that
should see a new view of each image in every epoch. The larger the teacher is compared with the student, the more an
epoch saves (experiments/results/recording.md has measurements).

Logits take tens of bytes per example and view. Feature maps take tens of kilobytes; reading them can cost more than a
small teacher does. A student that sees fewer views than epochs sees less variety.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import keras

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/recordings")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 30
images: dict[str, Any] = {"data": "digits", "batch_size": 100, "shift": 1}  # what a recording depends on
training: dict[str, Any] = {"optimizer": "adam", "learning_rate": 0.01, "epochs": EPOCHS}
teacher = kd.train(model="resnet8", run=RUNS / "teacher", **images, **training)

# %% [markdown]
"""
## Record

A view of an image is a function of the seed, the epoch and the image, so a training can be shown the very views that
were recorded. Epoch e shows view e mod `views`.
"""

# %%
recording = kd.record(teacher=teacher, views=4, output=RUNS / "recording", **images)
print(recording)

# %% [markdown]
"""
`logits="float16"` or `logits="top-5"` keep less of the logits and print the error; `methods=[...]` records the taps
that these methods read. In the shell, `python -m experiments.record --shard=0/4` to `--shard=3/4` share the work.

## Train from it

The recording takes the place of the teacher. Images, augmentation, seed and taps must be those of the recording; if
something differs, the error says what.
"""

# %%
student = kd.distill(
    recording=RUNS / "recording",
    student="mlp(hidden=(64,))",
    methods=[kd.methods.KD(temperature=4.0)],
    run=RUNS / "student",
    **images,
    **training,
)
print(student.result["last"])

# %% [markdown]
"""
## With a Distiller of your own

`kd.Teacher.recorded(directory)` takes the place of a live teacher, and `recorded=` joins the outputs to the batches.
With mixup or CutMix a view depends on its batch; then `batch_size` must be the recorded one.
"""

# %%
recorded = kd.Teacher.recorded(RUNS / "recording")
batches = kd.data.training(
    kd.data.load("digits", "train"),
    batch_size=100,
    augmentation=kd.data.Augmentation(shift=1),
    recorded=recorded.recording,
    epochs=2,
)
distiller = kd.Distiller(
    student=kd.models.build("mlp", (8, 8, 1), 10, hidden=(32,)), teacher=recorded, methods=[kd.methods.KD()]
)
distiller.compile(optimizer="adam", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
distiller.fit(batches, epochs=2, steps_per_epoch=10, verbose=2)
