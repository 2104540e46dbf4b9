"""Codecs: what is stored has the promised values and size, by itself and in a record."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drb.buffer.codecs import Bits, Codec, Deflate, Jpeg, Png, quality_shares
from drb.buffer.record import Field, RecordSpec

ALL_VALUES = torch.arange(256, dtype=torch.uint8)


def through(codec, values):
    field = Field(values.dtype, tuple(values.shape[1:]), codec=codec)
    stored = codec.encode(values)
    assert (stored.dtype, tuple(stored.shape[1:])) == field.slot
    out = torch.full_like(values, 77)
    codec.decode(stored, out)
    return out


@pytest.mark.parametrize("bits", range(1, 8))
def test_bits_gives_the_nearest_of_its_levels(bits):
    highest = 2**bits - 1
    expected = [round(round(value / 255 * highest) / highest * 255) for value in range(256)]
    assert through(Bits(bits=bits), ALL_VALUES[:, None].repeat(1, 3))[:, 1].tolist() == expected


@given(st.integers(1, 7), st.integers(0, 40), st.integers(0, 5), st.integers(0, 2**32))
def test_bits_of_any_shape_do_not_mix(bits, num_values, rows, seed):
    values = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (rows, 1, num_values), dtype=np.uint8))
    levels = through(Bits(bits=bits), ALL_VALUES[:, None])[:, 0]
    assert torch.equal(through(Bits(bits=bits), values), levels[values.long()])
    assert Field(torch.uint8, (num_values,), codec=Bits(bits=bits)).stored_bytes <= (num_values + 7) // 8 * bits


def test_bits_refuses_what_it_cannot_store():
    with pytest.raises(ValueError, match="bits"):
        Bits(bits=8)
    with pytest.raises(ValueError, match="field 'x' cannot be stored: the codec bits stores uint8 values, got float32"):
        RecordSpec({"x": Field(torch.float32, (3,), codec=Bits(bits=4))})
    with pytest.raises(ValueError, match="field 'x' must have a Codec such as Bits"):
        RecordSpec({"x": Field(torch.uint8, (3,), codec="bits")})


@pytest.mark.parametrize("bits", [3, 4])
def test_a_record_holds_the_encoded_field_and_its_views_decode_it(bits):
    spec = RecordSpec({"image": Field(torch.uint8, (1, 28, 28), codec=Bits(bits=bits)), "label": (torch.int64, ())})
    raw = RecordSpec({"image": Field(torch.uint8, (1, 28, 28)), "label": (torch.int64, ())})
    assert spec.row_bytes == 4 * 8 + 8 + (784 * bits // 8 + 7) // 8 * 8 < raw.row_bytes
    assert spec.decoded_bytes == 784 + 8
    images = torch.arange(5 * 784).reshape(5, 1, 28, 28).to(torch.uint8)
    block, where, selected = np.full((6, spec.words), -1), np.array([4, 0, 2]), np.array([0, 1, 4])
    spec.pack("image", images, selected, block, where)
    spec.pack("label", torch.arange(5), selected, block, where)
    expected = through(Bits(bits=bits), images[[0, 1, 4]])
    assert torch.equal(spec.views(block[where])["image"], expected)
    assert torch.equal(spec.views(torch.from_numpy(block[where]))["image"], expected)
    assert torch.equal(spec.read("image", block, where), expected)
    assert spec.views(block[where])["label"].tolist() == [0, 1, 4]
    assert (block[[1, 3, 5]] == -1).all()
    again = RecordSpec.from_json(spec.to_json())
    assert again.fields == spec.fields
    assert str(again.fields["image"]) == f"uint8[1, 28, 28] stored by bits(bits={bits})"


def smooth_images(count, shape, seed=0):
    """Images that compress: a bright spot whose size and place are random, on black."""
    rng, (_, height, width) = np.random.default_rng(seed), shape
    y, x = np.mgrid[:height, :width]
    centre, size = rng.uniform(0.2, 0.8, (count, 2)) * (height, width), rng.uniform(0.1, 0.4, count) * height
    distance = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2
    spots = 255 * np.exp(-distance / size[:, None, None] ** 2)
    return torch.from_numpy(np.repeat(spots[:, None], shape[0], 1).astype(np.uint8))


GREY, COLOUR = smooth_images(40, (1, 28, 28)), smooth_images(6, (3, 64, 48))


@pytest.mark.parametrize("codec", [Deflate(max_bytes=800), Png(max_bytes=900)])
def test_what_fits_with_8_bits_comes_back_exactly(codec):
    assert torch.equal(through(codec, GREY), GREY)
    assert quality_shares(codec, GREY) == [1.0]
    assert through(codec, GREY[:0]).shape == (0, 1, 28, 28)


@pytest.mark.parametrize("codec", [Deflate(max_bytes=9300), Png(max_bytes=4000)])
def test_images_of_three_channels_come_back_exactly(codec):
    assert torch.equal(through(codec, COLOUR), COLOUR)


@given(st.integers(0, 7), st.integers(99, 700), st.integers(0, 2**32))
def test_deflate_gives_each_sample_the_most_bits_that_fit(noise, max_bytes, seed):
    rng = np.random.default_rng(seed)
    images = GREY[:4] ^ torch.from_numpy(rng.integers(0, 1 << noise, (4, 1, 28, 28), dtype=np.uint8))
    levels = {bits: through(Bits(bits=bits), ALL_VALUES[:, None])[:, 0] for bits in range(1, 8)} | {8: ALL_VALUES}
    codec = Deflate(max_bytes=max_bytes)
    found = through(codec, images)
    for image, restored in zip(images, found, strict=True):
        fits = [len(stream) <= max_bytes for stream in codec.streams(image.numpy())]
        bits = 8 - fits.index(True) if True in fits else 1
        assert torch.equal(restored, levels[bits][image.long()])


def test_deflate_has_room_for_whatever_comes():
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8))
    for codec in (Deflate(max_bytes=99), Png(max_bytes=99), Jpeg(max_bytes=99)):  # one bit per value, and one byte
        assert torch.equal(through(codec, noise), (noise > 127) * torch.tensor(255, dtype=torch.uint8))
    assert quality_shares(Deflate(bits=4, max_bytes=99), noise) == [0, 0, 0, 0, 1]


def test_jpeg_is_near_and_lowers_its_quality_until_it_fits():
    noise = np.random.default_rng(1).integers(0, 40, (4, 3, 96, 96), dtype=np.uint8)
    images = smooth_images(4, (3, 96, 96)) // 2 + torch.from_numpy(noise)
    errors = [
        (through(Jpeg(quality=quality, max_bytes=size), images).float() - images).abs().mean()
        for quality, size in ((95, 27000), (75, 27000), (95, 3600))
    ]
    assert errors[0] < errors[1] < errors[2] < 15
    stored = Jpeg(max_bytes=9000).encode(images).numpy()
    assert stored[0, :3].tolist() == [0xFF, 0xD8, 0xFF]


@pytest.mark.parametrize(
    ("dtype", "shape", "codec", "message"),
    [
        (torch.float32, (3,), Deflate(max_bytes=99), "the codec deflate stores uint8 values, got float32"),
        (torch.uint8, (1, 28, 28), Deflate(max_bytes=98), r"deflate needs max_bytes of at least 99 for .* got 98"),
        (torch.uint8, (28, 28), Png(max_bytes=99), r"png stores images \[1 or 3, height, width\], got \[28, 28\]"),
        (torch.uint8, (2, 28, 28), Jpeg(max_bytes=999), r"jpeg stores images \[1 or 3, height, width\], got \[2, 28"),
    ],
)
def test_compressed_codecs_refuse_what_they_cannot_store(dtype, shape, codec, message):
    with pytest.raises(ValueError, match=f"field 'x' cannot be stored: .*{message}"):
        RecordSpec({"x": Field(dtype, shape, codec=codec)})


class Halves(Codec):
    """Somebody's own codec: float32 as float16."""

    scale: float = 2.0

    def slot(self, dtype, shape):
        return torch.float16, shape

    def encode(self, values):
        return (values * self.scale).half()

    def decode(self, stored, out):
        out.copy_(stored / self.scale)


def test_a_codec_of_ones_own_is_found_by_the_name_that_a_state_has():
    spec = RecordSpec({"x": Field(torch.float32, (3,), codec=Halves(scale=4.0))})
    assert RecordSpec.from_json(spec.to_json()).fields == spec.fields
    value = spec.to_json()
    assert spec.fields != RecordSpec({"x": Field(torch.float32, (3,), codec=Halves())}).fields
    value["x"]["codec"]["name"] = "os.Unheard"
    with pytest.raises(ValueError, match=r"codec os.Unheard, which this program has not imported"):
        RecordSpec.from_json(value)
