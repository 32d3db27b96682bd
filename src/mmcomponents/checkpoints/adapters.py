"""Adapters of peft inside the parts of a model: a part's own weights, and a model with its adapters merged.

A layer with an adapter is peft's; the layer of the part lies in it as `base_layer`. A part's own weights have the same
names with and without adapters here: `base_layer` is left out of them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
from peft import PeftConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmcomponents.checkpoints.errors import CheckpointError
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.model import MultimodalModel

_BASE = "base_layer"


def own_name(name: str) -> str:
    """Name of a weight as it is without adapters."""
    return ".".join(piece for piece in name.split(".") if piece != _BASE)


def adapter_layers(part: nn.Module) -> dict[str, nn.Module]:
    """The layers of a part that have an adapter, by their names within it; each is a `BaseTunerLayer`."""
    found: dict[str, nn.Module] = {}
    for path, module in part.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)  # some methods put one layer into another
        if isinstance(module, BaseTunerLayer) and not inside:
            found[path] = cast(nn.Module, module)
    return found


def base_layer(layer: nn.Module) -> nn.Module:
    """The part's own layer inside one with an adapter."""
    found = cast(BaseTunerLayer, layer).get_base_layer()
    assert isinstance(found, nn.Module)
    return found


def adapter_config(part: nn.Module) -> PeftConfig:
    """What peft was told when it put adapters into a part."""
    (config,) = cast(dict[str, PeftConfig], part.peft_config).values()
    return config


def own_parameters(part: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a part without those of its adapters, by the names that they have without adapters."""
    added: set[int] = set()
    for layer in adapter_layers(part).values():
        own = {id(p) for p in base_layer(layer).parameters()}
        added |= {id(p) for p in layer.parameters()} - own
    return {own_name(name): p for name, p in part.named_parameters() if id(p) not in added}


def adapted_anew(config: PeftConfig, path: str, layer: nn.Module) -> nn.Module:
    """One layer of a part with a new adapter, as peft starts it, away from its part.

    Args:
        config: See `adapter_config`.
        path: Name of the layer within its part; methods may choose a rank by it.
        layer: The layer as it is without adapter, with its weights: some methods begin from them.
    """
    *above, last = path.split(".")
    root = here = nn.Module()
    for name in above:
        below = nn.Module()
        here.add_module(name, below)
        here = below
    here.add_module(last, layer)
    with warnings.catch_warnings():  # of patterns that fit other layers
        warnings.simplefilter("ignore")
        inject_adapter_in_model(copy.deepcopy(config), root)
    return root.get_submodule(path)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Adds each adapter of a model to the weights below it and takes it out, in place.

    The model then has the names and the speed that it has without adapters, and answers as it did with them.

    Args:
        model: A model or a part of one, whole on its device: a sharded one is merged by `mmcomponents export`.

    Raises:
        CheckpointError: A method cannot merge, or there is a NaN.
    """
    for path, layer in adapter_layers(model).items():
        above, _, last = path.rpartition(".")
        model.get_submodule(above).add_module(last, _merged(path, layer))


def merged_weights(model: MultimodalModel, weights: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """The weights of a model with its adapters merged, each when it is wanted: one layer is in memory at a time.

    Args:
        model: With adapters, on the meta device.
        weights: By the names that they have in it.

    Returns:
        By the names that they have without adapters.

    Raises:
        CheckpointError: The weights of an adapter are missing, or are of one that the model has not.
    """
    found = dict(weights)
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
                found[prefix + name] = Lazy(meta, load)
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
        p.zero_()  # some methods look at the weights that they begin from
    with torch.random.fork_rng(devices=[]):
        layer = adapted_anew(config, path, empty)
    layer.load_state_dict({key: value.load() for key, value in state.items()})
    return _merged(f"{slot}.{path}", layer).get_parameter(name).detach()


def _merged(path: str, layer: nn.Module) -> nn.Module:
    try:
        special = getattr(layer, "unload_and_optionally_merge_module", None)
        if special is not None:
            return cast(nn.Module, special(merge=True, safe_merge=True, adapter_names=None))
        cast(BaseTunerLayer, layer).merge(safe_merge=True)
    except (ValueError, NotImplementedError) as error:
        raise CheckpointError(f"the adapter of {path} cannot be merged: {error or type(layer).__name__}") from error
    return base_layer(layer)
