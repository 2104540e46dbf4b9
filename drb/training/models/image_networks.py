"""Image networks of torchvision and timm as they come, for images of about 224 pixels, with a head that grows.

timm is optional: pip install timm.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from drb.options import setting
from drb.training.models.base import Model, require_images
from drb.training.models.network import GrowingHead, Network


class MobileNetV3(Model):
    """torchvision's MobileNetV3-Large (arXiv 1905.02244) of 1280 features."""

    name = "mobilenet_v3"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        return _from_torchvision(self.name, "mobilenet_v3_large", "classifier.3", image_shape, num_classes, seed)


class EfficientNetV2S(Model):
    """torchvision's EfficientNetV2-S (arXiv 2104.00298) of 1280 features."""

    name = "efficientnet_v2_s"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        return _from_torchvision(self.name, "efficientnet_v2_s", "classifier.1", image_shape, num_classes, seed)


class ConvNextTiny(Model):
    """torchvision's ConvNeXt-T (arXiv 2201.03545) of 768 features."""

    name = "convnext_tiny"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        return _from_torchvision(self.name, "convnext_tiny", "classifier.2", image_shape, num_classes, seed)


class VitS(Model):
    """ViT-S/16 (arXiv 2010.11929) of 384 features, which torchvision builds; images must be square."""

    name = "vit_s"

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        from torchvision.models import VisionTransformer

        channels, height, width = require_images(self.name, image_shape)
        if channels != 3 or height != width or height % _PATCH:
            raise ValueError(
                f"{self.name} takes images [3, H, H] with H a multiple of {_PATCH}, got {list(image_shape)}"
            )
        body = VisionTransformer(height, _PATCH, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)
        return _with_growing_head(body, "heads.head", num_classes, seed)


class GhostNet(Model):
    """timm's GhostNet (arXiv 1911.11907) of 1280 features.

    width: of the layers, in percent; 50 is the GhostNet-50 of arXiv 2406.03285
    """

    name = "ghostnet"
    width: int = setting(50, one_of=(50, 100, 130))

    def build(self, image_shape: tuple[int, ...], num_classes: int, seed: int) -> Network:
        try:
            import timm
        except ImportError:
            raise ValueError("model=ghostnet needs timm: pip install timm") from None
        channels, _, _ = require_images(self.name, image_shape)
        body = timm.create_model(f"ghostnet_{self.width:03}", pretrained=False, in_chans=channels)
        return _with_growing_head(body, "classifier", num_classes, seed)


_PATCH = 16  # pixels of a side


def _from_torchvision(
    name: str, theirs: str, head: str, image_shape: tuple[int, ...], num_classes: int, seed: int
) -> Network:
    import torchvision

    channels, _, _ = require_images(name, image_shape)
    if channels != 3:
        raise ValueError(f"{name} takes images of 3 channels, got image_shape={list(image_shape)}")
    body = torchvision.models.get_model(theirs, weights=None)
    return _with_growing_head(body, head, num_classes, seed)


def _with_growing_head(body: Any, head: str, num_classes: int, seed: int) -> Network:
    """The body without its last linear layer, whose features go to a head that grows."""
    num_features = body.get_submodule(head).in_features
    parent, _, last = head.rpartition(".")
    setattr(body.get_submodule(parent), last, nn.Identity())
    return Network(body, GrowingHead(num_features, num_classes, seed=seed))
