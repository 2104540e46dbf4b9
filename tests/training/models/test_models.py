"""Models: shapes, seeds, heads that grow, and starts from given weights."""

import logging
import math
import sys

import pytest
import torch
from safetensors.torch import save_file

from drb.training.models import GrowingHead, build_model


@pytest.mark.parametrize(
    ("name", "shape", "num_features"),
    [
        ("mlp", (1, 28, 28), 100), ("mlp", (3, 8, 8), 100), ("cnn", (1, 8, 8), 128), ("cnn", (3, 30, 33), 128),
        ("resnet18", (1, 28, 28), 512), ("resnet18", (3, 32, 32), 512), ("resnet18", (1, 72, 72), 512),
        ("resnet50", (3, 32, 32), 2048),
        ("mobilenet_v3", (3, 64, 64), 1280), ("efficientnet_v2_s", (3, 64, 64), 1280),
        ("convnext_tiny", (3, 64, 64), 768), ("vit_s", (3, 64, 64), 384),
    ],
)  # fmt: skip
def test_shapes(name, shape, num_features):
    network = build_model(name, shape, 7)
    images = torch.rand(2, *shape)
    assert network.features(images).shape == (2, num_features)
    assert network(images).shape == (2, 7)
    assert network.num_classes == 7


def test_networks_for_pictures_say_what_they_need(monkeypatch):
    for name, shape, message in (
        ("mobilenet_v3", (1, 64, 64), "3 channels"),
        ("vit_s", (3, 60, 60), "multiple of 16"),
        ("convnext_tiny", (8,), "takes images"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(name, shape, 2)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="pip install timm"):
        build_model("ghostnet", (3, 64, 64), 2)


def test_ghostnet_comes_from_timm():
    pytest.importorskip("timm", reason="timm is optional")
    assert build_model("ghostnet", (3, 64, 64), 7)(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_small_images_keep_their_resolution_in_the_resnet_stem():
    small, large = build_model("resnet18", (3, 64, 64), 2), build_model("resnet18", (3, 65, 65), 2)
    assert (small.body.conv1.kernel_size, small.body.conv1.stride) == ((3, 3), (1, 1))
    assert isinstance(small.body.maxpool, torch.nn.Identity)
    assert (large.body.conv1.kernel_size, large.body.conv1.stride) == ((7, 7), (2, 2))


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18"])
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = build_model(name, (1, 8, 8), 3, seed=5).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))  # torch's generator was left as it was
    torch.manual_seed(2)
    again, other = (build_model(name, (1, 8, 8), 3, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert any(not torch.equal(first[key], other[key]) for key in first if key.startswith("body."))


def test_mlp_is_xavier_uniform_with_zero_biases():
    network = build_model("mlp", (1, 28, 28), 10)
    assert [tuple(weight.shape) for weight in network.parameters() if weight.ndim == 2] == [
        (100, 784), (100, 100), (10, 100),
    ]  # fmt: skip
    for parameter in network.parameters():
        if parameter.ndim == 1:
            assert not parameter.any()
        else:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.95 * bound < parameter.abs().max() <= bound
            assert parameter.detach().std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)


def test_hidden_layers_can_be_chosen():
    assert build_model("mlp", (1, 2, 2), 2, hidden=[5]).features(torch.rand(3, 1, 2, 2)).shape == (3, 5)


def test_growing_keeps_old_rows_bit_for_bit_and_logits_with_them():
    network = build_model("cnn", (1, 8, 8), 2, seed=1)
    torch.nn.init.normal_(network.head.bias)
    images = torch.rand(4, 1, 8, 8)
    weight, bias, logits = network.head.weight.clone(), network.head.bias.clone(), network(images)
    assert network.grow(5, seed=1)
    assert network.num_classes == 5
    assert torch.equal(network.head.weight[:2], weight)
    assert torch.equal(network.head.bias, torch.cat([bias, torch.zeros(3)]))
    torch.testing.assert_close(network(images)[:, :2], logits)
    assert {"head.weight", "head.bias"} <= dict(network.named_parameters()).keys()
    network(images).sum().backward()
    assert network.head.weight.grad.shape == (5, 128)


def test_growing_in_steps_equals_growing_at_once():
    steps, once = (GrowingHead(16, 1, seed=3) for _ in range(2))
    assert steps.grow(3, seed=3)
    assert steps.grow(5, seed=3)
    assert once.grow(5, seed=3)
    assert torch.equal(steps.weight, once.weight)
    assert torch.equal(steps.weight, GrowingHead(16, 5, seed=3).weight)
    assert len(torch.unique(steps.weight, dim=0)) == 5
    assert not torch.equal(steps.weight, GrowingHead(16, 5, seed=4).weight)


def test_a_head_never_shrinks():
    network = build_model("mlp", (1, 2, 2), 4)
    weight = network.head.weight
    assert not network.grow(4, seed=0)
    assert not network.grow(2, seed=0)
    assert network.head.weight is weight


def test_growing_keeps_a_frozen_head_frozen_and_its_dtype():
    head = GrowingHead(4, 2, seed=0).double().requires_grad_(False)
    head.grow(3, seed=0)
    assert head.weight.dtype == head.bias.dtype == torch.float64
    assert not head.weight.requires_grad


@pytest.mark.parametrize("form", ["plain", "module", "nested", "safetensors"])
def test_weights_from_a_file(form, tmp_path, caplog):
    given = build_model("cnn", (1, 8, 8), 3, seed=1).state_dict()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(given, path)
    else:
        named = {f"module.{name}": value for name, value in given.items()} if form == "module" else given
        torch.save({"state_dict": named, "epoch": 3} if form == "nested" else named, path)
    with caplog.at_level(logging.INFO):
        network = build_model("cnn", (1, 8, 8), 3, seed=2, init=str(path))
    assert all(torch.equal(value, given[name]) for name, value in network.state_dict().items())
    assert network.load_report.complete
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_plain_torchvision_names_fit_and_what_does_not_is_reported(tmp_path, caplog):
    from torchvision.models import resnet18

    given = resnet18(num_classes=9).state_dict()
    del given["layer1.0.bn1.bias"]
    given["extra"] = torch.zeros(1)
    torch.save(given, tmp_path / "weights.pth")
    network = build_model("resnet18", (3, 72, 72), 4, init=str(tmp_path / "weights.pth"))
    assert torch.equal(network.body.layer4[1].conv2.weight, given["layer4.1.conv2.weight"])
    report = network.load_report
    assert report.missing == ("body.layer1.0.bn1.bias",)
    assert report.unexpected == ("body.extra",)
    assert report.mismatched == ("head.weight", "head.bias")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "missing 1 (body.layer1.0.bn1.bias); unexpected 1 (body.extra); other shape" in record.getMessage()


def test_a_head_of_another_size_starts_as_if_random(tmp_path):
    torch.save(build_model("mlp", (1, 2, 2), 10, seed=1).state_dict(), tmp_path / "weights.pt")
    network = build_model("mlp", (1, 2, 2), 2, seed=7, init=str(tmp_path / "weights.pt"))
    assert torch.equal(network.head.weight, build_model("mlp", (1, 2, 2), 2, seed=7).head.weight)


def test_weights_that_do_not_fit_at_all_are_an_error(tmp_path):
    torch.save(build_model("cnn", (1, 8, 8), 3).state_dict(), tmp_path / "weights.pt")
    # the heads' biases are of one shape, but a bias without its weight is not taken
    with pytest.raises(ValueError, match=r"none of the weights in .*weights.pt fits the model"):
        build_model("resnet18", (1, 8, 8), 3, init=str(tmp_path / "weights.pt"))


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("content", ["absent", "garbage", "pickle", "empty", "no tensors", "garbage safetensors"])
def test_unreadable_weights_name_the_file(content, tmp_path):
    path = tmp_path / ("weights.safetensors" if "safetensors" in content else "weights.pt")
    if content.startswith("garbage"):
        path.write_bytes(b"garbage" * 10)
    elif content == "empty":
        path.write_bytes(b"")
    elif content != "absent":
        torch.save({"body": Harmful()} if content == "pickle" else {"epoch": 1}, path)
    with pytest.raises(ValueError, match=f"the weights file {path} "):
        build_model("mlp", (1, 2, 2), 2, init=str(path))


def test_torchvision_weights_fit_and_a_failing_download_is_clear(monkeypatch):
    from torchvision.models import ResNet18_Weights, resnet18

    given = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda self, **options: given)
    network = build_model("resnet18", (3, 72, 72), 5, init="torchvision")
    assert torch.equal(network.body.conv1.weight, given["conv1.weight"])
    assert network.load_report.mismatched == ("head.weight", "head.bias")

    def fail(self, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(
        ValueError, match=r"cannot be downloaded \(no route to host\); fetch https.*set init to its path"
    ):
        build_model("resnet18", (3, 72, 72), 5, init="torchvision")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet",
            {},
            "unknown model 'resnet'; did you mean resnet50. choose cnn, convnext_tiny, ",
        ),
        ("mlp", {"width": 3}, "the model mlp has no option width; it has hidden"),
        ("mlp", {"hidden": (10, 0)}, r"mlp.hidden must be at least 1, got \(10, 0\)"),
        ("cnn", {"width": 0}, "cnn.width must be at least 1, got 0"),
        ("mlp", {"init": "torchvision"}, "no pretrained weights for the model 'mlp'"),
    ],
)
def test_errors_say_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, (1, 8, 8), 2, **options)


def test_a_model_needs_a_class():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build_model("mlp", (1, 8, 8), 0)
