"""Regional compilation: each unit of a part is compiled by inductor, one code for all units of a type."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn


class Compiled(nn.Module):
    """Base class that `compile_unit` adds to a unit."""

    compiled: Callable[..., Any]
    own_class: ClassVar[type[nn.Module]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the compiled `forward` in training; decoding and validation, without gradients, run as written."""
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        return self.compiled(*args, **kwargs)


def compile_unit(unit: nn.Module, compiles: bool) -> None:
    """Compiles a unit, in place; names of weights stay as they are.

    Its class becomes a subclass of its own class, see `checkpoint_unit`, which comes first: what is computed again is
    then compiled too. Sizes are dynamic, so that packs of other lengths run the same code. Limits of torch: a second
    backward pass through the same graph raises an error, and a hook that is registered on a module inside the unit
    after the first step is not called.

    Args:
        unit: Module that is not sharded yet.
        compiles: False restores the unit as it was written.
    """
    own = unit.own_class if isinstance(unit, Compiled) else type(unit)
    unit.__class__ = _compiled(own) if compiles else own  # type: ignore[arg-type]


@cache
def _compiled(kind: type[nn.Module]) -> type[nn.Module]:
    attributes = {"compiled": torch.compile(kind.forward, dynamic=True), "own_class": kind}
    return type(f"Compiled{kind.__name__}", (Compiled, kind), attributes)


def check_compiler() -> None:
    """Checks that this machine can compile, before a model is built.

    Raises:
        MisconfigurationException: There is no compiler for its device, or torch does not support its Python.
    """
    # Imported here: inductor takes a second to import.
    from torch._dynamo.eval_frame import check_if_dynamo_supported
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler
    from torch.utils._triton import has_triton

    try:
        check_if_dynamo_supported()
    except RuntimeError as error:
        raise MisconfigurationException(f"compile: {error}") from None
    if torch.cuda.is_available():
        if not has_triton():
            raise MisconfigurationException("compile: triton is not installed, which compiles for the GPU")
        return
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise MisconfigurationException("compile: no C++ compiler works here, such as g++, which CPUs need") from None
