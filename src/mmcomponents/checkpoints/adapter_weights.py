"""Weights of parts with peft adapters: a part's own weights, and merging of adapters.

peft replaces a layer by one that contains the original as `base_layer`. Names of own weights omit `base_layer`, so
that they are the same with and without adapters.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.quantized_weights import restore_quantized, restored_weights
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.component import stored_tensors
from mmcomponents.model import MultimodalModel

_BASE = "base_layer"


def own_name(name: str) -> str:
    """Returns the name of a weight without adapters."""
    return ".".join(piece for piece in name.split(".") if piece != _BASE)


def adapter_layers(part: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers of a part that have an adapter, by their names within it; each is a `BaseTunerLayer`."""
    found: dict[str, nn.Module] = {}
    for path, module in part.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)  # some methods nest layers
        if isinstance(module, BaseTunerLayer) and not inside:
            found[path] = cast(nn.Module, module)
    return found


def base_layer(layer: nn.Module) -> nn.Module:
    """Returns the part's own layer inside a layer with an adapter."""
    found = cast(BaseTunerLayer, layer).get_base_layer()
    assert isinstance(found, nn.Module)
    return found


def adapter_config(part: nn.Module) -> PeftConfig:
    """Returns the configuration of the adapters of a part."""
    (config,) = cast(dict[str, PeftConfig], part.peft_config).values()
    return config


def own_tensors(part: nn.Module) -> dict[str, Tensor]:
    """Returns what a folder holds of a part, without its adapters, by names without adapters.

    Returns:
        The tensors themselves by name, each in its own shape.
    """
    added = adapter_tensors(part)
    return {own_name(name): value for name, value in stored_tensors(part).items() if id(value) not in added}


def adapter_tensors(part: nn.Module) -> set[int]:
    """Returns the `id` of each parameter and buffer that adapters have added to a part."""
    added: set[int] = set()
    for layer in adapter_layers(part).values():
        base = base_layer(layer)
        own = {id(value) for value in (*base.parameters(), *base.buffers())}
        added |= {id(value) for value in (*layer.parameters(), *layer.buffers())} - own
    return added


def adapted_anew(config: PeftConfig, path: str, layer: nn.Module) -> nn.Module:
    """Returns one layer with a newly initialised adapter, outside its part.

    Args:
        config: See `adapter_config`.
        path: Name of the layer within its part; methods may select a rank by it.
        layer: The layer without adapter, with its weights: some methods start from them.
    """
    *above, last = path.split(".")
    root = here = nn.Module()
    for name in above:
        below = nn.Module()
        here.add_module(name, below)
        here = below
    here.add_module(last, layer)
    with warnings.catch_warnings():  # about patterns that match other layers
        warnings.simplefilter("ignore")
        inject_adapter_in_model(copy.deepcopy(config), root)
    return root.get_submodule(path)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Merges each adapter of a model into its base weights and removes it, in place. Quantised weights are restored.

    The model then has the weight names and the speed of a model without adapters, and the output of one with them.

    Args:
        model: Model or part of one, not sharded: `mmcomponents export` merges sharded ones.

    Raises:
        CheckpointError: The method does not support merging, or a merged weight has a NaN.
    """
    restore_quantized(model)
    for path, layer in adapter_layers(model).items():
        above, _, last = path.rpartition(".")
        model.get_submodule(above).add_module(last, _merged(path, layer))


def merged_weights(model: MultimodalModel, weights: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Returns the lazily merged weights of a model with adapters, with one layer in memory at a time.

    Quantised weights are those that the run computed with, see `quantized_weights`.

    Args:
        model: Model with adapters, on the meta device.
        weights: Weights by their names in the model.

    Returns:
        Weights by their names without adapters.

    Raises:
        CheckpointError: Adapter weights are missing, or the model has no adapter for them.
    """
    found = restored_weights(model, weights)
    for slot, part in model.parts().items():
        for path, layer in adapter_layers(part).items():
            prefix = f"{slot}.{path}."
            state = {name: found.pop(prefix + name, None) for name in layer.state_dict()}
            missing = [prefix + name for name, value in state.items() if value is None]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                raise CheckpointError(f"the recipe has adapters and the checkpoint has no {missing[0]}{more}")
            given = cast(dict[str, Lazy], state)
            for name, p in base_layer(layer).named_parameters():
                stored = next(value for key, value in given.items() if own_name(key) == name)
                meta = p.detach().to(device="meta", dtype=stored.meta.dtype)
                load = partial(_read_merged, adapter_config(part), slot, path, base_layer(layer), given, name)
                found[prefix + name] = Lazy(meta, partial(_cast, load, meta.dtype))
    if left := next((name for name in found if own_name(name) != name), None):
        slot = left.partition(".")[0]
        raise CheckpointError(
            f"the checkpoint has an adapter ({left}) and the recipe has no model.slots.{slot}.adapter"
        )
    return found


@torch.no_grad()
def _read_merged(
    config: PeftConfig, slot: str, path: str, base: nn.Module, state: Mapping[str, Lazy], name: str
) -> Tensor:
    empty = copy.deepcopy(base).to_empty(device="cpu")
    for p in empty.parameters():
        p.zero_()  # some methods read the weights that they start from
    with torch.random.fork_rng(devices=[]):
        layer = adapted_anew(config, path, empty)
    layer.load_state_dict({key: value.load() for key, value in state.items()})
    return _merged(f"{slot}.{path}", layer).get_parameter(name).detach()


def _cast(load: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    return load().to(dtype)  # merged in fp32


def _merged(path: str, layer: nn.Module) -> nn.Module:
    try:
        special = getattr(layer, "unload_and_optionally_merge_module", None)
        if special is not None:
            return cast(nn.Module, special(merge=True, safe_merge=True, adapter_names=None))
        cast(BaseTunerLayer, layer).merge(safe_merge=True)
    except (ValueError, RuntimeError) as error:  # also NotImplementedError
        raise CheckpointError(f"the adapter of {path} cannot be merged: {error or type(layer).__name__}") from error
    return base_layer(layer)
