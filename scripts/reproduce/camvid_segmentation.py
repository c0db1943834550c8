"""Teaches a small segmentation network on camvid, 701 photographs of streets, and prints the mean IoU as Markdown.

    python -m scripts.reproduce.camvid_segmentation --data_dir=DIR --runs=runs/camvid --seeds 0 1

The epoch that is best on the validation images is measured on the 233 test images.
"""

from scripts.reproduce.task_table import Comparison, print_table

CAMVID = Comparison(
    config="experiments/configs/camvid.flags",
    teacher="segmenter/resnet18_imagenet(width=64)",
    student="segmenter/applications/MobileNetV3Small(width=32)",
    recipes={"pixel KD": ["kd"], "CWD": ["cwd"], "both": ["kd", "cwd"]},
    columns=("miou", "pixel_accuracy", "boundary_f"),
    test={"data": "camvid", "test_split": "test"},
)

if __name__ == "__main__":
    print_table(__doc__, CAMVID, "runs/camvid", (0, 1))
