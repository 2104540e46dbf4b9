"""ResNet-18 and ResNet-50 (arXiv 1512.03385) from torchvision, with a stem to match the size of the images."""

from __future__ import annotations

from torch import nn

from drb.training.models.base import Model, require_images
from drb.training.models.network import GrowingHead, Network

_SMALL = 64  # up to this height, a stride of 4 in the stem would leave too little to see


class ResNet18(Model):
    """torchvision's ResNet-18 of 512 features, with a small stem for images of up to 64 pixels."""

    name = "resnet18"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        return _resnet("resnet18", image_shape, num_classes, seed)


class ResNet50(Model):
    """torchvision's ResNet-50 of 2048 features, with a small stem for images of up to 64 pixels."""

    name = "resnet50"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        return _resnet("resnet50", image_shape, num_classes, seed)


def _resnet(name: str, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
    import torchvision

    channels, height, _ = require_images(name, image_shape)
    body = torchvision.models.get_model(name, weights=None)
    num_features = body.fc.in_features
    body.fc = nn.Identity()
    if height <= _SMALL:
        body.conv1 = _convolution(channels, body.conv1.out_channels, size=3, stride=1)
        body.maxpool = nn.Identity()
    elif channels != body.conv1.in_channels:
        body.conv1 = _convolution(channels, body.conv1.out_channels, size=7, stride=2)
    return Network(body, GrowingHead(num_features, num_classes, seed=seed))


def _convolution(num_inputs: int, num_outputs: int, *, size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(num_inputs, num_outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
    return convolution
