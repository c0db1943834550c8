# %% [markdown]
"""
# A first student

You will train a small image classifier in two ways for the same number of epochs: on labels only, and with a teacher,
whose predictions take additional time. You then compare both and export the distilled one. It takes a few minutes on
two CPU cores.

The images are 1,797 handwritten digits of 8x8 pixels that come with scikit-learn, 1,000 of them for training, so
nothing is downloaded.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/first_student")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 100

# %% [markdown]
"""
## The teacher

`kd.train` takes the name of a network, the name of a dataset and a directory for the run. All other arguments have
defaults; `kd.Recipe` lists them. The function returns a `Run`, an opened directory that holds the network, its
metrics and its settings. If the run is already complete, `kd.train` returns it at once; if it was interrupted, it
resumes.

`mixup=1` mixes pairs of images. A teacher that has seen mixed images gives softer predictions, which say more about
how classes resemble each other.
"""

# %%
recipe: dict[str, Any] = {"data": "digits", "batch_size": 100, "optimizer": "adam", "learning_rate": 0.01}
teacher = kd.train(model="resnet8", epochs=max(2, EPOCHS // 2), mixup=1.0, run=RUNS / "teacher", **recipe)
print(teacher.result["last"])

# %% [markdown]
"""
## The baseline

A distilled student must be compared with the same student, trained without distillation on the same images for as
many epochs, mixed like those of the distillation below. Without this baseline the gain by the teacher is not
known.
"""

# %%
student_name = "mlp(hidden=(64,))"
baseline = kd.train(model=student_name, epochs=EPOCHS, mixup=1.0, run=RUNS / "baseline", **recipe)

# %% [markdown]
"""
## The distilled student

`KD` is Hinton's method: the student learns the teacher's class probabilities, softened by a temperature. The loss of
the step is

    hard_weight * (cross-entropy with the labels) + weight * KD(student logits, teacher logits)

If `hard_weight` is not given, it is the one that the method was published with, 0.1 for KD.

Teacher and student see the same view of every image, mixed images included. The labels of mixed images are mixed too,
as they are for the baseline, so that the teacher is the only difference between the two trainings.
"""

# %%
kd_student = kd.distill(
    teacher=teacher,
    student=student_name,
    methods=[kd.methods.KD(temperature=4.0, weight=0.9)],
    epochs=EPOCHS,
    mixup=1.0,
    run=RUNS / "kd",
    **recipe,
)
print(kd_student.result["last"])

# %% [markdown]
"""
## Compare

`kd.evaluate` measures all networks on the same test images. Accuracy comes with a 95 % bootstrap interval; the
difference from the teacher is paired, image by image, and tested with McNemar's test. On 797 test images one image is
0.125 points: differences below about one point need several seeds before you believe them (see `kd.compare`).
"""

# %%
print(kd.evaluate([baseline, kd_student], teacher=teacher))

# %% [markdown]
"""
## Export

An exported model takes raw uint8 images: the network scales and normalizes them in its first layer. Each file is
loaded again by its own runtime and compared with the Keras network on the test images; a file that differs by more
than the tolerance is rejected.
"""

# %%
for exported in kd.export(kd_student, formats=["saved_model", "litert"]):
    print(exported)

# %% [markdown]
"""
## With your own network, data and training loop

The functions above are made of parts that you can use directly. A `kd.Distiller` is a `keras.Model`: `fit`,
`evaluate`, callbacks and sample weights work as they do on every Keras model. The data may be NumPy arrays, a
`tf.data.Dataset` or `kd.data`'s pipeline. The student below is a plain Keras model; the only convention is that
images are pixel values from 0 to 255, so the model scales them itself.
"""

# %%
digits = kd.data.load("digits", "train")
train = kd.data.training(digits, batch_size=100, epochs=2)
test = kd.data.evaluation(kd.data.load("digits", "test"), batch_size=100)

own_student = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10),
    ]
)
distiller = kd.Distiller(student=own_student, teacher=teacher.model(), methods=[kd.methods.KD()])
distiller.compile(
    optimizer=keras.optimizers.Adam(0.01),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
distiller.fit(train, validation_data=test, epochs=2, steps_per_epoch=10, verbose=2)

# %% [markdown]
"""
`distiller.evaluate` runs only the student, and its `loss` is the loss on the labels. The student is an ordinary
model that knows nothing of the teacher: save it, or call Keras's `export`.
"""

# %%
own_student.save(RUNS / "own_student.keras")
own_student.export(RUNS / "own_student_saved_model", verbose=False)
print(tf.saved_model.contains_saved_model(RUNS / "own_student_saved_model"))

# %% [markdown]
"""
Continue with [choosing a method](choosing_a_method.py).
"""
