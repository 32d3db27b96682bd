"""Quantisation of the frozen linear maps of slots, which adapters are trained on top of (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn

from mmcomponents.checkpoints.adapter_weights import adapter_layers, adapter_tensors
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.component import WiringError
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.linear import Linear
from mmcomponents.nn.nf4_linear import NF4Linear, has_kernels
from mmcomponents.training.slots import SlotOptions, options_of

logger = logging.getLogger(__name__)


def check_quantization(options: Mapping[str, SlotOptions], shards: bool, callbacks: Iterable[Callback] = ()) -> None:
    """Checks the settings of slots, before a model is built.

    Args:
        options: Options by slot.
        shards: Whether the strategy shards the model.
        callbacks: Callbacks of the trainer.

    Raises:
        MisconfigurationException: A slot's weights are trained, the strategy shards, a callback averages buffers, or
            bitsandbytes is not installed.
    """
    for slot, chosen in options.items():
        if chosen.quantization is None:
            continue
        key = f"slots.{slot}.quantization"
        if chosen.trainable and chosen.adapter is None:
            raise MisconfigurationException(
                f"{key}: quantised weights cannot be trained: set slots.{slot}.adapter, such as peft.LoraConfig, or"
                " trainable: false"
            )
        if shards:
            raise MisconfigurationException(
                f"{key}: FSDP2Strategy shards parameters, and quantised weights are none: set trainer.strategy to ddp"
                " or auto"
            )
        averaging = next((c for c in callbacks if isinstance(c, WeightAveraging) and c._use_buffers), None)
        if averaging is not None:
            raise MisconfigurationException(
                f"{key}: {type(averaging).__name__} averages buffers, which hold the codes of quantised weights: set"
                " its use_buffers to false"
            )
        if not has_kernels():
            raise MisconfigurationException(
                f'{key}: bitsandbytes is not installed: pip install "mmcomponents[bitsandbytes]"'
            )


def quantize_slots(
    model: MultimodalModel, options: Mapping[str, SlotOptions], device: torch.device | None = None
) -> None:
    """Replaces the linear maps of the slots that are to be quantised, except those of their adapters, in place.

    Embeddings, norms, convolutions and heads keep their data type, and so do subclasses of `nn.Linear` and maps with
    hooks, with a warning.

    Args:
        model: Model with the weights and adapters that it starts from. On the meta device, only shapes change.
        options: Options by slot.
        device: Where quantised weights are put. None: where they are.

    Raises:
        WiringError: A part has no linear maps.
    """
    for slot, part in model.parts().items():
        if options_of(slot, dict(options)).quantization is None:
            continue
        added, adapters = adapter_tensors(part), set(adapter_layers(part).values())
        linear = {
            path: module
            for path, module in part.named_modules()
            if isinstance(module, nn.Linear) and module not in adapters and id(module.weight) not in added
        }
        plain = {path: module for path, module in linear.items() if _is_plain(module)}
        if not plain:
            raise WiringError(f"slots.{slot}.quantization: {type(part).__name__} has no linear maps (nn.Linear)")
        if others := sorted({type(linear[path]).__name__ for path in linear.keys() - plain.keys()}):
            logger.warning(
                "slots.%s.quantization: %d maps (%s) are not quantised: they have hooks, or a class of their own, which"
                " may compute something else than nn.Linear",
                slot, len(linear) - len(plain), ", ".join(others),
            )  # fmt: skip
        for path, module in plain.items():
            above, _, name = path.rpartition(".")
            part.get_submodule(above).add_module(name, NF4Linear(module, device))


def quantized_buffers(model: nn.Module) -> list[str]:
    """Returns the names of the buffers of quantised weights."""
    maps = [path for path, module in model.named_modules() if isinstance(module, NF4Linear)]
    return [f"{path}.{name}" for path in maps for name in ("codes", "scales")]


def check_quantized_checkpoint(model: MultimodalModel, names: Collection[str]) -> None:
    """Checks that a checkpoint has quantised weights where the model has.

    Args:
        model: Model that the checkpoint is loaded into.
        names: Names of the weights in the checkpoint.

    Raises:
        CheckpointError: It has not; the message names the slots and the setting.
    """
    ours = {slot for slot, part in model.parts().items() if quantized_buffers(part)}
    theirs = {
        slot for slot, part in model.parts().items() if any(f"{slot}.{path}.codes" in names for path in _maps(part))
    }
    for slots, has, setting in ((theirs - ours, "has", "nf4"), (ours - theirs, "has no", "null")):
        if slots:
            keys = ", ".join(f"model.slots.{slot}.quantization: {setting}" for slot in sorted(slots))
            raise CheckpointError(f"the checkpoint {has} quantised weights for {', '.join(sorted(slots))}: set {keys}")


def _maps(part: nn.Module) -> list[str]:
    return [path for path, module in part.named_modules() if isinstance(module, nn.Linear | NF4Linear)]


def _is_plain(module: nn.Linear) -> bool:
    """Returns whether a map computes what `nn.Linear` does: of that class, and without hooks."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in (nn.Linear, Linear) and not any(hooks)
