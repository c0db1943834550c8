# %% [markdown]
"""
# Choosing a method

The methods in `kd.methods` are one published loss per file. This tutorial shows the families, where methods
read the two networks, how their weights work, how to combine them, and how to find out which one helps on your data.
The list of methods with papers and defaults is in experiments/results/method_list.md.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/choosing_a_method")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 40
recipe: dict[str, Any] = {"data": "digits", "batch_size": 100, "optimizer": "adam", "learning_rate": 0.003, "shift": 1}
teacher = kd.train(model="resnet8x4", epochs=max(2, EPOCHS // 2), run=RUNS / "teacher", **recipe)

# %% [markdown]
"""
## Families

| family | what the student learns | needs | try first |
| --- | --- | --- | --- |
| logits | the teacher's class probabilities | the same classes | `KD`, `DKD`, `DIST` |
| features | the teacher's feature maps | pairs of maps; adapters bridge the widths | `FitNet`, `ReviewKD`, `SimKD` |
| relations | distances and similarities between the examples of a batch | large enough batches | `RKD`, `CRD`, `SP` |
| embeddings | the teacher's embeddings, as of faces | networks with an embedding | `Embedding`, `Angular`, `EKD` |
| dense | maps of detectors and segmentation networks | dense predictions | `CWD`, `MGD`, `PKD` |
| label-free | features, without any labels | only images | `Dense`, `Queue`, `Tokens` |
| self | its own deeper classifiers, or its peers | a student with exits, or peers; no teacher | `BYOT`, `DML` |

A feature method can do worse than the baseline: published tables show AT, FT, NST and FitNet below it if MobileNetV2
learns from VGG. Always train the baseline too.

## Taps: where a method reads a network

* `"logits"`: before a final softmax. `"embedding"`: what the classifier reads.
* `"stages"`: the maps of the layers `stage1_out`, `stage2_out`, ..., which the zoo has where published tables tap; of
  another network the last map of each resolution. `"stages[1]"` is one of them, `"stages:pre"` before the activation.
* a layer's path, such as `"backbone/conv4_block6_out"`.

Every method has default taps. Most methods accept `student_tap=` and `teacher_tap=`; `experiments.methods` lists the
taps. What does not fit is reported at construction, with both layers and both shapes.
"""

# %%
print(kd.methods.FitNet().taps)
print(kd.methods.AT(student_tap=("stages[0]", "stages[2]"), teacher_tap=("stages[0]", "stages[2]")).taps)

# %% [markdown]
"""
## Weights

The loss is `hard_weight * hard loss + sum of weight * method`. The defaults are the published weights, which belong
to the published setting (usually CIFAR-100, batches of 64, 240 epochs). For other settings expect to tune them.

A weight may follow the epochs: `{0: 1.0, 30: 0.0}` holds from the named epoch on. The same works for `hard_weight`.
So methods that were published in two stages, such as AB and FSP, run in one training.
"""

# %%
two_stages = kd.distill(
    teacher=teacher,
    student="resnet8",
    methods=[kd.methods.AB(weight={0: 1.0, 1: 0.0})],
    hard_weight={0: 0.0, 1: 1.0},
    epochs=EPOCHS,
    run=RUNS / "two_stages",
    **recipe,
)

# %% [markdown]
"""
## Combining methods

Give several methods. They share one forward pass of the student and one of the teacher. `LSKD` standardizes the
logits for another method, its host.
"""

# %%
combined = kd.distill(
    teacher=teacher,
    student="resnet8",
    methods=[kd.methods.KD(temperature=4.0, weight=0.9), kd.methods.FitNet(weight=10.0)],
    hard_weight=0.1,
    epochs=EPOCHS,
    run=RUNS / "kd_fitnet",
    **recipe,
)
standardized = kd.methods.LSKD(host=kd.methods.DKD(beta=2.0))
print(standardized.name, combined.result["last"])

# %% [markdown]
"""
Some methods change the student. `SimKD` gives it the teacher's classifier behind an adapter; both count as the
student's parameters and are exported with it. Called through `kd.distill` this happens by itself; with a `Distiller`
of your own, use `kd.methods.simkd_student(student, teacher)` first.

## Comparing on your data

Run every candidate with several seeds and look at the interval of its gain over the baseline. In the shell one
command does it, shares the work between machines (`--shard=0/2`) and resumes if interrupted:

    python -m experiments.compare --sweep=runs/compare --pair=runs/teacher:resnet8 --seeds=0,1,2 \\
        --budget=budget.flags --output=runs/compare \\
        --recipe="kd: --method='kd(temperature=4, weight=0.9)' --hard_weight=0.1" --recipe="dkd: --method=dkd"

In Python, `kd.compare` tabulates finished runs; runs that differ only in their seed form one row.
"""

# %%
seeds = range(1) if os.environ.get("KD_SHORT") else range(3)
baselines = [kd.train(model="resnet8", epochs=EPOCHS, seed=s, run=RUNS / f"baseline{s}", **recipe) for s in seeds]
students = [
    kd.distill(
        teacher=teacher,
        student="resnet8",
        methods=[kd.methods.KD()],
        epochs=EPOCHS,
        seed=seed,
        run=RUNS / f"kd{seed}",
        **recipe,
    )
    for seed in seeds
]
print(kd.compare([*baselines, *students]).markdown())
