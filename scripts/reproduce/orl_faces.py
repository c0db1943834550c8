"""Teaches a small network of faces on 30 people of orl_faces, and prints how it verifies the other 10 as Markdown.

    python -m scripts.reproduce.orl_faces --data_dir=DIR --runs=runs/orl_faces --seeds 0 1 2
    python -m scripts.reproduce.orl_faces --data_dir=DIR --runs=runs/orl_resnet8 \\
        --student="embedder/resnet8(dimension=64, scale=16)"

The last epoch is measured on all pairs of the 100 images of people 30 to 39.
"""

from scripts.reproduce.task_table import Comparison, print_table

ORL_FACES = Comparison(
    config="experiments/configs/orl_faces.flags",
    teacher="embedder/resnet20(dimension=128, scale=16)",
    student="embedder/mobilenet_v2(dimension=64, scale=16, backbone={'width': 0.5})",
    recipes={"Embedding (cosine)": ["embedding"], "RKD": ["rkd"], "Angular": ["angular"]},
    columns=(
        "tar_at_far_0.01",
        "tar_at_far_0.01_low",
        "tar_at_far_0.01_high",
        "tar_at_far_0.1",
        "verification_accuracy",
        "equal_error_rate",
    ),  # fmt: skip
    test={"data": "orl_faces", "test_split": "train+test/identities[30:]", "task": "faces"},
)

if __name__ == "__main__":
    print_table(__doc__, ORL_FACES, "runs/orl_faces", (0, 1, 2))
