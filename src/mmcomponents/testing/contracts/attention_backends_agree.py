"""Contract 8: all attention implementations that a part can be built with give the same outputs."""

from __future__ import annotations

import inspect
from functools import partial

import torch

from mmcomponents.nn.attention import BACKENDS, choose_backend
from mmcomponents.testing.case import Case, outputs
from mmcomponents.testing.composition import small_model
from mmcomponents.testing.report import Findings, NotApplicable

_HEAD_DIM = 64
_ALLOWED = {torch.float32: 1e-4, torch.bfloat16: 5e-2}

_ARGUMENTS = {"attention": tuple(BACKENDS), "attn_implementation": ("eager", "sdpa")}
"""Argument of a part → implementations: those of `mmcomponents.nn.attention` and of transformers."""


@torch.no_grad()
def attention_backends_agree(case: Case, found: Findings) -> None:
    """Compares the outputs of models that differ in the attention implementation.

    They run on a GPU in bf16 if there is one, else on the CPU in fp32. Backends that do not run there are left out.
    """
    made = case.factory if isinstance(case.factory, partial) else partial(case.factory)
    parameters = inspect.signature(made.func).parameters
    name = next((n for n in _ARGUMENTS if n in parameters and isinstance(parameters[n].default, str)), None)
    if name is None:
        raise NotApplicable("the part takes no argument attention or attn_implementation")
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    choices = _ARGUMENTS[name]
    if name == "attention":
        choices = tuple(c for c in choices if choose_backend(c, device, dtype, _HEAD_DIM) == c)
    if len(choices) < 2:
        raise NotApplicable(f"only {choices[0]} runs on {device}")
    batch = case.mixed().to(device)
    expected: dict[str, torch.Tensor] = {}
    compared: list[str] = []
    for choice in choices:
        try:
            model = small_model(**case.with_part(partial(made, **{name: choice})))
        except ValueError:
            continue  # the part does not have it
        compared.append(choice)
        given = outputs(model.to(device, dtype), batch)
        for output, value in expected.items():
            scale = 1.0 if dtype == torch.float32 else float(value.abs().max())
            found.close(f"{output} with {name}={choice!r}", given[output], value, allowed=_ALLOWED[dtype], scale=scale)
        expected = expected or given
    if len(compared) < 2:
        raise NotApplicable(f"of {', '.join(choices)} the part has {' and '.join(compared) or 'none'}")
