"""Memory and FLOPs of a training step, measured by running the model on the meta device, where tensors have no data.

    model on meta, pack, setting ── trace_step ──► bytes kept by slot, peak bytes, FLOPs by slot

Every operation passes through a recorder, which follows each new storage until it is freed. What is alive after the
forward pass is kept for the backward pass, whoever keeps it: saved tensors, a checkpoint, an attribute of a node.
Integers stay real, since masks and boundaries depend on their values. Attention is recorded as the flash kernels do it:
it keeps queries, keys, values, its result and a number per query, and no matrix of scores.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import noop_context_fn
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from mmcomponents.model import MultimodalModel
from mmcomponents.training.memory.device_memory import HEAD
from mmcomponents.training.memory.meta_attention import FlashAttention
from mmcomponents.training.memory.meta_results import MetaResults
from mmcomponents.training.units.checkpointing import Checkpointed

_MADE = (torch.ops.aten._to_copy, torch.ops.aten.arange)
"""Operations with which code puts integers, whose values it may read, where its activations are."""

_INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@dataclass(frozen=True)
class StepTrace:
    """What a forward and a backward pass need, without weights and their gradients.

    Attributes:
        kept: Bytes that each slot keeps at the end of the forward pass.
        forward: Most bytes at once in the forward pass.
        backward: Most bytes at once in the backward pass, with those gradients that are already there.
        flops: Floating-point operations of each slot in both passes, with what is computed again.
    """

    kept: dict[str, int]
    forward: int
    backward: int
    flops: dict[str, int]


def trace_step(
    model: MultimodalModel, loss: Callable[[], Tensor], gradient: Callable[[nn.Parameter], int]
) -> StepTrace:
    """Runs a step of a model on the meta device.

    Args:
        model: Model on the meta device, in the data type of the computation; its units are changed.
        loss: Runs the model's forward pass and returns a scalar.
        gradient: Bytes that the gradient of a parameter takes on a device once it is computed.
    """
    for unit in model.modules():
        if isinstance(unit, Checkpointed):
            unit.contexts = partial(_contexts, type(unit).contexts or noop_context_fn)
    recorder = _Recorder(model)
    with _labelled(model, recorder), FlashAttention(), recorder:
        value = loss()
        kept, forward = dict(recorder.alive), recorder.peak
        recorder.begin_backward()
        with _counted(model, recorder, gradient):
            value.backward()
    flops = {slot: int(count) for slot, count in recorder.flops.items()}
    return StepTrace({slot: size for slot, size in kept.items() if size}, forward, recorder.peak, flops)


def trace_forward(model: MultimodalModel, loss: Callable[[], Tensor]) -> dict[str, int]:
    """Returns the floating-point operations of each slot in a forward pass without gradient."""
    recorder = _Recorder(model)
    with torch.no_grad(), _labelled(model, recorder), FlashAttention(), recorder:
        loss()
    return {slot: int(count) for slot, count in recorder.flops.items()}


class _Recorder(TorchDispatchMode):
    """Follows storages from their first to their last use, and counts FLOPs, by slot."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slot = HEAD
        self.alive: dict[str, int] = defaultdict(int)
        self.flops: dict[str, float] = defaultdict(float)
        self.peak = self._now = self._held = 0
        self._call = MetaResults()
        self._seen = WeakIdKeyDictionary()
        self._ends: dict[int, weakref.ref[Any]] = {}
        for weight in (*model.parameters(), *model.buffers()):
            self._seen[weight.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket in _MADE and _is_whole(args, kwargs):
            kwargs = kwargs | {"device": torch.device("cpu")}
        if len({tensor.is_meta for tensor in _tensors((*args, *kwargs.values()))}) == 2:
            args, kwargs = _on_meta(func, args, kwargs)
        out = self._call(func, args, kwargs)
        if func._overloadpacket in flop_registry:
            self.flops[self.slot] += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        for tensor in _tensors((out,)):
            self._follow(tensor.untyped_storage())
        return out

    def begin_backward(self) -> None:
        """Starts the peak anew."""
        self.peak = self._now

    def hold(self, size: int) -> None:
        """Adds bytes that stay until the end of the step."""
        self._held += size
        self.peak = max(self.peak, self._now + self._held)

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        size, slot, key = storage.nbytes(), self.slot, id(storage)

        def end(_: Any) -> None:
            self._now -= size
            self.alive[slot] -= size
            del self._ends[key]

        self._seen[storage] = None
        self._ends[key] = weakref.ref(storage, end)
        self._now += size
        self.alive[slot] += size
        self.peak = max(self.peak, self._now + self._held)


def _is_whole(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether an operation puts real integers or truth values on the meta device."""
    on_meta = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta"
    kind = kwargs.get("dtype")
    if kind is None:
        kind = args[0].dtype if isinstance(args[0], Tensor) else torch.tensor(args[-1]).dtype
    return on_meta and not any(t.is_meta for t in _tensors(args)) and not kind.is_floating_point


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yields the tensors among the arguments or the results of an operation."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _on_meta(func: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Moves what was made from the real integers of a pack to where the activations are; masks become positions."""
    if func._overloadpacket in _INDEXED:
        value, indices, *others = args
        places = [t.nonzero().unbind(1) if t is not None and t.dtype == torch.bool else (t,) for t in indices]
        args = (value, [t for place in places for t in place], *others)
    return cast(tuple[Any, Any], tree_map_only(Tensor, _moved, (args, kwargs)))


def _moved(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta or tensor.ndim == 0 else torch.empty_like(tensor, device="meta")


@contextmanager
def _labelled(model: MultimodalModel, recorder: _Recorder) -> Iterator[None]:
    """Tells the recorder which slot computes: in the forward pass by calls, in the backward pass by gradients."""

    def enter(slot: str, *_: Any) -> None:
        recorder.slot = slot

    def leave(slot: str, _part: nn.Module, _args: Any, out: Any) -> None:
        def mark(tensor: Tensor) -> Tensor:
            if tensor.requires_grad:
                tensor.register_hook(partial(enter, slot))
            return tensor

        apply_to_collection(out, Tensor, mark)
        recorder.slot = HEAD

    handles = []
    for name, part in model.parts().items():
        if not name.startswith("heads."):
            handles.append(part.register_forward_pre_hook(partial(enter, name)))
            handles.append(part.register_forward_hook(partial(leave, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _counted(model: nn.Module, recorder: _Recorder, gradient: Callable[[nn.Parameter], int]) -> Iterator[None]:
    """Replaces each gradient, once it is complete, by its size on a device."""

    def take(parameter: Tensor) -> None:
        parameter.grad = None
        recorder.hold(gradient(cast(nn.Parameter, parameter)))

    handles = [p.register_post_accumulate_grad_hook(take) for p in model.parameters() if p.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contexts(own: Callable[[], Any]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Returns the contexts of a checkpoint, with attention replaced in the backward pass, where function modes end."""
    forward, again = own()
    return forward, _entered(again)


@contextmanager
def _entered(other: AbstractContextManager[Any]) -> Iterator[None]:
    with other, FlashAttention():
        yield
