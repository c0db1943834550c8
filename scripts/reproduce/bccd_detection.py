"""Teaches a small detector on bccd, 364 photographs of blood cells, and prints the average precision as Markdown.

    python -m scripts.reproduce.bccd_detection --data_dir=DIR --runs=runs/bccd --seeds 0 1 2

The epoch that is best on the validation images is measured on the 72 test images.
"""

from scripts.reproduce.task_table import Comparison, print_table

HEAD = "head='gfl', pyramid=(2, 3, 4), anchor_scale=4"
LOGITS = ["bckd(student_tap='class_logits', teacher_tap='class_logits')", "ld"]
BCCD = Comparison(
    config="experiments/configs/bccd.flags",
    teacher=f"detector/resnet18_imagenet({HEAD}, width=64)",
    student=f"detector/applications/MobileNetV3Small({HEAD}, width=24, depth=1)",
    recipes={"logits and LD": LOGITS, "features (PKD)": ["pkd"], "both": [*LOGITS, "pkd"]},
    columns=("ap", "ap50", "ap75"),
    test={"data": "bccd", "test_split": "test"},
)

if __name__ == "__main__":
    print_table(__doc__, BCCD, "runs/bccd", (0, 1, 2))
