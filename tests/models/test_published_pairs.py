"""The 13 pairs of the published CIFAR-100 tables, with every published method and all defaults.

The shapes are those that the published implementations compare.
"""

import functools

import pytest

from kd_keras import Distiller, methods
from kd_keras.models import build
from kd_keras.networks.taps import Tapped

RESNET = ((32, 16), (16, 32), (8, 64))
SHAPES = {  # size and channels of the maps that are compared, then the length of the embedding
    "resnet20": (*RESNET, 64),
    "resnet32": (*RESNET, 64),
    "resnet56": (*RESNET, 64),
    "resnet110": (*RESNET, 64),
    "resnet8x4": ((32, 64), (16, 128), (8, 256), 256),
    "resnet32x4": ((32, 64), (16, 128), (8, 256), 256),
    "resnet50": ((32, 256), (16, 512), (8, 1024), (4, 2048), 2048),
    "wrn_16_2": ((32, 32), (16, 64), (8, 128), 128),
    "wrn_40_1": ((32, 16), (16, 32), (8, 64), 64),
    "wrn_40_2": ((32, 32), (16, 64), (8, 128), 128),
    "vgg8": ((16, 128), (8, 256), (4, 512), (4, 512), 512),
    "vgg13": ((16, 128), (8, 256), (4, 512), (4, 512), 512),
    "mobilenet_v2": ((16, 12), (8, 16), (4, 48), (2, 160), 1280),
    "shufflenet_v1": ((16, 240), (8, 480), (4, 960), 960),
    "shufflenet_v2": ((16, 116), (8, 232), (4, 464), 1024),
}
SAME = ("wrn_40_2:wrn_16_2", "wrn_40_2:wrn_40_1", "resnet56:resnet20", "resnet110:resnet20", "resnet110:resnet32")
SAME += ("resnet32x4:resnet8x4", "vgg13:vgg8")
OTHER = ("vgg13:mobilenet_v2", "resnet50:mobilenet_v2", "resnet50:vgg8", "resnet32x4:shufflenet_v1")
OTHER += ("resnet32x4:shufflenet_v2", "wrn_40_2:shufflenet_v1")
ON_EMBEDDINGS = (methods.RKD, methods.PKT, methods.CC, methods.CRD, methods.SRRL)
ON_ALL_STAGES = (methods.AT, methods.NST, methods.VID, methods.SemCKD, methods.AB, methods.OFD)
ON_THE_LAST_STAGE = (methods.SP, methods.FT)
ON_LOGITS = (methods.KD, methods.DKD, methods.DIST, methods.LSKD, methods.MLKD, methods.CTKD)
OTHERS = (methods.FitNet, methods.ReviewKD, methods.SimKD, methods.FSP, methods.KDSVD)
OF_EQUAL_WIDTH = (methods.FSP, methods.KDSVD)  # whose published tables leave the other pairs out
SLOW = ("resnet110", "wrn_40", "resnet50", "resnet56", "vgg13")


@functools.cache
def network(name):
    return build(name, (32, 32, 3), 100)


def maps(name):
    """The shapes of the stages of a network, as in a tap."""
    return [(None, size, size, channels) for size, channels in SHAPES[name][:-1]]


def embedding(name):
    return [(None, SHAPES[name][-1])]


def compared(kind, pair):
    """The shapes of the student's and of the teacher's taps, when the method is built with its defaults."""
    teacher, student = (network(name) for name in pair.split(":"))
    method = kind(examples=50_000) if kind is methods.CRD else kind()
    taught = method.student_from(student, teacher)
    Distiller(student=taught, teacher=teacher, methods=[method])
    return [
        [spec.shape for tap in taps for spec in (tapped[tap] if isinstance(tapped[tap], list) else [tapped[tap]])]
        for model, taps in ((taught, method.taps.student), (teacher, method.taps.teacher))
        for tapped in [Tapped(model, taps).specs]
    ]


def pairs():
    slow = [pair for pair in (*SAME, *OTHER) if pair not in ("resnet32x4:resnet8x4", "resnet32x4:shufflenet_v2")]
    return [pytest.param(pair, marks=pytest.mark.slow if pair in slow else ()) for pair in (*SAME, *OTHER)]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n.startswith(SLOW) else ()) for n in SHAPES]
)
def test_the_stages_of_every_network_of_the_tables(name):
    specs = Tapped(network(name), ["stages", "stages:pre", "embedding"]).specs
    assert [spec.shape for spec in specs["stages"]] == [spec.shape for spec in specs["stages:pre"]] == maps(name)
    assert specs["embedding"].shape == embedding(name)[0]


@pytest.mark.parametrize("pair", pairs())
def test_every_method_compares_the_published_shapes(pair):
    names = pair.split(":")[::-1]  # the student first
    for kind in ON_LOGITS:
        assert compared(kind, pair)[0] == [(None, 100)], kind
    for kind in ON_EMBEDDINGS:
        assert [shapes[:1] for shapes in compared(kind, pair)] == [embedding(name) for name in names], kind
    for kind in ON_ALL_STAGES:
        assert compared(kind, pair) == [maps(name) for name in names], kind
    for kind in ON_THE_LAST_STAGE:
        assert [shapes[-1:] for shapes in compared(kind, pair)] == [maps(name)[-1:] for name in names], kind
    assert compared(methods.FitNet, pair) == [maps(name)[1:2] for name in names]
    assert compared(methods.ReviewKD, pair) == [[*maps(name), *embedding(name)] for name in names]


@pytest.mark.parametrize("pair", pairs())
def test_simkd_drops_the_head_and_takes_the_classifier(pair):
    teacher, student = (network(name) for name in pair.split(":"))
    taught = methods.simkd_student(student, teacher)
    width, reads = SHAPES[pair.split(":")[1]][-2][1], teacher.get_layer("logits").kernel.shape[0]
    assert "head_out" not in [layer.name for layer in taught.layers]
    assert taught.get_layer("adapter_1_conv").kernel.shape[-2:] == (width, reads // 2)
    assert compared(methods.SimKD, pair)[0][0][-1] == reads


@pytest.mark.parametrize("pair", pairs())
@pytest.mark.parametrize("kind", OF_EQUAL_WIDTH)
def test_a_method_of_equal_widths_is_built_or_says_so(kind, pair):
    names = pair.split(":")[::-1]
    if maps(names[0]) and [shape[-1] for shape in maps(names[0])] == [shape[-1] for shape in maps(names[1])]:
        stems = len(compared(kind, pair)[0]) - len(maps(names[0]))
        assert stems == (kind is methods.FSP), "FSP compares the stem too"
    else:
        with pytest.raises(ValueError, match="same channels"):
            compared(kind, pair)
