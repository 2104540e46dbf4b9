"""Records: what goes in comes out, bit for bit, and a wrong field is named."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import minibatch_of

from drb.buffer.record import HEADER_WORDS, Field, RecordSpec, warn_about_float_images
from drb.types import ROW_ALIGNMENT_BYTES

DTYPES = [
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
]  # fmt: skip

shapes = st.lists(st.integers(1, 5), max_size=3).map(tuple)
schemas = st.dictionaries(
    st.sampled_from("abcdef"), st.tuples(st.sampled_from(DTYPES), shapes), min_size=1, max_size=4
).map(RecordSpec)


def random_values(field: Field, rows: int, rng: np.random.Generator) -> torch.Tensor:
    raw = rng.integers(0, 2 if field.dtype == torch.bool else 256, (rows, field.size_bytes), dtype=np.uint8)
    return torch.from_numpy(raw).view(field.dtype).reshape(rows, *field.shape)


def bits(values: torch.Tensor) -> bytes:
    """So that NaNs compare too."""
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@given(schemas, st.integers(1, 6), st.integers(0, 2**32), st.data())
def test_packed_fields_come_back_bit_for_bit(spec, rows, seed, data):
    rng = np.random.default_rng(seed)
    selected = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    block = rng.integers(-(2**62), 2**62, (rows + 3, spec.words))
    where = rng.permutation(len(block))[: len(selected)]
    before = block.copy()
    values = {name: random_values(field, rows, rng) for name, field in spec.fields.items()}
    for name, value in values.items():
        spec.pack(name, value, selected, block, where)

    views = spec.views(block[where])
    for name, value in values.items():
        assert views[name].dtype == spec.fields[name].dtype
        assert views[name].shape == (len(selected), *spec.fields[name].shape)
        assert bits(views[name]) == bits(value[selected])
    others = np.setdiff1d(np.arange(len(block)), where)
    assert (block[others] == before[others]).all()
    assert (block[:, :HEADER_WORDS] == before[:, :HEADER_WORDS]).all()


@given(schemas)
def test_fields_are_aligned_and_do_not_overlap(spec):
    end = HEADER_WORDS * 8
    for name, field in spec.fields.items():
        assert spec.offsets[name] % 8 == 0
        assert spec.offsets[name] >= end
        end = spec.offsets[name] + field.size_bytes
    assert end <= spec.row_bytes < end + 8
    assert RecordSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize("size", [2024, 2032, 3136, 150_528])
def test_large_rows_are_a_multiple_of_the_alignment_long(size):
    spec = RecordSpec({"image": (torch.uint8, (size,)), "label": (torch.int64, ())})
    used = HEADER_WORDS * 8 + size + 8
    assert used <= spec.row_bytes < used + ROW_ALIGNMENT_BYTES
    assert spec.row_bytes % ROW_ALIGNMENT_BYTES == 0
    block = np.zeros((3, spec.words), np.int64)
    image, label = torch.arange(size).to(torch.uint8).repeat(2, 1), torch.tensor([7, 8])
    for name, values in (("image", image), ("label", label)):
        spec.pack(name, values, np.arange(2), block, np.array([2, 0]))
    views = spec.views(block[[2, 0]])
    assert torch.equal(views["image"], image)
    assert torch.equal(views["label"], label)


def test_fields_need_not_lie_in_memory_in_order():
    spec = RecordSpec({"image": (torch.uint8, (3, 4, 4)), "pair": (torch.bfloat16, (2,))})
    image = torch.arange(5 * 48).reshape(5, 3, 4, 4).to(torch.uint8).to(memory_format=torch.channels_last)
    pair = torch.arange(10.0).to(torch.bfloat16).reshape(2, 5).T
    block = np.zeros((5, spec.words), np.int64)
    for name, values in (("image", image), ("pair", pair)):
        spec.pack(name, values, np.arange(5), block, np.arange(5))
    assert torch.equal(spec.views(block)["image"], image)
    assert torch.equal(spec.views(block)["pair"], pair)


def test_views_share_the_rows_memory():
    spec = RecordSpec({"label": (torch.int32, ()), "image": (torch.uint8, (3, 3))})
    block = np.zeros((4, spec.words), np.int64)
    views = spec.views(block)
    views["label"][2] = 7
    assert spec.views(block)["label"].tolist() == [0, 0, 7, 0]


def test_no_rows_have_empty_views():
    spec = RecordSpec({"label": (torch.int32, ()), "image": (torch.uint8, (3, 3))})
    views = spec.views(np.zeros((0, spec.words), np.int64))
    assert views["label"].shape == (0,)
    assert views["image"].shape == (0, 3, 3)


def test_the_schema_of_a_minibatch_leaves_out_the_sample_id():
    spec = RecordSpec.of(minibatch_of([1, 2, 3]), exclude="sample_id")
    assert {name: str(field) for name, field in spec.fields.items()} == {"image": "uint8[1, 5, 5]", "label": "int64[]"}
    assert spec.words == HEADER_WORDS + 4 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "missing: ['label']"),
        ({"extra": torch.zeros(3)}, "not in the schema: ['extra']"),
        ({"label": torch.zeros(3, dtype=torch.int32)}, "field 'label' is int32[] a sample, but .* says int64[]"),
        ({"image": torch.zeros(3, 1, 5, 6, dtype=torch.uint8)}, "field 'image' is uint8[1, 5, 6] a sample"),
        ({"label": torch.zeros(2, dtype=torch.int64)}, "field 'label' has 2 rows, the minibatch has 3"),
    ],
)
def test_a_field_that_differs_is_named(change, message):
    minibatch = minibatch_of([1, 2, 3])
    del minibatch["sample_id"]
    spec = RecordSpec.of(minibatch, exclude=None)
    spec.check(minibatch, 3)
    changed = {k: v for k, v in (minibatch | change).items() if v is not None}
    pattern = message.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=pattern):
        spec.check(changed, 3)


def test_late_fields_are_checked_apart():
    spec = RecordSpec({"label": (torch.int64, ()), "logits": Field(torch.float32, (3,), late=True)})
    assert spec.late == ["logits"]
    spec.check({"label": torch.zeros(2, dtype=torch.int64)}, 2)
    spec.check({"logits": torch.zeros(2, 3)}, 2, late=True)
    with pytest.raises(ValueError, match=r"the late fields must have the fields \['logits'\]; missing: \['logits'\]"):
        spec.check({}, 2, late=True)
    assert RecordSpec.from_json(spec.to_json()).late == ["logits"]


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(ValueError, match="at least one field"):
        RecordSpec({})
    with pytest.raises(ValueError, match=r"field 'z' has dtype torch.complex64; drb stores uint8, int8"):
        RecordSpec({"z": (torch.complex64, ())})


def test_only_float_images_are_warned_about():
    warn_about_float_images(minibatch_of([1]) | {"features": torch.zeros(2, 8)})
    with pytest.warns(UserWarning, match="field 'image' holds float32 images: .* 4 times .* raw uint8 images"):
        warn_about_float_images({"image": torch.zeros(2, 3, 4, 4)})
