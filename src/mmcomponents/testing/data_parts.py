"""Contract tests of the parts that data is made with: record kinds and packers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.kinds import RecordKind, Sample, kind_name
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.packing.base import Packer
from mmcomponents.data.packing.pack_plan import Block, Budgets, PackPlan
from mmcomponents.movable import Exact
from mmcomponents.testing.report import Findings, Report, Result, described

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SETTINGS = ((1, 1, None), (4, 3, None), (2, 2, "You see."))
"""Visual tokens per tile, tiles of an image and system text of three runs."""


def check_record_kind(
    kind: RecordKind, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase | None = None
) -> Report:
    """Runs the contract tests on a record kind.

    - `matches_its_records`: it matches the record of each sample, and `check` accepts it.
    - `measured_as_rendered`: the length that is planned from `measure` is that of the rendered segments, for several
      numbers of tiles, visual tokens per tile and system texts.
    - `rendering_repeats`: rendering a sample twice gives the same.
    - `fields_join`: packs of one and of all samples have the same fields as the pack without samples, and moving a pack
      keeps them.
    - `prompts_as_counted`: `prompts` returns as many questions as `turns` says.

    Args:
        kind: Instance of the kind.
        samples: At least one sample: its record, one image for each of its images and a list of images for each of its
            videos (whatever their tiles, such as `TiledImage.of_tiles(1)`), and its members.
        tokenizer: Tokenizer with the tokens of the chat template. Default: a small one, trained in milliseconds.

    Raises:
        ContractError: A test failed; the message is the report.
        ValueError: There are no samples, or one has no record.
    """
    if not samples or not all(isinstance(sample, Sample) for sample in samples):
        raise ValueError("samples has to be a list of one or more mmcomponents.data.chat.Sample")
    known = tokenizer or train_tokenizer(["user assistant system You see."], 300)
    checks = (_matches_its_records, _measured_as_rendered, _rendering_repeats, _fields_join, _prompts_as_counted)
    case = _KindCase(kind, list(samples), known)
    return _report(f"record_kind {kind_name(kind)}", [(check, case) for check in checks])


def check_packer(packer: Packer) -> Report:
    """Runs the contract tests on a packer.

    - `packs_all_samples`: each sample is in exactly one pack and no pack exceeds a budget, for blocks of samples of
      different sizes and numbers; balancing keeps both, and the number of packs.
    - `packing_repeats`: packing a block twice gives the same packs, and the packer's repr, by which a resumed run
      recognises its plan, is the same before and after.

    Args:
        packer: Instance of the packer.

    Raises:
        ContractError: A test failed; the message is the report.
    """
    return _report(f"packer {type(packer).__name__}", [(_packs_all_samples, packer), (_packing_repeats, packer)])


@dataclass(frozen=True)
class _KindCase:
    kind: RecordKind
    samples: list[Sample]
    tokenizer: PreTrainedTokenizerBase

    def renderer(self, tokens_per_tile: int, system: str | None) -> SampleRenderer:
        return SampleRenderer(self.tokenizer, tokens_per_tile, system=system)

    def with_tiles(self, sample: Sample, tiles: int) -> Sample:
        """Returns a sample whose images have this many tiles, and the frames of its videos one, or none."""
        images = [TiledImage.of_tiles(tiles) for _ in sample.images]
        videos = [[TiledImage.of_tiles(min(tiles, 1)) for _ in video] for video in sample.videos]
        return replace(sample, images=images, videos=videos, key=(0, 0, 0, 0))

    def render(self, sample: Sample, setting: tuple[int, int, str | None] = _SETTINGS[1]) -> list[RenderedSample]:
        tokens_per_tile, tiles, system = setting
        return self.kind.render(self.with_tiles(sample, tiles), self.renderer(tokens_per_tile, system))

    def pack(self, samples: Sequence[Sample]) -> PackedBatch:
        tokens_per_tile, _, system = _SETTINGS[1]
        segments = [segment for sample in samples for segment in self.render(sample)]
        pad_id = self.renderer(tokens_per_tile, system).pad_id
        return collate(segments, tokens_per_tile, pad_id, empty=self.kind.empty())


def _matches_its_records(case: _KindCase, found: Findings) -> None:
    for number, sample in enumerate(case.samples):
        found.true(case.kind.matches(sample.record), f"sample {number}: the kind does not match its record")
        case.kind.check(sample.record)


def _measured_as_rendered(case: _KindCase, found: Findings) -> None:
    for number, sample in enumerate(case.samples):
        size = case.kind.measure(case.with_tiles(sample, 0), case.renderer(1, None))
        for tokens_per_tile, tiles, system in _SETTINGS:
            shown = len(sample.images) * tiles + sum(map(len, sample.videos))
            renderer = case.renderer(tokens_per_tile, system)
            planned = size.text_tokens + size.uses * shown * tokens_per_tile
            planned += 0 if size.own_system else size.segments * renderer.system_tokens
            length = sum(len(segment.input_ids) for segment in case.render(sample, (tokens_per_tile, tiles, system)))
            setting = f"{tiles} tiles of {tokens_per_tile} tokens{'' if system is None else ' and a system text'}"
            found.true(
                length == planned, f"sample {number} with {setting}: {planned} tokens planned, {length} rendered"
            )


def _rendering_repeats(case: _KindCase, found: Findings) -> None:
    for number, sample in enumerate(case.samples):
        first, second = case.render(sample), case.render(sample)
        same = len(first) == len(second) and all(
            _plain(getattr(one, name)) == _plain(getattr(other, name))
            for one, other in zip(first, second, strict=True)
            for name in ("input_ids", "labels", "spans", "extras")
        )
        found.true(same, f"sample {number}: rendering it twice gives different segments")


def _fields_join(case: _KindCase, found: Findings) -> None:
    none, every = case.pack([]), case.pack(case.samples)
    for what, pack in [("all samples", every), *((f"sample {n}", case.pack([s])) for n, s in enumerate(case.samples))]:
        for name in none.extras.keys() ^ pack.extras.keys():
            only = "the pack without samples" if name in none.extras else f"the pack of {what}"
            found.true(False, f"only {only} has the field {name!r}: RecordKind.empty has to return it without items")
        moved = pack.to("cpu")
        found.true(_plain(moved.extras) == _plain(pack.extras), f"{what}: moving the pack changes its fields")
        found.true(len(moved.keys) == pack.num_segments, f"{what}: the pack has another number of segments than keys")


def _prompts_as_counted(case: _KindCase, found: Findings) -> None:
    for number, sample in enumerate(case.samples):
        turns = case.kind.turns(sample.record)
        if turns:
            prompts = case.kind.prompts(case.with_tiles(sample, 1), case.renderer(4, None))
            found.true(len(prompts) == turns, f"sample {number}: turns is {turns}, prompts are {len(prompts)}")
        else:
            found.true(True, "")


class _Block:
    """A single epoch of one block of samples of random sizes."""

    def __init__(self, sizes: np.ndarray) -> None:
        count = np.arange(len(sizes))
        self.made = Block(count, np.zeros_like(count), sizes[:, 0], sizes[:, 1])

    def blocks(self, epoch: int) -> int:
        return 1

    def block(self, epoch: int, number: int) -> Block:
        return self.made

    def fingerprint(self) -> str:
        return ""


def _plans(packer: Packer) -> list[tuple[str, PackPlan]]:
    plans = []
    for count in (1, 2, 7, 64, 300):
        for most in (20, 100):
            random = np.random.default_rng((count, most))
            sizes = np.stack([random.integers(1, most + 1, count), random.integers(0, 11, count)], 1)
            name = f"{count} samples of up to {most} of 100 tokens"
            plans.append((name, PackPlan(_Block(sizes), Budgets(100, 10), 0, packer=packer)))
    return plans


def _packs_all_samples(packer: Packer, found: Findings) -> None:
    for name, plan in _plans(packer):
        try:
            packs = plan.packs_in_epoch(0)
            plan.block_packs(0, 0)
        except DataError as error:
            found.true(False, f"{name}: {error}")
        else:
            found.true(packs > 0, f"{name}: there are no packs")


def _packing_repeats(packer: Packer, found: Findings) -> None:
    before = repr(packer)
    for (name, one), (_, other) in zip(_plans(packer), _plans(packer), strict=True):
        found.true(one.block_packs(0, 0)[1] == other.block_packs(0, 0)[1], f"{name}: packing twice gives other packs")
    after = repr(packer)
    found.true(after == before, f"packing changes the repr of the packer, from {before} to {after}")


def _report(title: str, checks: Sequence[tuple[Callable[[Any, Findings], None], Any]]) -> Report:
    results = []
    for check, case in checks:
        found = Findings()
        try:
            with torch.random.fork_rng(devices=[]):
                check(case, found)
        except (Exception, SystemExit) as error:
            found.failures.append(described(error))
        results.append(Result.of(check.__name__.removeprefix("_"), found))
    report = Report(title, results)
    logger.info("%s", report)
    report.raise_for_failures()
    return report


def _plain(value: Any) -> Any:
    """Returns a value that `==` compares, of tensors and dataclasses at any depth."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, Exact):
        return [_plain(tensor) for tensor in value]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if is_dataclass(value):
        return type(value).__name__, [_plain(getattr(value, item.name)) for item in fields(value)]
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
