"""Contract 1: what a sample gives does not depend on the samples that share its pack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.model import MultimodalModel
from mmcomponents.testing.case import Case, in_double, loss_and_gradients, outputs
from mmcomponents.testing.packs import join
from mmcomponents.testing.report import Findings


def packed_equals_separate(case: Case, found: Findings) -> None:
    """Compares outputs, loss and gradients of a pack with those of its segments, in double precision.

    In fp32, some CPUs differ by 5e-5 at some positions in either computation. Outputs are compared in several packs, in
    evaluation mode; loss and gradients in one, in training mode.
    """
    model, objective = case.copied_model().double(), case.objective().double()
    apart = [in_double(pack) for pack in case.samples()]
    if case.slot != "objective":
        _compare_outputs(found, model, apart)
    model.train()
    one, together = loss_and_gradients(model, objective, [join(*apart)])
    many, separate = loss_and_gradients(model, objective, apart)
    found.true(bool(torch.isfinite(many)), f"the loss of the packs is {float(many)}")
    found.true(float(many.abs()) != 0.0, "the loss of the packs is 0: they have no targets")
    found.close("loss", one, many)
    compare_gradients(found, together, separate)


@torch.no_grad()
def _compare_outputs(found: Findings, model: MultimodalModel, apart: list[PackedBatch]) -> None:
    """Compares packs of all samples, in both orders, and of two neighbours."""
    pieces = [outputs(model, pack) for pack in apart]
    count = len(apart)
    found.true(any(pieces), "the model returns nothing")
    for chosen in (range(count), range(count - 1, -1, -1), *(range(n, n + 2) for n in range(count - 1))):
        whole = outputs(model, join(*(apart[n] for n in chosen)))
        for name, value in whole.items():
            parts = [pieces[n][name] for n in chosen if name in pieces[n]]
            found.close(f"{name} of samples {', '.join(map(str, chosen))} in one pack", value, torch.cat(parts))
    if model.backbone is not None:  # the test would notice attention between samples
        pack = join(*apart)
        joined = replace(pack.layout, cu_seqlens=pack.layout.cu_seqlens[[0, -1]], max_seqlen=pack.num_tokens)
        name = next(iter(whole))
        one, other = (outputs(model, p)[name] for p in (pack, replace(pack, layout=joined)))
        found.differ("outputs of separate and of joined samples", one, other, least=1e-4)


def compare_gradients(found: Findings, ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compares gradients by name, relative to the largest element of each, or to 1 if that is less.

    Args:
        found: Gets the differences.
        ours: Gradients of any shape, by name of the parameter.
        expected: The gradients that these have to equal, with the same shapes.
    """
    names = sorted(ours.keys() ^ expected.keys())
    found.true(not names, f"only one of two runs has gradients of {', '.join(names[:3])}")
    # From the loss backwards: an error shows in all parameters before it, and its own comes first in the report.
    for name in [name for name in reversed(list(ours)) if name in expected]:
        scale = max(1.0, float(expected[name].abs().max())) if expected[name].numel() else 1.0
        found.close(f"gradient of {name}", ours[name], expected[name], scale=scale)
