"""Findings for the report's tests: three networks that answer as networks do, made from seeded numbers."""

import numpy as np

from kd_keras.report import Attention, Disagreement, Subject

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CORRUPTIONS = ("gaussian_noise", "shot_noise", "gaussian_blur", "contrast", "brightness", "jpeg", "pixelate", "fog")
SKILL = {"teacher": 5.2, "alone": 3.6, "distilled": 4.2}
COST = {"teacher": (1.0, 1.0), "alone": (0.11, 0.35), "distilled": (0.11, 0.35)}


def logits(role, labels, noise):
    """Logits `(N, K)`: the true class stands out by the role's skill, classes that look alike come near it."""
    classes = np.eye(len(CLASSES))
    alike = classes.copy()
    for one, other, much in ((3, 5, 0.72), (0, 8, 0.45), (1, 9, 0.5), (4, 7, 0.4), (2, 4, 0.4), (3, 6, 0.35)):
        alike[one, other] = alike[other, one] = much
    return SKILL[role] * alike[labels] + noise


def softmax(logits):
    each = np.exp(logits - logits.max(-1, keepdims=True))
    return each / each.sum(-1, keepdims=True)


def reliability(probabilities, labels, bins=15):
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    rows = [(confidence[place == b].mean(), right[place == b].mean(), (place == b).sum()) if (place == b).any()
            else (np.nan, np.nan, 0) for b in range(bins)]
    return np.array(rows)


def calibration(given, labels, end=""):
    probabilities = softmax(given)
    bins = reliability(probabilities, labels)
    filled = bins[bins[:, 2] > 0]
    return {
        f"ece{end}": float((np.abs(filled[:, 0] - filled[:, 1]) * filled[:, 2]).sum() / len(labels)),
        f"nll{end}": float(-np.log(probabilities[np.arange(len(labels)), labels]).mean()),
        f"brier{end}": float(((probabilities - np.eye(given.shape[1])[labels]) ** 2).sum(-1).mean()),
        f"reliability{end}": bins,
    }


def findings(role, given, teacher, labels, random):
    said, right = given.argmax(-1), given.argmax(-1) == labels
    size, time = COST[role]
    count = len(CLASSES)
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (labels, said), 1)
    resampled = right[random.integers(0, len(labels), (500, len(labels)))].mean(-1)
    found = {
        "accuracy": float(right.mean()),
        "accuracy_low": float(np.quantile(resampled, 0.025)),
        "accuracy_high": float(np.quantile(resampled, 0.975)),
        "accuracy_by_class": np.array([right[labels == c].mean() for c in range(count)]),
        "confusion": confusion,
        **calibration(3.4 * given, labels),
        **calibration(2.1 * given, labels, "_scaled"),
        "temperature": 1.6,
        "accuracy_train": float(right.mean() + 0.03),
        "gap": 0.03,
        "auroc_probability": 0.86 + 0.02 * size,
        "auroc_energy": 0.88 + 0.02 * size,
        "parameters": round(272474 * size),
        "macs": round(40813184 * size),
        "kilobytes": 1130.0 * size,
        "milliseconds": 4.1 * time,
        "milliseconds_p95": 4.9 * time,
        "milliseconds_32": 61.0 * time,
        "milliseconds_32_p95": 66.0 * time,
        "megabytes": 48.0 * time,
    }
    base = 1 - found["accuracy"]
    for place, name in enumerate(CORRUPTIONS):
        found[f"error_{name}"] = np.minimum(0.9, base + np.arange(1, 6) * (0.02 + 0.012 * place) * (2 - SKILL[role] / 5))
    found["corruption_error"] = float(np.mean([found[f"error_{name}"] for name in CORRUPTIONS]))
    found["mce"] = 1.0 if role == "teacher" else found["corruption_error"] / 0.4
    if role != "teacher":
        agrees = said == teacher.argmax(-1)
        other = teacher.argmax(-1) == labels
        found |= {
            "agreement": float(agrees.mean()),
            "kl": 0.2,
            "agreement_by_class": np.array([agrees[labels == c].mean() for c in range(count)]),
            "only_teacher_right": float((other & ~right).mean()),
            "only_student_right": float((right & ~other).mean()),
            "difference": float(right.mean() - other.mean()),
            "difference_low": float(right.mean() - other.mean() - 0.009),
            "difference_high": float(right.mean() - other.mean() + 0.009),
            "mcnemar": 0.001,
            "attention_correlation": 0.61,
            "attention_overlap": 0.47,
            "cka": np.array([[0.97, 0.71, 0.33], [0.62, 0.93, 0.52], [0.21, 0.49, 0.88]]),
        }
    return found


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
    """A teacher, a student alone and a distilled one, with everything that can be found of them."""
    random = np.random.default_rng(7)
    labels = random.integers(0, len(CLASSES), count)
    noise = {name: random.normal(size=(count, len(CLASSES))) for name in ("images", *SKILL)}
    answers = {}
    for role in SKILL:
        own = 0.55 if role == "alone" else 0.35
        answers[role] = logits(role, labels, 1.2 * ((1 - own) * noise["images"] + own * noise[role]))
    made = []
    for role, given in answers.items():
        found = findings(role, given, answers["teacher"], labels, random)
        lines = ["--dataset=cifar10", "--epochs=30"] + (["--method=kd(temperature=4)"] if role == "distilled" else [])
        made.append(Subject(f"runs/{role}", role, found, history(role, found["accuracy"]), lines))
    return made


def images(count, size=32):
    """Images `(size, size, 3)` uint8 of a bright spot, and where it is: `(size, size)` from 0 to 1."""
    random = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size] / size
    for _ in range(count):
        down, right = random.uniform(0.25, 0.75, 2)
        spot = np.exp(-((y - down) ** 2 + (x - right) ** 2) / 0.03)
        colour = random.uniform(0.3, 1, 3)
        yield (255 * np.clip(0.25 + 0.75 * spot[..., None] * colour, 0, 1)).astype("uint8"), spot


def attention(count=6):
    return [
        Attention(image, place % 10, {"runs/teacher": spot, "runs/alone": spot.T, "runs/distilled": spot**0.6})
        for place, (image, spot) in enumerate(images(count))
    ]


def disagreements(count=10):
    return [
        Disagreement(image, place % 10, (place % 10, 0.97 - 0.01 * place), ((place + 2) % 10, 0.9 - 0.02 * place))
        for place, (image, _) in enumerate(images(count))
    ]
