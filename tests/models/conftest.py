"""Every network of keras.applications, built once for all tests that look at it."""

import pytest

from kd_keras.models import applications, build

# At least one network for each kind of preprocessing and of architecture; all others are marked slow.
QUICK = ("ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2S", "MobileNet")
QUICK += ("MobileNetV2", "MobileNetV3Small", "ResNet50", "ResNet50V2", "VGG16", "InceptionV3", "Xception", "NASNetMobile")


def _marked(name):
    return pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.fixture(scope="session", params=[_marked(name) for name in applications.names()])
def application(request):
    """The name of a network and the network for images of 96 pixels and 7 classes."""
    return request.param, build(f"applications/{request.param}", (96, 96, 3), 7)
