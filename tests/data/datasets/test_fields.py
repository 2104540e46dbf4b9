"""The synthetic data sets of several fields: what is in them, and that it comes from what it should."""

from __future__ import annotations

import numpy as np
import torch

from drb.data.datasets import DATASETS


def load(name, **options):
    return DATASETS.build(name, {"num_train": 60, "num_test": 40, **options}).load(print)


def everything(source):
    return source.gather(np.arange(len(source)))


def test_a_diffraction_image_is_that_of_its_object():
    fields = everything(load("diffraction", size=8).train)
    assert {fields[name].shape for name in ("image", "amplitude", "phase")} == {(60, 1, 8, 8)}
    wave = fields["amplitude"].double() * torch.exp(1j * fields["phase"].double())
    far = torch.fft.fftshift(torch.fft.fft2(wave, norm="ortho"), dim=(2, 3)).abs().square()
    torch.testing.assert_close(fields["image"].double(), torch.log1p(far) / 4, rtol=1e-4, atol=1e-5)
    assert fields["amplitude"].min() > 0
    assert fields["amplitude"].max() < 1


def test_an_image_is_the_mixture_of_the_patterns_that_are_present():
    data = load("mixtures", noise=0.0, num_patterns=6)
    fields = everything(data.train)
    assert torch.equal(fields["present"].bool(), fields["strength"] > 0)
    assert torch.equal(fields["strength"].argmax(1), fields["label"])
    images, strength = fields["image"].flatten(1), fields["strength"]
    patterns = torch.linalg.lstsq(strength, images).solution
    torch.testing.assert_close(strength @ patterns, images, rtol=1e-4, atol=1e-4)
    assert data.num_classes == 6


def test_only_test_windows_have_anomalies_and_futures_go_on_where_windows_end():
    data = load("drifting_series", noise=0.0, share_anomalous=0.5, length=16, horizon=3, num_test=400)
    train, test = everything(data.train), everything(data.test)
    assert train["series"].shape == (60, 16, 2)
    assert train["future"].shape == (60, 3, 2)
    assert not train["anomaly"].any()
    assert 0.3 < test["anomaly"].float().mean() < 0.7
    # a sum of two waves obeys a linear recurrence: what follows is that of what was
    whole = torch.cat([train["series"], train["future"]], dim=1).double()
    for label in train["label"].unique():
        for channel in range(2):
            rows = whole[train["label"] == label, :, channel].unfold(1, 5, 1).reshape(-1, 5)
            known, following = rows[:, :4], rows[:, 4]
            rule = torch.linalg.lstsq(known, following).solution
            torch.testing.assert_close(known @ rule, following, rtol=0, atol=1e-3)


def test_a_seed_makes_the_data():
    for name in ("diffraction", "mixtures", "drifting_series"):
        same, again, other = load(name), load(name), load(name, seed=1)
        assert same.identity == again.identity
        assert same.identity != other.identity
        assert load(name, num_test=20).identity.parts["train"] == same.identity.parts["train"]
