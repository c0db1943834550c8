"""The flagfiles of the published recipes: every one is read, and trains for one step."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from kd_keras.networks.taps import Tapped
from kd_keras.runs.optimization import learning_rate
from kd_keras.runs.parsing import parse_call, parse_method
from kd_keras.runs.recipe import Recipe
from kd_keras.runs.settings import from_lines
from scripts.reproduce import published
from tests.support.programs import ROOT, program

FOLDER = ROOT / "experiments" / "configs" / "published"
METHODS = sorted(path.stem for path in (FOLDER / "methods").glob("*.flags"))
PAIRS = sorted(path.stem for path in FOLDER.glob("*.flags") if "--student" in path.read_text())
FAST = ("kd", "ab")
OF_112_PX = ("ofd_imagenet", "reviewkd_imagenet")  # they name stages of networks that halve the image five times
FIVE_STAGES = "applications/MobileNet(alpha=0.25)"


def names(all_names):
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in all_names]


def lines(path):
    """The flags of a flagfile, with those of the files that it names."""
    flags = []
    for line in path.read_text().splitlines():
        if line.startswith("--flagfile="):
            flags += lines(ROOT / line.partition("=")[2])
        elif line.startswith("--"):
            flags.append(line)
    return flags


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One batch of 32 x 32 images of three classes, the fewest that LSKD takes, and flags for one step of a recipe."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("cat", "dog", "owl"):
            (folder / split / label).mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 256, (32, 32, 3)).astype("uint8")
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return [f"--data={folder}", "--test_split=test", "--batch_size=8", "--epochs=2", "--decay_epochs=1"]


@pytest.fixture(scope="module")
def teacher(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "teacher"
    program("train", *small, "--schedule=steps", "--model=resnet8", f"--run={run}")
    return run


@pytest.fixture(scope="module")
def deep_teacher(small, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "deep_teacher"
    program("train", *small, "--schedule=steps", f"--model={FIVE_STAGES}", f"--run={run}")
    return run


def test_the_pairs_are_those_of_the_published_tables():
    assert len([pair for pair in PAIRS if not pair.startswith("imagenet")]) == 13
    with open(published.PUBLISHED) as file:
        assert {line.split(",")[0] for line in file.readlines()[1:]} <= set(PAIRS)
    for pair in PAIRS:
        flags = dict(line.split("=", 1) for line in lines(FOLDER / f"{pair}.flags") if "=" in line)
        small_rate = flags["--student"].startswith(("mobilenet", "shufflenet"))
        if not pair.startswith("imagenet"):
            assert flags["--learning_rate"] == ("0.01" if small_rate else "0.05")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_file_is_read_with_the_weights_that_it_names(name):
    flags = from_lines(lines(FOLDER / "methods" / f"{name}.flags"))
    texts = flags["method"] if isinstance(flags["method"], list) else [flags["method"]]
    for text in texts:
        method, (_, arguments) = parse_method(text, examples=50_000), parse_call(text, nested=parse_method)
        for argument, value in arguments.items():
            if not isinstance(value, dict) and argument not in ("host", "student_tap"):
                assert getattr(method, argument) == value
    assert "hard_weight" in flags


def test_the_rate_of_the_published_recipes():
    recipe = Recipe(schedule="steps", learning_rate=0.05, epochs=240, decay_epochs=(150, 180, 210))
    schedule = learning_rate(recipe, steps=10)
    rates = [float(schedule(10 * epoch + 5)) for epoch in (0, 149, 150, 180, 210, 239)]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005, 0.00005, 0.00005], rtol=1e-5)
    for wrong in ((180, 150), (0, 30), (30, 240), ()):
        with pytest.raises(ValueError, match="decay_epochs in rising order"):
            Recipe(schedule="steps", epochs=240, decay_epochs=wrong)
    with pytest.raises(ValueError, match="schedule='steps'"):
        Recipe(epochs=240, decay_epochs=(30,))


@pytest.mark.parametrize("name", names(METHODS))
def test_a_method_trains_for_one_step(name, small, request, tmp_path):
    recipe = "imagenet" if "imagenet" in name else "cifar100"
    flags = [f"--flagfile={FOLDER / recipe}.flags", f"--flagfile={FOLDER / 'methods' / name}.flags", *small]
    student, fixture = (FIVE_STAGES, "deep_teacher") if name in OF_112_PX else ("resnet8", "teacher")
    networks = [f"--teacher={request.getfixturevalue(fixture)}", f"--student={student}", "--image_size=32,32"]
    program("distill", *flags, *networks, f"--run={tmp_path / 'run'}")
    assert np.isfinite(json.loads((tmp_path / "run" / "result.json").read_text())["last"]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_112_PX)
def test_the_maps_on_imagenet_are_the_published_ones(name):
    """Those of 56, 28, 14 and 7 px, with the channels in mdistiller's configurations."""
    flags = from_lines(lines(FOLDER / "methods" / f"{name}.flags"))
    taps = parse_method(flags["method"], examples=50_000).taps
    networks = (keras.applications.MobileNet, taps.student), (keras.applications.ResNet50, taps.teacher)
    for (network, names), channels in zip(networks, ([128, 256, 512, 1024], [256, 512, 1024, 2048]), strict=True):
        specs = Tapped(network(weights=None), list(names)).specs
        maps = [specs[tap].shape[1:] for tap in names if tap != "embedding"]
        assert maps == [(size, size, width) for size, width in zip((56, 28, 14, 7), channels, strict=True)]
        assert ("embedding" in names) == name.startswith("reviewkd")


def test_a_recipe_of_imagenet_has_no_number_of_cifar_beside_it(tmp_path, monkeypatch):
    for name in ("dist", "dist_imagenet"):
        (tmp_path / "resnet32x4_resnet8x4" / name).mkdir(parents=True)
    monkeypatch.setattr(published, "accuracies", lambda directory: [70.0] if "dist" in directory.name else [])
    rows = [row.split(" | ") for row in published.table(tmp_path).splitlines()[2:]]
    assert [(row[1], row[5]) for row in rows] == [("dist", "76.31"), ("dist_imagenet", "")]


@pytest.mark.parametrize("pair", names(pair for pair in PAIRS if not pair.startswith("imagenet")))
def test_a_pair_trains_for_one_step_and_stands_in_the_table(pair, small, tmp_path):
    network, kd = published.split_pair(pair)[0], f"--flagfile={FOLDER / 'methods' / 'kd'}.flags"
    recipe = f"--flagfile={FOLDER / 'cifar100'}.flags"
    program("train", recipe, *small, f"--model={network}", f"--run={tmp_path / network / '0'}")
    copy = tmp_path / "pair.flags"  # with the teacher of this test
    copy.write_text((FOLDER / f"{pair}.flags").read_text().replace("runs/cifar100", str(tmp_path)))
    program("distill", f"--flagfile={copy}", kd, *small, f"--run={tmp_path / pair / 'kd' / '0'}")
    rows = [row.split(" | ") for row in published.table(Path(tmp_path)).splitlines() if f"| {pair} |" in row]
    assert [row[1] for row in rows] == ["teacher", "kd"] and all(float(row[5]) > 60 for row in rows)
