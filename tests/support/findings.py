"""Findings for the tests of the report: three networks with realistic predictions, made from seeded numbers."""

import numpy as np

from kd_keras.evaluation import Predictions, accuracy, agreement, calibration, halves, intervals
from kd_keras.report.page import Attention, Disagreement, Subject

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CORRUPTIONS = ("gaussian_noise", "shot_noise", "gaussian_blur", "contrast", "brightness", "jpeg", "pixelate", "fog")
SKILL = {"teacher": 5.2, "baseline": 3.6, "distilled": 4.2}
COST = {"teacher": 1.0, "baseline": 0.11, "distilled": 0.11}


def logits(role, labels, noise):
    """Logits `(N, K)`: the true class has the role's skill as its logit, and similar classes a fraction of it."""
    classes = np.eye(len(CLASSES))
    similar = classes.copy()
    for first, second, similarity in ((3, 5, 0.72), (0, 8, 0.45), (1, 9, 0.5), (4, 7, 0.4), (2, 4, 0.4), (3, 6, 0.35)):
        similar[first, second] = similar[second, first] = similarity
    return SKILL[role] * similar[labels] + noise


def findings(role, predictions, teacher):
    """The findings for predictions; those that need a network are derived from the role's skill."""
    fitting, measured = halves(predictions)
    size = COST[role]
    values = (
        dict(accuracy(predictions))
        | dict(calibration(measured, held_out=fitting))
        | dict(intervals(predictions, teacher))
    )
    values |= dict(agreement(predictions, teacher))
    values |= {
        "accuracy_train": values["accuracy"] + 0.03,
        "gap": 0.03,
        "auroc_probability": 0.84 + 0.01 * SKILL[role],
        "auroc_energy": 0.86 + 0.01 * SKILL[role],
        "parameters": round(272474 * size),
        "macs": round(40813184 * size),
        "kilobytes": 1130.0 * size,
    }
    for name, value in (("milliseconds", 4.1), ("milliseconds_32", 61.0), ("megabytes", 48.0)):
        values |= {name: value * size**0.5, f"{name}_p95": 1.15 * value * size**0.5}
    del values["megabytes_p95"]
    for place, name in enumerate(CORRUPTIONS):
        more = np.arange(1, 6) * (0.02 + 0.012 * place) * (2 - SKILL[role] / 5)
        values[f"error_{name}"] = np.minimum(0.9, 1 - values["accuracy"] + more)
    values["corruption_error"] = float(np.mean([values[f"error_{name}"] for name in CORRUPTIONS]))
    values["mce"] = values["corruption_error"] / 0.216
    if role == "distilled":
        ratios = 45 - np.arange(12) - 9 * (np.arange(12) == 7)
        values |= {f"int8_block{place}": np.array([ratio, -1.5, 6.0]) for place, ratio in enumerate(ratios)}
    if role != "teacher":
        values |= {"attention_correlation": 0.61, "attention_overlap": 0.47}
        values["cka"] = np.array([[0.97, 0.71, 0.33], [0.62, 0.93, 0.52], [0.21, 0.49, 0.88]])
    return values


def history(role, accuracy, epochs=30):
    rise = 1 - np.exp(-np.arange(1, epochs + 1) / 7)
    wave = 0.01 * np.sin(np.arange(epochs) * 2.3) * (1 - np.arange(epochs) / epochs)
    test = accuracy * rise / rise[-1] + wave
    rows = {"epoch": np.arange(epochs), "accuracy": test + 0.03 * rise, "hard": 2.3 - 2.0 * rise, "val_accuracy": test}
    if role == "distilled":
        rows |= {"kd": 4.1 - 3.1 * rise, "review_kd": 1.2 - 0.4 * rise}
        rows["val_accuracy"] = np.where(np.arange(epochs) % 2, test, np.nan)
    return {name: list(values) for name, values in rows.items()} | {"loss": list(2.3 - 2.0 * rise)}


def subjects(count=3000):
    """A teacher, a baseline and a distilled student, with findings of every kind."""
    random = np.random.default_rng(7)
    labels = random.integers(0, len(CLASSES), count)
    noise = {name: random.normal(size=(count, len(CLASSES))) for name in ("images", *SKILL)}
    networks, teacher = [], None
    for role in SKILL:
        scatter = 0.55 if role == "baseline" else 0.35
        predictions = Predictions(
            2 * logits(role, labels, 1.2 * ((1 - scatter) * noise["images"] + scatter * noise[role])), labels
        )
        predictions = predictions._replace(logits=(1.5 * predictions.logits).astype("float32"))
        teacher = teacher or predictions
        values = findings(role, predictions, teacher)
        lines = ["--data=cifar10", "--epochs=30"] + (["--method=kd(temperature=4)"] if role == "distilled" else [])
        networks.append(Subject(f"runs/{role}", role, values, history(role, values["accuracy"]), lines))
    return networks


def images(count, size=32):
    """Images `(size, size, 3)` uint8 of a bright spot, and its brightness `(size, size)` from 0 to 1."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] / size
    for _ in range(count):
        down, right = random.uniform(0.25, 0.75, 2)
        spot = np.exp(-((y - down) ** 2 + (x - right) ** 2) / 0.03)
        color = random.uniform(0.3, 1, 3)
        yield (255 * np.clip(0.25 + 0.75 * spot[..., None] * color, 0, 1)).astype("uint8"), spot


def attention(count=6):
    return [
        Attention(image, place % 10, {"runs/teacher": spot, "runs/baseline": spot.T, "runs/distilled": spot**0.6})
        for place, (image, spot) in enumerate(images(count))
    ]


def disagreements(count=10):
    return [
        Disagreement(image, place % 10, (place % 10, 0.97 - 0.01 * place), ((place + 2) % 10, 0.9 - 0.02 * place))
        for place, (image, _) in enumerate(images(count))
    ]
