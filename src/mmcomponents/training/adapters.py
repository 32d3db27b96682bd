"""peft adapters in the slots of a model: LoRA (arXiv 2106.09685) and other injectable methods."""

from __future__ import annotations

import copy
import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, cast

import peft
import torch
from peft import PeftConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmcomponents.checkpoints.adapter_weights import adapted_anew, adapter_config, adapter_layers, base_layer
from mmcomponents.checkpoints.initial import put
from mmcomponents.heads import Head
from mmcomponents.model import MultimodalModel
from mmcomponents.training.slots import SlotOptions, options_of

_ALL_LINEAR = "all-linear"
_OTHERS = ("modules_to_save", "trainable_token_indices")
_SHOWN = 8


class AdapterError(ValueError):
    """Raised when an adapter does not fit its slot; the message names both."""


def inject_adapters(model: MultimodalModel, options: Mapping[str, SlotOptions]) -> None:
    """Injects the adapters of the slots into a model and freezes the weights of these slots, in place.

    The adapters are not initialised: `start_adapters` does this once the weights of the parts exist.

    Args:
        model: Model on any device, not yet sharded.
        options: Options by slot.

    Raises:
        AdapterError: A slot has no target modules of this name, or peft cannot inject the method.
    """
    for slot, part in model.parts().items():
        config = options_of(slot, dict(options)).adapter
        if config is None:
            continue
        _check(model, slot, part, config)
        own = copy.deepcopy(config)  # peft modifies it
        if getattr(own, "target_modules", None) == _ALL_LINEAR:  # peft supports it only for transformers models
            linear = [name for name, module in part.named_modules() if isinstance(module, nn.Linear)]
            own.target_modules = linear
        device = next(part.parameters()).device
        try:
            # The values that peft draws here are discarded and must not advance the random generator.
            with torch.random.fork_rng(devices=[]), device:
                inject_adapter_in_model(own, part)
        except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            raise AdapterError(f"slots.{slot}.adapter: {type(config).__name__}: {error}") from error


def stored_options(given: Mapping[str, Any]) -> SlotOptions:
    """Returns those options of a slot on which the names of its weights depend: its adapter.

    Args:
        given: The options as they are in a recipe.

    Raises:
        AdapterError: The adapter is none of peft.
    """
    adapter = given.get("adapter")
    if adapter is None:
        return SlotOptions()
    package, _, name = str(adapter["class_path"]).partition(".")
    kind = getattr(peft, name.rpartition(".")[2], None) if package == "peft" else None
    if not (isinstance(kind, type) and issubclass(kind, PeftConfig)):
        raise AdapterError(f"the adapter {adapter['class_path']} is none of peft")
    arguments, defaults = dict(adapter.get("init_args") or {}), kind()
    for key, value in arguments.items():  # settings within settings are mappings there
        inner = getattr(defaults, key, None)
        if isinstance(value, dict) and is_dataclass(inner) and not isinstance(inner, type):
            arguments[key] = replace(inner, **value)
    return SlotOptions(adapter=kind(**arguments))


@torch.no_grad()
def start_adapters(model: MultimodalModel, seed: int) -> None:
    """Initialises the adapters of a model as peft does, which for most methods leaves the model's output unchanged.

    Each layer is adapted again on the CPU, with its full weights, since some methods start from them, and with random
    numbers that depend only on seed, slot and name, not on device, rank or sharding. A layer whose own weights the
    method has changed is marked `base_was_changed`: disabling its adapter does not restore the original output.

    Args:
        model: Model with the weights that the run starts from; it may be sharded.
        seed: Seed of the run.
    """
    for slot, part in model.parts().items():
        for path, layer in adapter_layers(part).items():
            own = base_layer(layer)
            full = {id(t): _full(t) for t in (*own.parameters(), *own.buffers())}
            before = [p.detach().clone() for p in full.values()]  # some methods modify the weights that they start from
            key = hashlib.sha256(f"{seed}/{slot}/{path}".encode()).digest()
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(int.from_bytes(key[:8], "little") >> 1)
                fresh = adapted_anew(adapter_config(part), path, copy.deepcopy(own, dict(full)))
            for values, targets in (
                (dict(fresh.named_parameters()), layer.named_parameters()),
                (dict(fresh.named_buffers()), layer.named_buffers()),
            ):
                for name, target in targets:
                    put(target, values[name].detach().to(target.dtype))
            after = base_layer(fresh)
            changed = zip(before, (*after.parameters(), *after.buffers()), strict=True)
            cast(Any, layer).base_was_changed = any(not torch.equal(a, b.to(a.dtype)) for a, b in changed)


def _check(model: MultimodalModel, slot: str, part: nn.Module, config: PeftConfig) -> None:
    for name in _OTHERS:
        if getattr(config, name, None):
            raise AdapterError(f"slots.{slot}.adapter: {name} is not supported: train a separate slot instead")
    heads = model.heads.items()
    reads = [f"heads.{name} is tied to it" for name, head in heads if isinstance(head, Head) and head.is_tied]
    if model.projector is not None and model.projector.needs_embedding_weight:
        reads.append("the projector reads it")
    if slot == "embedder" and reads:
        raise AdapterError(
            f"slots.embedder.adapter: the embedding weight cannot have an adapter, since {' and '.join(reads)}"
        )
    targets = getattr(config, "target_modules", None)
    known = [name for name, module in part.named_modules() if name and any(True for _ in module.parameters())]
    if not known:
        raise AdapterError(f"slots.{slot}.adapter: {type(part).__name__} has no modules that can have an adapter")
    if targets is None or isinstance(targets, str):
        return
    linear = [name for name, module in part.named_modules() if name and isinstance(module, nn.Linear)]
    ends = list(dict.fromkeys(name.rpartition(".")[2] for name in linear or known))
    wrong = sorted(t for t in targets if not any(name == t or name.endswith(f".{t}") for name in known))
    if wrong:
        near = list(dict.fromkeys(hit for t in wrong for hit in difflib.get_close_matches(t, ends, n=2)))
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(ends[:_SHOWN])}"
        raise AdapterError(
            f"slots.{slot}.adapter: {type(part).__name__} has no modules {', '.join(wrong)} (target_modules); {hint}"
        )


def _full(tensor: Tensor) -> Tensor:
    """Returns the unsharded value of a parameter or a buffer on the CPU."""
    value = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
