"""Crops and flips against a slow reference; normalisation; nothing done that is not asked for."""

import pytest
import torch
import torch.nn.functional as F

from drb.training.augment import Preprocess

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)


def images(count=64, size=(6, 5), dtype=torch.uint8):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(1, 256, (count, 3, *size), dtype=torch.uint8, generator=generator)
    return raw if dtype == torch.uint8 else raw.to(dtype) / 255


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_evaluate_normalises_and_leaves_its_input_alone(dtype):
    raw = images(dtype=dtype)
    before = raw.clone()
    result = Preprocess(mean=MEAN, std=STD, crop_padding=2, flip=True).evaluate(raw)
    unit = images(dtype=torch.float64)
    expected = (unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected.float())
    assert torch.equal(raw, before)


def test_without_mean_and_std_it_is_exactly_a_division():
    preprocess = Preprocess(mean=(0,), std=(1,))
    raw = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(preprocess.train(raw, None), raw / 255)
    floats = raw / 255
    assert preprocess.train(floats, None) is floats


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (0, True), (2, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_sample_is_some_crop_and_flip_of_itself(padding, flip, dtype):
    raw = images(count=200, dtype=dtype)
    result = Preprocess(mean=(0,) * 3, std=(1,) * 3, crop_padding=padding, flip=flip).train(raw, seeded())
    unit = raw / 255 if dtype == torch.uint8 else raw
    choices = [candidates(image, padding, flip) for image in unit]
    found = []
    for sample, possible in zip(result, choices, strict=True):
        matches = [key for key, candidate in possible.items() if torch.equal(candidate, sample)]
        assert len(matches) == 1
        found += matches
    number = (2 * padding + 1) ** 2 * (1 + flip)
    assert len(set(found)) > 0.9 * number  # each sample draws for itself, and every outcome occurs
    if flip:
        assert 60 < sum(flipped for _, _, flipped in found) < 140


def test_augmentation_follows_the_generator():
    preprocess = Preprocess(mean=MEAN, std=STD, crop_padding=2, flip=True)
    first, same, other = (preprocess.train(images(), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    default = preprocess.train(images(), None)
    torch.manual_seed(3)
    assert torch.equal(default, preprocess.train(images(), None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5,), "std": (0.0,)}, r"std=\[0.0\]"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, r"mean=\[0.5, 0.5\]"),
        ({"mean": (0,), "std": (1,), "crop_padding": -1}, "got -1"),
    ],
)
def test_errors_say_what_was_got(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(**options)


def candidates(image, padding, flip):
    _, height, width = image.shape
    padded = F.pad(image, [padding] * 4)
    return {
        (top, left, flipped): crop.flip(-1) if flipped else crop
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        for crop in [padded[:, top : top + height, left : left + width]]
        for flipped in range(1 + flip)
    }
