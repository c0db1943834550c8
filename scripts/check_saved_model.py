"""Loads a SavedModel without kd_keras and compares its predictions with those recorded in its check.npz.

python scripts/check_saved_model.py runs/student/export/saved_model
"""

import sys

import numpy as np
import tensorflow as tf


def main(directory: str) -> int:
    recorded = np.load(f"{directory}/check.npz")
    loaded = tf.saved_model.load(directory)
    classes = loaded.serve(tf.constant(recorded["images"]))["probabilities"].numpy().argmax(-1)
    same, count = int((classes == recorded["classes"]).sum()), len(classes)
    independent = "kd_keras" not in sys.modules
    print(f"{directory}: {same} of {count} images classified identically, kd_keras {'not ' * independent}loaded.")
    return 0 if same == count and independent else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
