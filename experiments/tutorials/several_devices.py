# %% [markdown]
"""
# Several devices, and interruptions

The same training gives the same weights however many devices it runs on, and resumes after an interruption. This
tutorial shows both on one machine; two logical CPUs stand in for two GPUs.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/several_devices")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 10

# %% [markdown]
"""
## Strategies

`strategy=` (in the shell `--strategy`) is one of

| name | devices |
| --- | --- |
| `auto` (default) | the first that exists of a TPU, a cluster, several GPUs, one device |
| `one` | one GPU or CPU |
| `mirrored` | the GPUs of one machine, or `devices=N` logical CPUs |
| `multiworker` | several machines, from `TF_CONFIG` or Slurm |
| `tpu` | a TPU; untested on hardware |
| `central` | variables on the CPU, computation on the GPUs |

`batch_size` is that of all devices together. Each replica computes its slice of every batch, and one function takes
the weighted mean over all of them, so one replica and two compute the same update up to rounding. Batch normalization
is the exception: it sees one replica's slice. `sync_batch_norm=True` computes its statistics over the global batch.
"""

# %%
recipe: dict[str, Any] = {
    "data": "digits",
    "epochs": EPOCHS,
    "batch_size": 100,
    "model": "mlp(hidden=(32,))",
    "learning_rate": 0.1,
}
two = kd.train(strategy="mirrored", devices=2, run=RUNS / "two", **recipe)
one = kd.train(strategy="one", run=RUNS / "one", **recipe)
differences = [
    float(np.abs(a - b).max()) for a, b in zip(one.model().get_weights(), two.model().get_weights(), strict=True)
]
print(f"largest difference of a weight: {max(differences):.1e}")

# %% [markdown]
"""
For a larger batch, `scale_learning_rate="linear"` with `base_batch_size=` scales the learning rate and prints it.

## Several workers

`scripts/launch_local.sh` starts several workers of one program on this machine, to try it out. On a cluster, Slurm's
`srun` or `TF_CONFIG` tells every worker who the others are:

    scripts/launch_local.sh 2 -- python -m experiments.distill --strategy=multiworker ...

`fit`, `evaluate` and `predict` of a `Distiller` work under MultiWorkerMirroredStrategy, where plain Keras 3 fails
(keras-team/keras 20585). A worker that dies or hangs is noticed within `--worker_timeout` seconds; the others stop
with exit code 75, and the same command on all workers resumes. `--sharding` says whether each worker reads all data
or its own files; the batches are the same.

## Interruptions

A run that was killed at any moment resumes if the same command is run again, also in the middle of an epoch
(`checkpoint_every=` steps). SIGTERM saves first. With `deterministic=True` on one device it ends with the same
weights, bit for bit; `python -m scripts.bench.kill_test --kills=20` checks this with random kills. The newest `keep`
checkpoints and the best one are kept; a damaged checkpoint is detected, and the one before it is used.

Here the run is complete, so the same call returns it without training:
"""

# %%
again = kd.train(strategy="one", run=RUNS / "one", **recipe)
print(again.is_complete, again.result["last"] == one.result["last"])

# %% [markdown]
"""
A loss or gradient that is not finite stops the run and writes the batch to `nonfinite_<epoch>_<step>.npz`;
`on_nonfinite="skip"` leaves out such batches instead, on all replicas alike.

`precision="mixed_bfloat16"`, `jit`, `steps_per_execution`, `deterministic` and `drop_remainder` control how a step is
run; `teacher_precision="bfloat16"` runs only the teacher in half precision (experiments/results/frozen.md).
"""
