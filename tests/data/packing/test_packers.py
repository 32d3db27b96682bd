"""Packers: the default one, one of another package, and wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from data.conftest import record
from data.packing.listed_epochs import ListedEpochs
from data.test_datamodule import module_of
from mmcomponents.data.errors import DataError
from mmcomponents.data.inspection.pack_statistics import measure_packing
from mmcomponents.data.packing import Packer
from mmcomponents.data.packing.balanced_packer import BalancedPacker
from mmcomponents.data.packing.base import Shares
from mmcomponents.data.packing.bin_packing import even_out, pack_block
from mmcomponents.data.packing.pack_plan import Budgets, PackPlan

TOKENS, TILES = [30, 60, 50, 40, 10, 70, 20, 45], [1, 0, 4, 2, 0, 3, 1, 0]
BUDGETS = Budgets(100, 6)


def plan_of(packer: Packer | None = None, **settings: Any) -> PackPlan:
    return PackPlan(ListedEpochs(TOKENS, TILES, BUDGETS, 0, 8), BUDGETS, 0, packer=packer, **settings)


def packs_of(plan: PackPlan) -> list[tuple[int, ...]]:
    return [plan.pack(number).samples for number in range(plan.packs_in_epoch(0))]


class InOrder(Packer):
    """Fills one pack after the other in the order of the samples.

    Args:
        most: Largest number of samples of a pack.
    """

    def __init__(self, most: int = 100) -> None:
        self.most = most

    def pack(self, sizes: Shares) -> list[list[int]]:
        packs: list[list[int]] = [[]]
        for sample in range(len(sizes)):
            if len(packs[-1]) == self.most or (sizes[[*packs[-1], sample]].sum(0) > 1).any():
                packs.append([])
            packs[-1].append(sample)
        return packs


class Wrong(Packer):
    """Puts each sample alone, but for what a function changes.

    Args:
        packed: Changes the packs.
        balanced: Changes the balanced packs.
    """

    def __init__(
        self,
        packed: Callable[[list[list[int]]], list[list[int]]] = list,
        balanced: Callable[[list[list[int]]], list[list[int]]] = list,
    ) -> None:
        self.packed, self.balanced = packed, balanced

    def pack(self, sizes: Shares) -> list[list[int]]:
        return self.packed([[sample] for sample in range(len(sizes))])

    def balance(self, sizes: Shares, packs: list[list[int]]) -> list[list[int]]:
        return self.balanced(packs)

    def __repr__(self) -> str:
        return "Wrong()"


def test_the_default_is_best_fit_and_balance() -> None:
    assert packs_of(plan_of()) == packs_of(plan_of(BalancedPacker()))
    sizes = BUDGETS.shares(np.array(TOKENS), np.array(TILES))
    packer = BalancedPacker()
    assert packer.pack(sizes) == pack_block(sizes)
    assert packer.balance(sizes, packer.pack(sizes)) == even_out(sizes, pack_block(sizes))


def test_a_packer_of_ones_own_decides_the_packs() -> None:
    plan = plan_of(InOrder(2), shuffle=False)
    found = packs_of(plan)
    assert sorted(sample for pack in found for sample in pack) == list(range(8))
    assert max(map(len, found)) <= 2
    assert found != packs_of(plan_of(shuffle=False))
    assert all(sum(TOKENS[sample] for sample in pack) <= 100 for pack in found)
    again = plan_of(InOrder(2), shuffle=False)
    assert again.pack(5) == plan.pack(5), "any rank computes the same packs"
    assert measure_packing(plan_of(InOrder(1))).packs == 8


def test_packs_without_samples_are_left_out() -> None:
    assert len(packs_of(plan_of(Wrong(lambda packs: [[], *packs, []])))) == 8


@pytest.mark.parametrize(
    ("packer", "message"),
    [
        (Wrong(lambda packs: [*packs, [3]]), r"has put 1 of 8 samples in no pack or in several"),
        (Wrong(lambda packs: packs[2:]), r"has put 2 of 8 samples in no pack or in several"),
        (Wrong(lambda packs: []), r"has put 8 of 8 samples in no pack or in several"),
        (Wrong(lambda packs: [*packs, [8]]), r"has packed a sample 8 of 8"),
        (Wrong(lambda packs: [*packs, [-1]]), r"has packed a sample -1 of 8"),
        (Wrong(lambda packs: [list(range(8))]), r"has filled a pack to 3\.25 times its budget"),
        (Wrong(balanced=lambda packs: packs[1:]), r"has balanced 8 packs to 7"),
        (Wrong(balanced=lambda packs: [[], [*packs[0], *packs[4]], *packs[1:4], *packs[5:]]), r"has balanced 8 packs"),
        (Wrong(balanced=lambda packs: [packs[1], *packs[1:]]), r"has put 2 of 8 samples in no pack or in several"),
    ],
)
def test_a_wrong_packer_is_named_in_one_line(packer: Packer, message: str) -> None:
    with pytest.raises(DataError, match=rf"^the packer Wrong\(\) {message}") as caught:
        packs_of(plan_of(packer))
    assert "\n" not in str(caught.value)


def test_a_budget_may_be_filled_up_to_rounding() -> None:
    class Rounding(Packer):
        def pack(self, sizes: Shares) -> list[list[int]]:
            return [list(range(len(sizes)))]

    budgets = Budgets(7, None)
    plan = PackPlan(ListedEpochs([1] * 7, [0] * 7, budgets, 0), budgets, 0, packer=Rounding())
    assert plan.packs_in_epoch(0) == 1


def test_a_resumed_run_recognises_its_packer() -> None:
    default = plan_of().fingerprint()
    assert default == plan_of(BalancedPacker()).fingerprint()
    prints = {plan_of(packer).fingerprint() for packer in (InOrder(2), InOrder(3), Wrong())}
    assert len(prints | {default}) == 4
    assert plan_of(InOrder(2)).fingerprint() == plan_of(InOrder(2)).fingerprint()
    assert repr(InOrder(2)) == f"{__name__}.InOrder(most=2)"


def test_the_fingerprint_of_the_default_is_that_of_earlier_versions() -> None:
    """A run of an earlier version resumes without a warning."""
    assert plan_of().fingerprint() == FINGERPRINT


FINGERPRINT = "c8df27185a26bae8"


def test_the_data_module_takes_a_packer(
    write_shard: Callable[..., Path], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_shard([(record(f"How many {number}?"), []) for number in range(7)])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    lengths = {}
    for name, packer in {"default": None, "pairs": InOrder(2)}.items():
        data = module_of(tmp_path, packer=packer, val=str(tmp_path / "train-*.tar"))
        data.setup("fit")
        lengths[name] = len(data.train_dataloader()), len(data.val_dataloader())
    assert lengths == {"default": (1, 1), "pairs": (4, 4)}
    data = module_of(tmp_path, packer=Wrong(lambda packs: packs[1:]))
    data.setup("fit")
    with pytest.raises(DataError, match="samples in no pack or in several"):
        data.train_dataloader()


def test_the_fingerprint_does_not_depend_on_what_a_packer_remembers() -> None:
    class Remembers(BalancedPacker):
        def __init__(self) -> None:
            self.blocks = 0

        def pack(self, sizes: Shares) -> list[list[int]]:
            self.blocks += 1
            return super().pack(sizes)

    plan = plan_of(Remembers())
    before = plan.fingerprint()
    packs_of(plan)
    assert plan.fingerprint() == before
    assert plan.fingerprint() != plan_of(BalancedPacker()).fingerprint()
