"""Teaches a small segmentation network on camvid, 701 photographs of streets, and prints the mean IoU as Markdown.

    python -m scripts.reproduce.camvid_segmentation --data_dir=DIR --runs=runs/camvid --seeds 0 1

The epoch that is best on the validation images is measured on the 233 test images.
"""

from scripts.reproduce.task_table import Comparison, print_table

# As published for segmentation: 2204.06986 (CIRKD's table) and 2011.13256, on logits before they are resized.
TAPS = "student_tap='logits_map', teacher_tap='logits_map'"
PIXEL_KD = f"kd({TAPS}, temperature=1, weight=1)"
CWD = f"cwd({TAPS}, temperature=4, weight=3)"
CAMVID = Comparison(
    config="experiments/configs/camvid.flags",
    teacher="segmenter/resnet18_imagenet(width=64)",
    student="segmenter/applications/MobileNetV3Small(width=32)",
    recipes={"pixel KD": [PIXEL_KD], "CWD": [CWD], "both": [PIXEL_KD, CWD]},
    columns=("miou", "pixel_accuracy", "boundary_f"),
    test={"data": "camvid", "test_split": "test"},
)

if __name__ == "__main__":
    print_table(__doc__, CAMVID, "runs/camvid", (0, 1))
