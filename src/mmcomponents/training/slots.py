"""Training options of slots: freezing, adapters, quantisation, learning rate and weight decay."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from peft import PeftConfig

from mmcomponents.checkpoints.adapter_weights import adapter_layers, own_name
from mmcomponents.limits import check_choices, check_numbers
from mmcomponents.model import MultimodalModel
from mmcomponents.training.units.checkpointing import Checkpointing

Quantization = Literal["nf4"]
"""Data type of quantised weights: 4 bits, see `mmcomponents.nn.nf4_linear`."""


@dataclass
class ParameterOptions:
    """Training options of some parameters of a slot; None: those of the slot.

    Attributes:
        trainable: Whether they are trained.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices.
    """

    trainable: bool | None = None
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        _check_rates(self.lr, self.weight_decay)


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
        only: Patterns (`fnmatch`) of names of parameters within the slot, such as `interactions.*`: only these are
            trained, the others are frozen. None: all.
        parameters: Options of the parameters whose names within the slot match a pattern, by pattern; the first one
            that matches applies, before `only`. null in a recipe: none, in the place of those of its base.
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
    only: list[str] | None = None
    parameters: dict[str, ParameterOptions] = field(default_factory=dict)
    quantization: Quantization | None = None
    activation_checkpointing: Checkpointing | None = None
    compile: bool | None = None

    def __post_init__(self) -> None:
        """Checks the values."""
        _check_rates(self.lr, self.weight_decay)
        self.parameters = self.parameters or {}  # null in a recipe leaves out those of its base
        if self.quantization is not None:
            check_choices(quantization=(self.quantization, Quantization))
        if self.activation_checkpointing is not None:
            check_choices(activation_checkpointing=(self.activation_checkpointing, Checkpointing))


def _check_rates(lr: float | None, weight_decay: float | None) -> None:
    given = {"lr": lr, "weight_decay": weight_decay}
    check_numbers(**{name: value for name, value in given.items() if value is not None})


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


def check_patterns(model: MultimodalModel, options: dict[str, SlotOptions]) -> None:
    """Checks that each pattern of `only` and `parameters` matches a parameter of its slot.

    Raises:
        ValueError: One does not, or earlier ones match the same parameters; or a slot has patterns of trained
            parameters and is frozen or has an adapter.
    """
    for slot, chosen in options.items():
        parts = [part for name, part in model.parts().items() if slot in (name, name.partition(".")[0])]
        names = [own_name(name) for part in parts for name, _ in part.named_parameters()]
        for key, patterns in (("only", chosen.only or ()), ("parameters", chosen.parameters)):
            if patterns and chosen.adapter is not None:
                raise ValueError(f"slots.{slot}.{key}: the slot's adapter is trained instead of its weights")
            if key == "only" and patterns and not chosen.trainable:
                raise ValueError(f"slots.{slot}.only: the slot is frozen: leave out trainable: false")
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    kinds = " or ".join(type(part).__name__ for part in parts)
                    known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                    raise ValueError(
                        f"slots.{slot}.{key}: no parameter of {kinds} matches {pattern!r}; names begin with {known}"
                        f" (slots.{slot}.{key} null leaves the patterns of the recipe out)"
                    )
        never = {own_name(name) for part in parts for name in part.frozen_names()}
        for pattern in chosen.only or ():
            if all(name in never for name in names if fnmatchcase(name, pattern)):
                kinds = " or ".join(type(part).__name__ for part in parts)
                raise ValueError(f"slots.{slot}.only: {kinds} never trains what {pattern!r} matches")
        used = {_options_of_parameter(name, chosen)[0] for name in names}
        if hidden := [pattern for pattern in chosen.parameters if pattern not in used]:
            raise ValueError(
                f"slots.{slot}.parameters: {hidden[0]!r} is never used, earlier patterns match all it does"
            )


def freeze(model: MultimodalModel, options: dict[str, SlotOptions]) -> None:
    """Sets `requires_grad` of the parameters by slot. A tied weight follows its owner, the embedder.

    What a part never trains (`Component.frozen`) stays frozen. Slots with an adapter are skipped: peft has frozen their
    weights when the adapter was injected.
    """
    for slot, part in reversed(model.parts().items()):
        chosen = options_of(slot, options)
        if chosen.adapter is not None:
            continue
        never = part.frozen_names()
        for name, parameter in part.named_parameters():
            parameter.requires_grad_(name not in never and _is_trained(name, chosen))


def _is_trained(name: str, chosen: SlotOptions) -> bool:
    own = _options_of_parameter(name, chosen)[1].trainable
    if own is not None:
        return own
    return chosen.trainable and (chosen.only is None or any(fnmatchcase(name, pattern) for pattern in chosen.only))


def _options_of_parameter(name: str, chosen: SlotOptions) -> tuple[str, ParameterOptions]:
    """Returns the pattern that a parameter's name matches and its options; an empty pattern if there is none."""
    found = ((pattern, own) for pattern, own in chosen.parameters.items() if fnmatchcase(name, pattern))
    return next(found, ("", ParameterOptions()))


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
    """Returns parameter groups, one for the matrices and one for the vectors of each slot; each has a `name`.

    The parameters of a pattern (`SlotOptions.parameters`) are two groups of their own.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for slot, part in model.parts().items():
        chosen = options_of(slot, options)
        for pattern in ["", *chosen.parameters]:
            own = chosen.parameters.get(pattern, ParameterOptions())
            named = [(p, _options_of_parameter(own_name(name), chosen)[0]) for name, p in part.named_parameters()]
            for decays in (True, False):
                params = [p for p, other in named if other == pattern and p.requires_grad and (p.ndim >= 2) == decays]
                params = [p for p in params if id(p) not in seen]
                if not params:
                    continue
                seen.update(map(id, params))
                name = f"{slot}/{pattern}" if pattern else slot
                group: dict[str, Any] = {"params": params, "name": name if decays else f"{name}/no_decay"}
                lr = chosen.lr if own.lr is None else own.lr
                weight_decay = chosen.weight_decay if own.weight_decay is None else own.weight_decay
                if lr is not None:
                    group["lr"] = lr
                if not decays:
                    group["weight_decay"] = 0.0
                elif weight_decay is not None:
                    group["weight_decay"] = weight_decay
                groups.append(group)
    return groups
