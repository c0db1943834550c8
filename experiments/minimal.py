"""The five steps in Python: train a teacher, choose a student, distill, compare, export.

    python -m experiments.minimal

Everything is built in: the digits are 8x8 images that come with scikit-learn. It takes about two minutes on two cores.
Run it again and it prints the same results from the runs in runs/minimal.
"""

import logging
import os
from pathlib import Path
from typing import Any

import kd_keras as kd

RUNS = Path("runs/minimal")
STUDENT = "mlp(hidden=(64,))"
EPOCHS = 2 if os.environ.get("KD_SHORT") else 200  # the tests set KD_SHORT


def main() -> None:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("kd_keras").setLevel(logging.INFO)  # progress

    # What teacher and student share. Every field of kd.Recipe is also a flag of train and distill.
    recipe: dict[str, Any] = {
        "data": "digits",
        "batch_size": 100,
        "optimizer": "adam",
        "learning_rate": 0.01,
        "mixup": 1.0,
    }

    # 1. A teacher: a residual network with 78,000 parameters.
    teacher = kd.train(model="resnet8", epochs=max(2, EPOCHS // 5), run=RUNS / "teacher", **recipe)

    # 2. A student: one hidden layer, 5,000 parameters. The baseline is this student, trained without a teacher.
    baseline = kd.train(model=STUDENT, epochs=EPOCHS, run=RUNS / "baseline", **recipe)

    # 3. Distill: the same student for as many epochs, on the teacher's predictions without the labels.
    student = kd.distill(
        teacher=teacher,
        student=STUDENT,
        methods=[kd.methods.KD(temperature=1.0, weight=1.0)],
        hard_weight=0.0,
        epochs=EPOCHS,
        run=RUNS / "student",
        **recipe,
    )

    # 4. Compare: accuracy with its confidence interval, agreement with the teacher, size, latency.
    print(kd.evaluate([baseline, student], teacher=teacher))

    # 5. Export the student. Every file takes uint8 images, and its own runtime verifies it on the test images.
    for exported in kd.export(student, formats=["saved_model", "litert_int8"]):
        print(exported)


if __name__ == "__main__":
    main()
