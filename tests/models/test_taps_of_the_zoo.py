"""Taps that fit: every model of the zoo and every classifier of keras.applications, without any setting by the user."""

import keras
import pytest

from kd_keras.models import ZOO, build
from kd_keras.networks.stages import StagedGraph
from kd_keras.networks.taps import find_tap
from tests.models.test_models import SMALLEST

# height and width of the stages for images of 96 pixels, and their channels
HALVINGS = (48, 24, 12, 6, 3)
CHANNELS = {
    "ConvNeXtTiny": (96, 192, 384, 768),
    "ConvNeXtSmall": (96, 192, 384, 768),
    "ConvNeXtBase": (128, 256, 512, 1024),
    "ConvNeXtLarge": (192, 384, 768, 1536),
    "ConvNeXtXLarge": (256, 512, 1024, 2048),
    "DenseNet121": (64, 128, 256, 512, 1024),
    "DenseNet169": (64, 128, 256, 640, 1664),
    "DenseNet201": (64, 128, 256, 896, 1920),
    # An inverted bottleneck's expansion has 6 times the block's channels; the last is the head.
    "EfficientNetB0": (6 * 16, 6 * 24, 6 * 40, 6 * 112, 1280),
    "EfficientNetB1": (6 * 16, 6 * 24, 6 * 40, 6 * 112, 1280),
    "EfficientNetB2": (6 * 16, 6 * 24, 6 * 48, 6 * 120, 1408),
    "EfficientNetB3": (6 * 24, 6 * 32, 6 * 48, 6 * 136, 1536),
    "EfficientNetB4": (6 * 24, 6 * 32, 6 * 56, 6 * 160, 1792),
    "EfficientNetB5": (6 * 24, 6 * 40, 6 * 64, 6 * 176, 2048),
    "EfficientNetB6": (6 * 32, 6 * 40, 6 * 72, 6 * 200, 2304),
    "EfficientNetB7": (6 * 32, 6 * 48, 6 * 80, 6 * 224, 2560),
    "EfficientNetV2B0": (16, 32, 4 * 48, 6 * 112, 1280),
    "EfficientNetV2B1": (16, 32, 4 * 48, 6 * 112, 1280),
    "EfficientNetV2B2": (16, 32, 4 * 56, 6 * 120, 1408),
    "EfficientNetV2B3": (16, 40, 4 * 56, 6 * 136, 1536),
    "EfficientNetV2S": (24, 48, 4 * 64, 6 * 160, 1280),
    "EfficientNetV2M": (24, 48, 4 * 80, 6 * 176, 1280),
    "EfficientNetV2L": (32, 64, 4 * 96, 6 * 224, 1280),
    "MobileNet": (64, 128, 256, 512, 1024),
    "MobileNetV2": (6 * 16, 6 * 24, 6 * 32, 6 * 96, 1280),
    "MobileNetV3Small": (16, 72, 96, 288, 576),
    "MobileNetV3Large": (64, 72, 240, 672, 960),
    **{f"ResNet{depth}{version}": (64, 256, 512, 1024, 2048) for depth in (50, 101, 152) for version in ("", "V2")},
}
# networks in which convolutions without padding, or pooling, make other sizes
STAGES = {name: list(zip(HALVINGS[-len(channels) :], channels, strict=True)) for name, channels in CHANNELS.items()}
STAGES |= {
    "VGG16": [(96, 64), (48, 128), (24, 256), (12, 512), (6, 512), (3, 512)],
    "VGG19": [(96, 64), (48, 128), (24, 256), (12, 512), (6, 512), (3, 512)],
    "InceptionV3": [(47, 32), (45, 64), (22, 80), (20, 192), (9, 288), (4, 768), (1, 2048)],
    "InceptionResNetV2": [(47, 32), (45, 64), (22, 80), (20, 192), (9, 320), (4, 1088), (1, 1536)],
    "Xception": [(47, 32), (45, 64), (23, 128), (12, 256), (6, 728), (3, 2048)],
    # Its cells read the two cells before, so that hardly a map lies on every path; name the layers there.
    "NASNetMobile": [(47, 32), (3, 1056)],
    "NASNetLarge": [(47, 96), (3, 4032)],
}


