# %% [markdown]
"""
# Schemes made of several trainings

Some published ways to teach take more than one training, or no teacher at all. Each is a function of `kd.schemes` on
top of `kd.train` and `kd.distill`, and in the shell `python -m experiments.scheme --scheme=...`. A scheme is a
directory of ordinary runs; the same call resumes it at the point where it was interrupted.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/schemes")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 40
recipe: dict[str, Any] = {"data": "digits", "batch_size": 100, "optimizer": "adam", "learning_rate": 0.003, "shift": 1}
recipe |= {"epochs": EPOCHS, "test_every": EPOCHS}
STUDENT = "mlp(hidden=(16,))"
outcomes: dict[str, Any] = {}
teacher = kd.train(model="mlp(hidden=(200, 200))", run=RUNS / "teacher", **recipe)
kd_recipe: dict[str, Any] = {"methods": ["kd(temperature=4)"], "hard_weight": 0.1}

# %% [markdown]
"""
## Teacher assistants

If the student is much smaller than its teacher, networks of sizes in between may teach each other down to it (TAKD).
Without `assistants=`, networks of the student's family are chosen, each with half the parameters of the one before.
With `dense=True` every network learns from all networks before it.
"""

# %%
outcomes["assistant"] = kd.schemes.distill_by_assistants(
    teacher=teacher, student=STUDENT, assistants=["mlp(hidden=(64,))"], run=RUNS / "assistants", **kd_recipe, **recipe
)

# %% [markdown]
"""
## Without a larger network

* Born-again networks: generations of one architecture, each taught by the one before; the ensemble of generations is
  evaluated, too.
* Deep mutual learning: peers train together in one step, each from the predictions of the others, with or without a
  teacher. `peers` in the result has the accuracy of each.
* A network that teaches itself: label smoothing as a virtual teacher (Tf-KD), the student of the previous epoch
  (PS-KD), or a moving average of its weights (mean teacher).
"""

# %%
outcomes["generations"] = kd.schemes.train_generations(
    student=STUDENT, generations=1, run=RUNS / "generations", **recipe
)
outcomes["peers"] = kd.schemes.train_peers(peers=[STUDENT, "mlp(hidden=(24,))"], run=RUNS / "peers", **recipe)
outcomes["virtual teacher"] = kd.schemes.train_with_virtual_teacher(student=STUDENT, run=RUNS / "virtual", **recipe)
outcomes["past student"] = kd.schemes.train_with_past_student(student=STUDENT, run=RUNS / "past", **recipe)
outcomes["mean teacher"] = kd.schemes.train_with_mean_teacher(student=STUDENT, run=RUNS / "mean", **recipe)

# %% [markdown]
"""
## Several teachers

A list of teachers is an ensemble. `teacher_weights` weights them as a whole, by class, or with `"cross_entropy"` for
each example by how well they predict its label. A feature method may read one of them by its number, such as
`fitnet(teacher_tap="1:embedding")`.
"""

# %%
second = kd.train(model="mlp(hidden=(100, 100, 100))", run=RUNS / "second_teacher", **recipe)
ensemble = kd.distill(
    teacher=[teacher, second],
    teacher_weights="cross_entropy",
    student=STUDENT,
    run=RUNS / "two_teachers",
    **kd_recipe,
    **recipe,
)

# %% [markdown]
"""
## Labels by a teacher

`kd.schemes.label_images` (`experiments.label`) lets a teacher label further images, and writes those of which it is
confident and the labeled ones as a dataset that every function reads. `per_class=` balances the classes.
"""

# %%
labels = kd.schemes.label_images(
    teacher=teacher,
    data="digits",
    train_split="train[:300]",
    unlabeled_split="train[300:]",
    threshold=0.5 if os.environ.get("KD_SHORT") else 0.9,
    name="digits_labeled",
    output=RUNS / "datasets",
)
print("\n".join(labels.lines()))
written = {**recipe, "data": "digits_labeled", "data_dir": str(RUNS / "datasets")}
pseudo = kd.train(model=STUDENT, train_split="labeled+pseudo", test_split="test", run=RUNS / "pseudo", **written)

# %% [markdown]
"""
## Patient and consistent teaching

FunMatch is a setting and not a scheme: the student follows the teacher's predictions on strong, mixed views, sees no
label, and trains for a very long time (`experiments/configs/funmatch.flags`). DOT is an optimizer:
`kd.distill(optimizer="dot")` gives the gradient of the distillation a larger momentum than that of the labels.

## Do they help?

Compare them with plain KD of the same budget, as a scheme divides it among all networks that it trains.
experiments/results/schemes_mnist.md has such tables, with the script that made them.
"""

# %%
plain = kd.distill(teacher=teacher, student=STUDENT, run=RUNS / "plain", **kd_recipe, **recipe)
for name, outcome in outcomes.items():
    print(f"{name}:", *outcome.lines(), sep="\n  ")
for name, run in {"plain KD": plain, "two teachers": ensemble, "pseudo-labels": pseudo}.items():
    print(f"{name}: accuracy {run.result['last']['val_accuracy']:.4f}")
