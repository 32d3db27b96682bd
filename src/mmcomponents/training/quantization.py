"""Quantisation of the frozen linear maps of slots, which adapters are trained on top of (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from mmcomponents.checkpoints.adapter_weights import adapter_tensors
from mmcomponents.component import WiringError
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.nf4_linear import NF4Linear, has_kernels
from mmcomponents.training.slots import SlotOptions, options_of


def check_quantization(options: Mapping[str, SlotOptions], shards: bool) -> None:
    """Checks the settings of slots, before a model is built.

    Args:
        options: Options by slot.
        shards: Whether the strategy shards the model.

    Raises:
        MisconfigurationException: A slot's weights are trained, the strategy shards, or bitsandbytes is not installed.
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
        if not has_kernels():
            raise MisconfigurationException(
                f'{key}: bitsandbytes is not installed: pip install "mmcomponents[bitsandbytes]"'
            )


def quantize_slots(
    model: MultimodalModel, options: Mapping[str, SlotOptions], device: torch.device | None = None
) -> None:
    """Replaces the linear maps of the slots that are to be quantised, except those of their adapters, in place.

    Embeddings, norms, convolutions and heads keep their data type.

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
        added = adapter_tensors(part)
        linear = {
            path: module
            for path, module in part.named_modules()
            if isinstance(module, nn.Linear) and id(module.weight) not in added
        }
        if not linear:
            raise WiringError(f"slots.{slot}.quantization: {type(part).__name__} has no linear maps (nn.Linear)")
        for path, module in linear.items():
            above, _, name = path.rpartition(".")
            part.get_submodule(above).add_module(name, NF4Linear(module, device))