WITHOUT_STAGES = ("mlp", "deit_small", "deit_tiny", "vit_lite")


def marked(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def reachable_without(graph, tensor):
    """Whether the logits can be reached when nothing passes a tensor."""
    reached = {id(tensor) for tensor in keras.tree.flatten(graph.inputs)}
    for edge in graph.edges:
        if edge.operation is not None and any(id(source) in reached for source in edge.sources):
            reached.update(id(result) for result in edge.results if result is not tensor)
    return id(graph.logits()) in reached


def test_every_application(application):
    name, network = application
    graph = StagedGraph(network)
    stages = graph.stages()
    assert [(stage.shape[1], stage.shape[3]) for stage in stages] == STAGES[name]
    assert all(stage.shape[1] == stage.shape[2] for stage in stages)
    assert [before.shape for before in find_tap(graph, "stages:pre")] == [stage.shape for stage in stages]
    assert not any(reachable_without(graph, stage) for stage in stages)
    assert graph.logits().shape == (None, 7) and len(graph.embedding().shape) == 2
    if not name.startswith(("VGG", "MobileNetV3")):  # which have hidden layers between the last maps and the classifier
        assert graph.embedding().shape[-1] == STAGES[name][-1][1]


@pytest.mark.parametrize("name", marked([name for name in ZOO if name not in WITHOUT_STAGES], SMALLEST))
def test_every_model_of_the_zoo(name):
    graph = StagedGraph(build(name, (32, 32, 3), 7))
    stages, before = graph.stages(), find_tap(graph, "stages:pre")
    sizes = [stage.shape[1] for stage in stages]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) >= 3, "largest first"
    assert [graph.spec(stage).layer for stage in stages] == [f"stage{number + 1}_out" for number in range(len(sizes))]
    assert not any(reachable_without(graph, stage) for stage in stages)
    has_linear_stages = name.startswith(("mobilefacenet", "mobilenet_v2", "mobilenet_v3"))
    for stage, earlier in zip(stages, before, strict=True):
        assert stage.shape == earlier.shape
        assert (stage is earlier) == has_linear_stages, f"{graph.spec(stage).layer} and {graph.spec(earlier).layer}"
    assert [graph.spec(tensor).layer for tensor in find_tap(graph, "stages:stem")][0] == "stem_out"
    assert graph.logits().shape == (None, 7)
    hidden = graph.spec(graph.embedding()).layer
    assert hidden == {"mobilenet_v3_small": "embedding_out", "mobilefacenet": "embedding"}.get(name, "pool")


def test_the_zoo_has_no_other_models_without_stages():
    assert set(ZOO) >= set(WITHOUT_STAGES)
    for name in WITHOUT_STAGES[1:]:
        graph = StagedGraph(build(name, (32, 32, 3), 7, depth=1))
        assert [graph.spec(stage).layer for stage in graph.stages()] == ["norm:tokens"]


BRUTE_FORCE = ["resnet20", "applications/MobileNetV2", "applications/DenseNet121"]


@pytest.mark.parametrize("name", BRUTE_FORCE)
def test_no_later_map_of_a_size_lies_on_every_path(name):
    """By brute force, for every map that follows a stage of its size, except rearrangements and paddings of it."""
    graph = StagedGraph(build(name, (64, 64, 3), 7))
    stages = {id(stage) for stage in graph.stages()}
    begun = set()
    for edge in graph.edges:
        for result in edge.results if edge.operation is not None else ():
            size = result.shape[1:3]
            if id(result) in stages:
                begun.add(size)
            elif size in begun and len(result.shape) == 4 and type(edge.operation).__name__ != "ZeroPadding2D":
                assert reachable_without(graph, result), edge.path
