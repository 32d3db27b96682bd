"""Training options of slots: freezing, adapters, quantisation, learning rate and weight decay."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

from peft import PeftConfig

from mmcomponents.checkpoints.adapter_weights import adapter_layers
from mmcomponents.model import MultimodalModel
from mmcomponents.training.units.checkpointing import Checkpointing

Quantization = Literal["nf4"]
"""Data type of quantised weights: 4 bits, see `mmcomponents.nn.nf4_linear`."""


@dataclass
class SlotOptions:
    """Training options of one slot.

    The drop path rate is an argument of the part in the slot (`model.vision.init_args.drop_path`), which determines how
    it increases over the depth.

    Attributes:
        trainable: False freezes the slot: no gradient, and dropout and drop path off.
        adapter: peft adapter, such as `peft.LoraConfig`. It is trained instead of the slot's weights, which are
            frozen. With `trainable: false`, the slot's own dropout and drop path are also off; the adapter's dropout is
            on in both cases.
        lr: Peak learning rate. None: that of the optimizer.
        weight_decay: Weight decay of matrices. None: that of the optimizer. Vectors (biases, norms, scales) have no
            weight decay.
        quantization: Data type that the weights of the part's linear maps are quantised to once they are loaded, for a
            slot with an adapter or a frozen one. None: they are not.
        activation_checkpointing: What each unit of the part keeps for the backward pass, see
            `mmcomponents.training.units.checkpointing`. None: the setting of the strategy.
        compile: Whether each unit of the part is compiled by inductor. None: the setting of the strategy.
    """

    trainable: bool = True
    adapter: PeftConfig | None = None
    lr: float | None = None
    weight_decay: float | None = None
    quantization: Quantization | None = None
    activation_checkpointing: Checkpointing | None = None
    compile: bool | None = None


def check_slot_names(model: MultimodalModel, options: dict[str, SlotOptions]) -> None:
    """Checks that the model has every slot that options are given for.

    Raises:
        ValueError: The model has no such slot; the message suggests the closest name.
    """
    known = [*model.parts(), *(["heads"] if len(model.heads) else [])]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"slots.{name}: the model has no such slot, it has {', '.join(known)}{hint}")


def options_of(name: str, options: dict[str, SlotOptions]) -> SlotOptions:
    """Returns the options of a part: its own, else those of its slot (`heads` for `heads.lm`), else the defaults."""
    return options.get(name) or options.get(name.split(".")[0]) or SlotOptions()


def freeze(model: MultimodalModel, options: dict[str, SlotOptions]) -> None:
    """Sets `requires_grad` of the parameters by slot. A tied weight follows its owner, the embedder.

    Slots with an adapter are skipped: peft has frozen their weights when the adapter was injected.
    """
    for name, part in reversed(model.parts().items()):
        chosen = options_of(name, options)
        if chosen.adapter is None:
            part.requires_grad_(chosen.trainable)


def set_modes(model: MultimodalModel, options: dict[str, SlotOptions], mode: bool) -> None:
    """Sets the parts of frozen slots to evaluation mode, and their adapters to the given mode."""
    for name, part in model.parts().items():
        if options_of(name, options).trainable:
            continue
        part.eval()
        for layer in adapter_layers(part).values():
            layer.training = mode
            for inner, module in layer.named_children():
                if inner != "base_layer":
                    module.train(mode)


def param_groups(model: MultimodalModel, options: dict[str, SlotOptions]) -> list[dict[str, Any]]:
    """Returns parameter groups, one for the matrices and one for the vectors of each slot; each has a `name`."""
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, part in model.parts().items():
        chosen = options_of(name, options)
        for decays in (True, False):
            params = [p for p in part.parameters() if p.requires_grad and (p.ndim >= 2) == decays and id(p) not in seen]
            if not params:
                continue
            seen.update(map(id, params))
            group: dict[str, Any] = {"params": params, "name": name if decays else f"{name}/no_decay"}
            if chosen.lr is not None:
                group["lr"] = chosen.lr
            if not decays:
                group["weight_decay"] = 0.0
            elif chosen.weight_decay is not None:
                group["weight_decay"] = chosen.weight_decay
            groups.append(group)
    return groups
