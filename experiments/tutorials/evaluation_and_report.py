# %% [markdown]
"""
# Does the student hold up?

A student with nearly the teacher's accuracy can still be worse calibrated, less robust, or look at other parts of an
image. This tutorial asks these questions of a teacher and two students, sets requirements, and writes the report
page.
"""

# %%
import logging
import os
from pathlib import Path
from typing import Any

import kd_keras as kd

logging.basicConfig(format="%(message)s")
logging.getLogger("kd_keras").setLevel(logging.INFO)
RUNS = Path("runs/tutorials/evaluation_and_report")
EPOCHS = 2 if os.environ.get("KD_SHORT") else 40
recipe: dict[str, Any] = {"data": "digits", "batch_size": 100, "optimizer": "adam", "learning_rate": 0.003, "shift": 1}
teacher = kd.train(model="resnet14", epochs=EPOCHS, run=RUNS / "teacher", **recipe)
baseline = kd.train(model="resnet8", epochs=EPOCHS, run=RUNS / "baseline", **recipe)
student = kd.distill(
    teacher=teacher, student="resnet8", methods=[kd.methods.KD()], epochs=EPOCHS, run=RUNS / "student", **recipe
)

# %% [markdown]
"""
## What is always measured

* **Accuracy**, top-1 and top-5, by class, with bootstrap intervals. The difference from the teacher is paired, image
  by image, and tested with McNemar's test.
* **Agreement** with the teacher, and who is right if they disagree.
* **Calibration**: the expected calibration error before and after temperature scaling; the temperature is fitted on
  images that are not used to measure.
* **Cost**: parameters, multiply-accumulates, size of the file, latency at batch 1 and 32 with percentiles.
"""

# %%
evaluation = kd.evaluate([baseline, student], teacher=teacher)
print(evaluation)

# %% [markdown]
"""
## Questions that take longer

They are asked by name, such as `questions=["attention", "similarity"]`, or all at once by `questions=["all"]`. With
`report=` all of them are asked. `examples=` limits the test images for them.

* `robustness`: the error under ten corruptions at five severities, relative to the teacher's.
* `generalization`: the gap between training and test images; how well images of another dataset can be told apart
  (`other_data=`); accuracy by the size of the training set, if there are runs for it.
* `attention`: Grad-CAM of student and teacher on the same images, their rank correlation and overlap.
* `similarity`: CKA between the stages.
* `memory`: the peak of an inference.
* `int8`: the signal-to-noise ratio of each layer of a student that was trained for int8.

## Requirements

A requirement is checked for the last student: the program `experiments.evaluate` exits with code 3 if one is not met,
so a build can depend on it. The report page is one self-contained HTML file that opens with the verdict and the
trade-off.
"""

# %%
evaluation = kd.evaluate(
    [baseline, student],
    teacher=teacher,
    examples=100,
    requirements={"max_accuracy_drop": 0.02, "min_agreement": 0.9, "max_latency_ratio": 0.9},
    report=RUNS / "report.html",
)
print(evaluation)
print("Open", RUNS / "report.html")

# %% [markdown]
"""
The same in the shell:

    python -m experiments.evaluate --teacher=RUNS/teacher --model=RUNS/baseline --model=RUNS/student \\
        --examples=100 --max_accuracy_drop=0.02 --min_agreement=0.9 --max_latency_ratio=0.9 --report=report.html

experiments/results/cifar10_compare.md shows such a page for CIFAR-10, and what its numbers say.
"""
