# %% [markdown]
"""
# Choosing a student

Which network fits into 150 kB on the device, and which of those learns best from the teacher?
`kd.choose` tries it: it exports every candidate and measures the file with its own runtime, drops what does not fit,
and distills the others by successive halving: the best third is trained again for three times as many epochs, so that
most of the time is spent on promising networks.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/choosing_a_student")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 36
recipe: dict[str, Any] = {"data": "digits", "batch_size": 100, "optimizer": "adam", "learning_rate": 0.003, "shift": 1}
teacher = kd.train(model="resnet8x4", epochs=EPOCHS, run=RUNS / "teacher", **recipe)

# %% [markdown]
"""
## Candidates

A candidate is a model of the zoo with its options. Three of them change what it costs: the family, the width (fewer
weights and less time) and the resolution (less time, the same weights). Without `candidates=` there are 13 of the
families of ResNet, MobileNet and ShuffleNet, `kd.schemes.CANDIDATES`.
"""

# %%
CANDIDATES = ["resnet8", "resnet8(resolution=6)", "mlp(hidden=(64,))", "mlp(hidden=(8,))", "mlp(hidden=(900,))"]
sizes = kd.schemes.measure_candidates(CANDIDATES, form="litert_float16", data="digits", run=RUNS / "choice")
for name, size in sizes.items():
    print(f"{name}: {size.kilobytes:.1f} kB, {size.milliseconds:.3f} ms")

# %% [markdown]
"""
## The choice

The file of `resnet8` is larger than 150 kB at both resolutions, so that both are dropped before any training. The test
images decide between the others. They should not be those on which the student is judged in the end: with your data
pass a part of the training images, such as `test_split="train[45000:]"`. The log says the number of epochs of all
trainings together before they start.
"""

# %%
choice = kd.choose(
    teacher=teacher,
    candidates=CANDIDATES,
    max_kilobytes=150,
    form="litert_float16",
    methods=["kd(temperature=4)"],
    hard_weight=0.1,
    views=4,
    epochs=EPOCHS,
    run=RUNS / "choice",
    **recipe,
)
print("\n".join(choice.lines()))

# %% [markdown]
"""
The table and `choice.png` in the directory of the choice show every network. On the front are those to which no other
is superior in accuracy, size and time, by the accuracies in the table: those of candidates that were eliminated early
are of fewer epochs. The teacher and the chosen network trained without a teacher are there, too; the difference to the
latter is what distillation brings. One seed decides here: train the two or three best with several seeds before you
rely on a small difference (`kd.compare`).

The winner is a run like any other: `choice.student` can be evaluated, exported, or trained further by `kd.distill`.

## Times of another device

The milliseconds above are those of this machine. For a phone, measure the exports there and pass the times:

    python -m experiments.choose --measure_only --form=litert_float16 --data=cifar10 --run=runs/choice
    bash scripts/measure_on_device.sh runs/choice/exports > phone.csv
    python -m experiments.choose --latencies=phone.csv --max_milliseconds=5 --form=litert_float16 --teacher=... \\
        --data=cifar10 --run=runs/choice

Any CSV file with the columns `candidate` and `milliseconds` will do.

## The method as a second question

With `recipes=`, each candidate is trained with each of several recipes, and the halving decides between all pairs:

    recipes={"kd": {"methods": ["kd"], "hard_weight": 0.1}, "dkd": {"methods": ["dkd"]}}
"""

# %%
exports = kd.export(choice.student, ["litert_float16"])
print(exports)
