"""Contract 2: a prefill and decoding token by token give what one forward pass over the whole sequence gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents.batch import Layout, PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.cache import KVCache
from mmcomponents.nn.runtime import Runtime
from mmcomponents.testing.case import Case, in_double, outputs
from mmcomponents.testing.report import Findings, NotApplicable


def decode_equals_forward(case: Case, found: Findings) -> None:
    """Compares the outputs of two prompts that are decoded together, in double precision.

    One has two tiles and one has one, so that V2PE's positions differ from the lengths. As in a conversation, text is
    cached before the images come, and further text follows in one call; then one token at a time, the last ones of one
    prompt after the other one has ended.
    """
    case.needs_decoding()
    model = case.copied_model().double()
    images = case.parts["vision"] is not None
    prompts = ([("t", 3), *[("i", 2)] * images, ("t", 8)], [("t", 1), *[("i", 1)] * images, ("t", 16)])
    batch = in_double(case.pack(*prompts))
    with torch.no_grad():
        expected = outputs(model, batch)
        if any(value.shape[0] != batch.num_tokens for value in expected.values()):
            raise NotApplicable("the outputs of the model are not one row per token")
        first, second = batch.layout.cu_seqlens.diff().tolist()
        calls = [[2, 1], [first - 8, second - 9], [2, 2], *[[1, 1]] * 4, *[[0, 1]] * 2]
        for name, value in in_calls(model, batch, calls).items():
            found.close(name, value, expected[name])


def in_calls(model: MultimodalModel, batch: PackedBatch, calls: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Runs a model over a pack in several calls with a cache; a call may end anywhere, also inside an image.

    Args:
        model: Model with a backbone that has a cache.
        batch: The pack.
        calls: Number of tokens of each segment in each call; 0 for a segment that has ended. All tokens are reached.

    Returns:
        Outputs of the whole pack by name, in the shapes of one call, such as `[T, vocab]`.
    """
    boundaries, cache = batch.layout.cu_seqlens.tolist(), KVCache()
    visual_tokens = None if batch.images is None else model.project(model.encode(batch.images))
    lengths = batch.layout.cu_seqlens.diff().long()
    found: dict[str, Tensor] = {}
    begins, active, last_ticks = boundaries[:-1], list(range(batch.num_segments)), None
    for sizes in calls:
        kept = [place for place, s in enumerate(active) if sizes[s]]
        if len(kept) < len(active):
            cache.select(kept)
            last_ticks = None if last_ticks is None else last_ticks[kept]
            active = [active[place] for place in kept]
        counts = [sizes[s] for s in active]
        places = torch.cat([torch.arange(begins[s], begins[s] + sizes[s]) for s in active])
        layout = Layout(
            token_type=batch.layout.token_type[places],
            cu_seqlens=torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32),
            max_seqlen=max(counts),
            image_id=batch.layout.image_id[places],
            grid=batch.layout.grid,
            last_ticks=last_ticks,
            prefill_len=lengths[active],  # of the whole segment
        )
        index = batch.visual_index[places]
        used = int(index.max()) + 1
        part = replace(
            batch,
            input_ids=batch.input_ids[places],
            labels=batch.labels[places],
            layout=layout,
            visual_index=index,
            images=None,
        )
        given = visual_tokens[:used] if visual_tokens is not None and used else None
        for name, value in outputs(_WithRuntime(model, Runtime(cache=cache, visual_tokens=given)), part).items():
            found.setdefault(name, value.new_zeros(batch.num_tokens, *value.shape[1:]))[places] = value
        if model.position is not None:
            last_ticks = model.position.ticks(layout)[layout.cu_seqlens[1:].long() - 1]
        begins = [begin + n for begin, n in zip(begins, sizes, strict=True)]
    return found


class _WithRuntime:
    """A model whose calls get a given runtime."""

    def __init__(self, model: MultimodalModel, runtime: Runtime) -> None:
        self.model, self.runtime, self.heads = model, runtime, model.heads

    def __call__(self, batch: PackedBatch, runtime: Runtime | None = None, read: object = None) -> object:
        return self.model(batch, self.runtime, read)
