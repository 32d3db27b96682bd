import hashlib
import math
from itertools import pairwise

import pytest
import torch

import tiny
from figures import figure
from mmcomponents.batch import TICKS, Exact, Layout, TokenType
from mmcomponents.nn.rotary import Rotation
from mmcomponents.positions import V2PE, RoPE
from mmcomponents.positions.frequencies import frequencies, tables

FIGURE_B = figure("b_v2pe_positions.json")
FIXED = [c for c in FIGURE_B["fixed_delta"] if not any(kind in ("p", "lp") for kind, _ in c["segments"])]


def layout(pieces: list[tuple[str, int]], tokens_per_tile: int, delta_log2: list[int] | None = None) -> Layout:
    types, images, count = [], [], 0
    for kind, n in pieces:
        types += [1] * n if kind == "t" else [1, *[2] * (n * tokens_per_tile), 1]
        images += [-1] * n if kind == "t" else [-1, *[count] * (n * tokens_per_tile), -1]
        count += kind == "i"
    return Layout(
        token_type=torch.tensor(types),
        cu_seqlens=torch.tensor([0, len(types)], dtype=torch.int32),
        max_seqlen=len(types),
        image_id=torch.tensor(images),
        grid=torch.ones(count, 3, dtype=torch.long),
        delta_log2=None if delta_log2 is None else torch.tensor(delta_log2),
    )


