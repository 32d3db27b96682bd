"""The contract tests over every registered component; those of the visual side are in `test_contracts_of_images.py`.

Their deliberate breaks are in `tests/testing/contracts`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peft import LoraConfig

from contracts.cases import PARTS
from contracts.chosen_cases import cases, check
from mmcomponents import registry
from mmcomponents.model import MultimodalModel
from mmcomponents.testing import Ranks, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.decode_equals_forward import decode_equals_forward
from mmcomponents.testing.contracts.packed_equals_separate import packed_equals_separate
from mmcomponents.testing.contracts.packs_of_one_kind import packs_of_one_kind
from mmcomponents.testing.report import Findings
from mmcomponents.training import SlotOptions
from mmcomponents.training.adapters import inject_adapters, start_adapters


@pytest.mark.parametrize(("name", "tests"), cases(visual=False))
def test_contracts(name: str, tests: list[str], two_ranks: Ranks) -> None:
    check(name, tests, two_ranks)


def test_every_registered_part_has_a_case() -> None:
    used = {name.partition(" ")[0].rstrip(",") for name in PARTS}
    elsewhere = ("record_kind", "packer")  # test_data_contracts.py
    inner = ("text_encoder", "noise_schedule", "denoiser")  # tested within the parts that take them
    slots = [slot for slot in registry.slots() if slot not in (*elsewhere, *inner)]
    own = {p.name for slot in slots for p in registry.available(slot) if p.package == "mmcomponents"}
    assert own
    extra = {"DiffusersAutoencoder"}  # needs the extra diffusers; tests/heads/test_diffusers_autoencoder.py
    assert own - extra <= used


class Adapted(Case):
    """The tiny InternVL3 with adapters that are not zero."""

    def model(self, seed: int = 0) -> MultimodalModel:
        model = super().model(seed)
        lora = {"r": 4, "init_lora_weights": False}
        inject_adapters(
            model,
            {
                "backbone": SlotOptions(adapter=LoraConfig(target_modules=["q_proj", "o_proj", "up_proj"], **lora)),
                "vision": SlotOptions(adapter=LoraConfig(target_modules=["qkv", "fc2"], **lora)),
            },
        )
        start_adapters(model, seed)
        return model.eval()


@pytest.mark.parametrize(
    "test", [packed_equals_separate, decode_equals_forward, packs_of_one_kind], ids=lambda test: test.__name__
)
def test_contracts_with_adapters(test: Callable[[Case, Findings], None]) -> None:
    """Forward, decoding and gradients; `training/test_adapters.py` has state and ranks."""
    parts = small_parts()
    found = Findings()
    test(Adapted("backbone", parts["backbone"], parts, text_packs), found)
    assert found.compared
    assert not found.failures
