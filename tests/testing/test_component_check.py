"""Arguments, errors and report of `check_component`; the contract tests themselves are in `contracts`."""

from __future__ import annotations

import itertools
import logging
import random
import sys
from functools import partial

import pytest
import torch

import tiny
from mmcomponents.batch import LossOutput
from mmcomponents.heads import LMHead
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.objectives import NextToken, token_weights
from mmcomponents.projectors import LinearProjector, MLPProjector
from mmcomponents.registry import PartError
from mmcomponents.testing import ContractError, check_component, small_parts, text_packs
from mmcomponents.testing.component_check import CONTRACTS
from mmcomponents.vision import InternViT

SIZES = ["declared_sizes"]


class Doubled(LinearProjector):
    """Declares half of its width."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.out_features = out_features // 2


class Broken(LinearProjector):
    def forward(self, features, embedding_weight=None):
        raise RuntimeError("no such kernel")


class Misspelt(LinearProjector):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__({}["width"], out_features)


class Scale(LinearProjector):
    """Has a random number outside of its state."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.scale = random.random()

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.scale


class Exits(LinearProjector):
    def forward(self, features, embedding_weight=None):
        sys.exit(3)


class Noisy(NextToken):
    """Weights the likelihood of each segment by a random number."""

    def forward(self, model, batch, totals):
        draws = torch.tensor([float(generator.random()) for generator in batch.generators("noise")])
        factor = draws[batch.layout.segment_of_token()]
        rows = token_weights(batch.labels, batch.layout.cu_seqlens, "token") * factor / totals["weight"]

        def read(heads, state):
            return heads["lm"].weighted_nll(state.hidden, batch.labels, rows.to(state.hidden.dtype))[0]

        total = model(batch, read=read)
        return LossOutput(total, {"loss": total.detach()})


NUMBERS = itertools.count()
PACKS = text_packs(0, tile=16, tokens_per_tile=4)


def test_an_objective_draws_the_same_noise_for_a_sample_in_any_pack() -> None:
    report = check_component("objective", Noisy, only=["packed_equals_separate"])
    assert report.results[0].status == "passed"


def test_what_failed_before_a_test_turned_out_not_to_apply() -> None:
    """A lambda is in no folder, but the comparison before the folder has failed."""
    with pytest.raises(ContractError, match="output of lm after load_state_dict differs by"):
        check_component("projector", lambda a, b: Scale(a, b), only=["state_round_trip"])


def test_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_component("projector", MLPProjector, only=["state_round_trip", "declared_sizes"])
    assert torch.equal(torch.rand(3), expected)


def test_a_part_that_ends_the_process() -> None:
    with pytest.raises(ContractError, match="SystemExit: 3"):
        check_component("projector", Exits, only=["declared_sizes"])