def digest(ticks: torch.Tensor) -> str:
    return hashlib.sha256((ticks.double() / TICKS).float().numpy().astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("case", FIXED, ids=lambda c: f"{c['seq']}-{c['stride']}")
def test_v2pe_equals_the_reference_with_a_chosen_delta(case) -> None:
    ticks = V2PE(8, delta=case["delta"]).ticks(layout(case["segments"], case["tokens_per_tile"]))
    assert ticks.dtype == torch.int64
    assert len(ticks) == case["length"]
    assert digest(ticks) == case["sha256_float32_le"]
    for index, position in case["samples"]:
        assert ticks[index] == position * TICKS


@pytest.mark.parametrize("case", FIGURE_B["random_delta_per_image"], ids=lambda c: str(c["strides_per_image"]))
def test_v2pe_equals_the_reference_with_a_delta_for_each_image(case) -> None:
    k = [int(math.log2(case["tokens_per_tile"] / stride)) for stride in case["strides_per_image"]]
    ticks = V2PE(8).ticks(layout(case["segments"], case["tokens_per_tile"], k))
    assert digest(ticks) == case["sha256_float32_le"]


def test_plain_recurrence_goes_on_from_the_fraction() -> None:
    pieces = layout([("t", 2), ("i", 1), ("t", 2)], tokens_per_tile=5)
    plain = (V2PE(8, delta=0.25, realign=False).ticks(pieces) / TICKS).tolist()
    assert plain == [0, 1, 2, 2.25, 2.5, 2.75, 3.0, 3.25, 4.25, 5.25, 6.25]
    aligned = (V2PE(8, delta=0.25).ticks(pieces) / TICKS).tolist()
    assert aligned == [0, 1, 2, 2.25, 2.5, 2.75, 3.0, 3.25, 5, 6, 7]


def test_a_segment_that_begins_with_an_image_starts_at_zero() -> None:
    batch = tiny.pack([("i", 1), ("t", 2)], [("t", 1), ("i", 1)])
    assert (V2PE(8, delta=0.5).ticks(batch.layout) / TICKS).tolist() == [0, 0.5, 1, 1.5, 3, 4, 0, 0.5, 1, 1.5, 2]


def test_positions_start_anew_in_each_segment() -> None:
    batch = tiny.pack([("t", 4)], [("t", 2), ("i", 1), ("t", 1)], [("t", 3)])
    for part in (RoPE(8), V2PE(8)):
        whole = part.ticks(batch.layout)
        apart = torch.cat([part.ticks(b.layout) for b in tiny.separate(batch)])
        assert torch.equal(whole, apart)


def test_decoding_goes_on_from_the_last_position() -> None:
    new = Layout(
        token_type=torch.ones(2, dtype=torch.long),
        cu_seqlens=torch.tensor([0, 1, 2], dtype=torch.int32),
        max_seqlen=1,
        image_id=torch.full((2,), -1),
        grid=torch.zeros(0, 3),
        last_ticks=torch.tensor([7 * TICKS, 3 * TICKS + 64]),
    )
    assert (V2PE(8).ticks(new) / TICKS).tolist() == [8, 5]
    assert (V2PE(8, realign=False).ticks(new) / TICKS).tolist() == [8, 4.25]
    assert (RoPE(8).ticks(new) / TICKS).tolist() == [8, 5]


def test_rotary_equals_the_reference() -> None:
    for case in figure("b2_v2pe_rope.json")["v2pe_rotary"]:
        ticks = (torch.tensor(case["positions"], dtype=torch.float64) * TICKS).long()
        cos, sin = rotary = tables(ticks, frequencies(case["dim"], case["base"], 1.0, torch.device("cpu")))
        torch.testing.assert_close(cos, torch.tensor(case["cos"]), rtol=0, atol=1e-4)
        torch.testing.assert_close(sin, torch.tensor(case["sin"]), rtol=0, atol=1e-4)
        turned = Rotation(rotary)(torch.tensor(case["q"])[:, None])[:, 0]
        torch.testing.assert_close(turned, torch.tensor(case["q_rotated"]), rtol=0, atol=1e-4)


def test_dynamic_ntk_equals_the_reference() -> None:
    for case in figure("b2_v2pe_rope.json")["dynamic_ntk"]:
        part = RoPE(case["dim"], case["base"], case["factor"], case["max_position_embeddings"])
        found = frequencies(case["dim"], case["base"], part._rescale(case["seq_len"]), torch.device("cpu"))
        torch.testing.assert_close(found[:3], torch.tensor(case["inv_freq_first3"]), rtol=1e-5, atol=0)
        torch.testing.assert_close(found[-3:], torch.tensor(case["inv_freq_last3"]), rtol=1e-5, atol=0)


def test_each_segment_of_a_pack_has_its_own_base() -> None:
    part = RoPE(8, ntk_factor=2.0, max_position_embeddings=8)
    batch = tiny.pack([("t", 12)], [("t", 5)])
    cos, _ = part.rotary(batch.layout)
    plain, _ = RoPE(8).rotary(batch.layout)
    assert torch.equal(cos[12:], plain[12:])
    assert not torch.equal(cos[:12], plain[:12])
    # While decoding the length at prefill counts, not the one position that is new.
    step = Layout(
        batch.layout.token_type[:1],
        torch.tensor([0, 1], dtype=torch.int32),
        1,
        batch.layout.image_id[:1],
        batch.layout.grid,
        last_ticks=torch.tensor([10 * TICKS]),
        prefill_len=torch.tensor([12]),
    )
    assert torch.equal(part.rotary(step).tensors[0][0], cos[11])


def test_tables_are_fp32_under_bf16_and_in_a_meta_context() -> None:
    batch = tiny.pack([("t", 600)])
    part = RoPE(8).to(torch.bfloat16)
    assert not list(part.parameters())
    assert not part.state_dict()
    frequencies.cache_clear()
    with torch.device("meta"):
        part = RoPE(8)
        freqs = frequencies(8, 1e6, 1.0, torch.device("cpu"))
    assert freqs.device.type == "cpu"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rotary = part.rotary(batch.layout)
    assert isinstance(rotary, Exact)
    assert [t.dtype for t in rotary] == [torch.float32] * 2
    assert all(not torch.equal(a, b) for a, b in pairwise(rotary.tensors[0][510:520]))


def test_fractions_survive_far_away() -> None:
    ticks = torch.tensor([100_000 * TICKS, 100_000 * TICKS + 1])
    cos, _ = tables(ticks, torch.tensor([1e-3]))
    exact = (ticks.double() / TICKS * 1e-3).cos()
    torch.testing.assert_close(cos[:, 0].double(), exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("delta", [0.3, 2.0, 1 / 512, 0.0, -1.0, "a", [0.5]])
def test_a_delta_off_the_set_is_refused(delta) -> None:
    with pytest.raises(ValueError, match="power of two from 1 to 1/256"):
        V2PE(8, delta=delta)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="even head_dim"):
        RoPE(7)
    with pytest.raises(ValueError, match="delta_log2 must be 0 to 8, got \\[9\\]"):
        V2PE(8).ticks(tiny.pack([("i", 1)], delta_log2=[9]).layout)


@pytest.mark.parametrize("delta_log2", [None, [2, 3]])
def test_a_picture_that_is_being_made_has_steps_of_one(delta_log2: list[int] | None) -> None:
    """While decoding, a token of a picture belongs to no image yet: its step is that of training."""
    made = layout([("t", 2), ("i", 1), ("t", 1), ("i", 1), ("t", 2)], 4, delta_log2)
    made.token_type = torch.where(made.image_id == 1, int(TokenType.IMAGE_GEN), made.token_type)
    for position in (V2PE(8, delta=0.25), V2PE(8, delta=0.25, realign=False)):
        ticks = position.ticks(made)
        assert (ticks[made.image_id == 1].diff() == TICKS).all()
        assert (ticks[made.image_id == 0].diff() == TICKS // 4).all()
