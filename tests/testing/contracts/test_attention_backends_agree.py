from __future__ import annotations

import pytest
import torch

import tiny
from mmcomponents.projectors import LinearProjector
from mmcomponents.testing import check_component
from testing.contracts.broken import failure


class Eager(LinearProjector):
    def __init__(self, in_features, out_features, attn_implementation="sdpa"):
        super().__init__(in_features, out_features)
        self.factor = 1.001 if attn_implementation == "eager" else 1.0

    def forward(self, features, embedding_weight=None):
        return super().forward(features) * self.factor


def test_an_implementation_that_differs() -> None:
    said = failure("attention_backends_agree", "projector", Eager)
    assert "output of lm with attn_implementation='sdpa' differs by" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
def test_a_single_backend_is_no_comparison() -> None:
    report = check_component("backbone", tiny.backbone_factory(), only=["attention_backends_agree"])
    assert report.results[0].detail == "only sdpa runs on cpu"


@pytest.mark.gpu
def test_backends_on_a_gpu() -> None:
    for slot, factory in (("backbone", tiny.backbone_factory()), ("vision", tiny.vision_factory())):
        report = check_component(slot, factory, only=["attention_backends_agree"])
        assert report.results[0].status == "passed"