def test_a_report_names_each_test(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mmcomponents.testing.component_check"):
        report = check_component(
            "projector",
            MLPProjector,
            only=["declared_sizes", "neutral_start", "half_precision"],
            not_applicable={"half_precision": "it is only used in fp32"},
        )
    assert str(report).splitlines() == [
        "projector MLPProjector: 1 passed, 2 not applicable",
        "  not applicable  neutral_start                no neutral start is given (neutral=NeutralStart(…))",
        "  passed          declared_sizes",
        "  not applicable  half_precision               it is only used in fp32",
    ]
    assert str(report) in caplog.text


def test_all_failures_are_reported() -> None:
    with pytest.raises(ContractError) as caught:
        check_component("projector", Broken, only=["declared_sizes", "packs_of_one_kind"])
    assert [r.status for r in caught.value.report.results] == ["failed", "failed"]
    lines = str(caught.value).splitlines()
    assert lines[0] == "projector Broken: 2 failed"
    assert "RuntimeError: no such kernel (" in lines[1]
    assert "test_component_check.py:" in lines[1]


def test_a_failure_says_by_how_much() -> None:
    with pytest.raises(ValueError, match="Doubled gives tokens of width 16 and DecoderLM takes 32"):
        check_component("projector", Doubled, only=SIZES)  # found by the wiring checks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["declared_size"]}, "no contract test 'declared_size' for this slot; did you mean 'declared_sizes'"),
        ({"only": "declared_sizes"}, "only is 'declared_sizes', not a list of one or more tests"),
        ({"only": []}, r"only is \[\], not a list"),
        ({"not_applicable": {"speed": "slow"}}, "no contract test 'speed' for this slot"),
        ({"not_applicable": {"neutral_start": " "}}, "not_applicable gives no reason for neutral_start"),
        ({"not_applicable": {"neutral_start": None}}, "not_applicable gives no reason for neutral_start"),
        ({"not_applicable": ["neutral_start"]}, "not_applicable is a list, not a dict of reasons by test"),
        ({"neutral": (None, None)}, r"neutral is a tuple, not mmcomponents\.testing\.NeutralStart"),
        ({"ranks": 2}, r"ranks is a int, not mmcomponents\.testing\.Ranks"),
        ({"packs": []}, "packs has to be a function of"),
        ({"packs": lambda seed: []}, "packs has to be a function of"),
        ({"packs": lambda seed, tile, tokens_per_tile: None}, "packs has to be a function of"),
        ({"packs": lambda seed, tile, tokens_per_tile: [1, 2]}, "packs has to be a function of|packs returns a int"),
        (
            {"packs": lambda *_, **__: [PACKS[0], PACKS[3]]},
            "has to return a pack without images, as a rank may",
        ),
        ({"packs": lambda *_, **__: text_packs(next(NUMBERS), tile=16, tokens_per_tile=4)}, "other packs for the same"),
        ({"packs": lambda *_, **__: text_packs(0, tile=16, tokens_per_tile=4)[:1]}, "need at least two packs"),
        (
            {"neighbours": {"projector": MLPProjector(4, 4)}},
            "the projector is an instance of MLPProjector: give",
        ),
        ({"neighbours": {"heads": LMHead}}, "as heads, not a dict of factories by name"),
        ({"neighbours": {"heads": {"lm": "LMHead"}}}, "the lm is 'LMHead', not a class"),
        ({"neighbours": {"merger": None}}, "neighbours names the slot under test, merger"),
        ({"neighbours": {"head": None}}, "no slot head; the slots are vision, fuser, merger"),
        ({"neighbours": {"vision": None}}, "merger PixelUnshuffle cannot be built: the merger needs a vision encoder"),
    ],
)
def test_wrong_arguments(arguments, message) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_component("merger", PixelUnshuffle, **arguments)


def test_wrong_factories() -> None:
    with pytest.raises(PartError, match="no slot 'projectors'; did you mean 'projector'"):
        check_component("projectors", MLPProjector)
    with pytest.raises(ValueError, match="the projector is an instance of MLPProjector: give the class"):
        check_component("projector", MLPProjector(4, 4))
    with pytest.raises(ValueError, match="the projector is 'MLPProjector', not a class"):
        check_component("projector", "MLPProjector")
    with pytest.raises(ValueError, match="projector Misspelt cannot be built: KeyError: 'width'"):
        check_component("projector", Misspelt)
    with pytest.raises(ValueError, match="cannot be built: PixelUnshuffle is not a subclass of Projector"):
        check_component("projector", lambda *_: PixelUnshuffle(24), neighbours={"merger": None})
    with pytest.raises(ValueError, match=r"vision InternViT cannot be built: .*unexpected keyword argument 'depth'"):
        check_component("vision", partial(InternViT, depth=2))
    with pytest.raises(ValueError, match=r"projector MLPProjector cannot be built: .*takes from"):
        check_component("projector", partial(MLPProjector, 4, 4, 4, 4), only=SIZES)


def test_other_sizes_of_tiles_and_models_without_language() -> None:
    """The packs follow the encoder's tiles; a model may end after any slot."""
    large = partial(tiny.vision_factory(), image_size=32)
    assert not check_component("vision", large, only=[*SIZES, "packed_equals_separate"]).with_status("failed")
    rest = dict.fromkeys(("projector", "embedder", "position", "backbone", "heads"))
    report = check_component("merger", PixelUnshuffle, neighbours=rest, only=[n for n in CONTRACTS if n in ALONE])
    assert [r.status for r in report.results] == ["passed"] * len(ALONE)


ALONE = ["packed_equals_separate", "declared_sizes", "packs_of_one_kind", "state_round_trip", "half_precision"]


def test_small_parts_refuses_unknown_slots() -> None:
    with pytest.raises(TypeError, match="no slot visual"):
        small_parts(visual=None)
