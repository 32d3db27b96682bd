"""Record kinds and packers that break a contract, each of which one test has to name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat import Prompt, RecordKind, RenderedSample, Sample, SampleRenderer
from mmcomponents.data.chat.kinds import Chat
from mmcomponents.data.media.images import TiledImage
from mmcomponents.data.packing.base import Packer, Shares
from mmcomponents.extras import Actions, Extra
from mmcomponents.movable import Exact
from mmcomponents.testing import ContractError, check_packer, check_record_kind

MESSAGES = [{"role": "user", "content": "<image>\nWhere to?"}, {"role": "assistant", "content": "There."}]
SAMPLES = [Sample({"messages": MESSAGES, "value": 0.5}, [TiledImage.of_tiles(1)])]


class Values(Chat):
    """A kind that keeps its contract: conversations with a float target."""

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        (segment,) = super().render(sample, renderer)
        values = torch.tensor([[sample.record["value"]]])
        segment.extras["actions"] = Actions(Exact(values), torch.tensor([True]))
        return [segment]

    def empty(self) -> dict[str, Extra]:
        return {"actions": Actions.none(1)}


class MatchesNothing(Values):
    def matches(self, record: Mapping[str, Any]) -> bool:
        return False


class LongerWithTiles(Values):
    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        (segment,) = super().render(sample, renderer)
        more = 1 if renderer.tokens_per_tile > 1 else 0
        return [
            replace(segment, input_ids=[*segment.input_ids, *[0] * more], labels=[*segment.labels, *[IGNORE] * more])
        ]


class WithoutSystemText(Values):
    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        return False


class ChangesItsValue(Values):
    calls = itertools.count()

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        (segment,) = super().render(sample, renderer)
        segment.extras["actions"] = Actions(Exact(torch.tensor([[float(next(self.calls))]])), torch.tensor([True]))
        return [segment]


class WithoutEmptyField(Values):
    def empty(self) -> dict[str, Extra]:
        return {}


class CountsTooMany(Values):
    def turns(self, record: Mapping[str, Any]) -> int:
        return 2


class Fails(Values):
    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        raise KeyError("value")


def test_a_kind_of_ones_own() -> None:
    assert [result.status for result in check_record_kind(Values(), SAMPLES).results] == ["passed"] * 5


@pytest.mark.parametrize(
    ("kind", "tests", "message"),
    [
        (MatchesNothing, "matches_its_records", "does not match its record"),
        (LongerWithTiles, "measured_as_rendered", "tokens planned"),
        (WithoutSystemText, "measured_as_rendered", "a system text"),
        (ChangesItsValue, "rendering_repeats", "different segments"),
        (WithoutEmptyField, "measured_as_rendered fields_join", "RecordKind.empty"),
        (CountsTooMany, "prompts_as_counted", "turns is 2, prompts are 1"),
        (Fails, "prompts_as_counted", "KeyError"),
    ],
)
def test_broken_kinds(kind: Callable[[], RecordKind], tests: str, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_record_kind(kind(), SAMPLES)
    failed = {result.test: result.detail for result in caught.value.report.results if result.status == "failed"}
    assert list(failed) == tests.split()
    assert message in failed[tests.split()[-1]]


def test_a_kind_needs_samples() -> None:
    with pytest.raises(ValueError, match="one or more"):
        check_record_kind(Values(), [])


class InOrder(Packer):
    """A packer that keeps its contract: the next pack begins when a sample does not fit."""

    def pack(self, sizes: Shares) -> list[list[int]]:
        packs, left = list[list[int]](), [0.0, 0.0]
        for number, (tokens, tiles) in enumerate(sizes.tolist()):
            if tokens > left[0] + 1e-9 or tiles > left[1] + 1e-9:
                packs.append([])
                left = [1.0, 1.0]
            packs[-1].append(number)
            left = [left[0] - tokens, left[1] - tiles]
        return packs


class LosesOne(InOrder):
    def pack(self, sizes: Shares) -> list[list[int]]:
        return [pack[:-1] for pack in super().pack(sizes)]


class Overfills(InOrder):
    def pack(self, sizes: Shares) -> list[list[int]]:
        return [list(range(len(sizes)))]


class MakesFewer(InOrder):
    def balance(self, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
        return packs[1:]


class DependsOnTheCall(InOrder):
    def __init__(self) -> None:
        self.calls = 0

    def pack(self, sizes: Shares) -> list[list[int]]:
        self.calls += 1
        if self.calls % 2:
            return [[number] for number in range(len(sizes))]
        return super().pack(sizes)


class CountsItsCalls(InOrder):
    """Packs the same each time, and shows a number that changes."""

    def __init__(self) -> None:
        self.calls = 0

    def pack(self, sizes: Shares) -> list[list[int]]:
        self.calls += 1
        return super().pack(sizes)

    def __repr__(self) -> str:
        return f"CountsItsCalls({self.calls})"


def test_a_packer_of_ones_own() -> None:
    assert [result.status for result in check_packer(InOrder()).results] == ["passed"] * 2


@pytest.mark.parametrize(
    ("packer", "test", "message"),
    [
        (LosesOne, "packs_all_samples", "in no pack or in several"),
        (Overfills, "packs_all_samples", "times its budget"),
        (MakesFewer, "packs_all_samples", "has balanced"),
        (DependsOnTheCall, "packing_repeats", "other packs"),
        (CountsItsCalls, "packing_repeats", "the repr of the packer, from CountsItsCalls("),
    ],
)
def test_broken_packers(packer: Callable[[], Packer], test: str, message: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_packer(packer())
    failed = {result.test: result.detail for result in caught.value.report.results if result.status == "failed"}
    assert message in failed[test]
