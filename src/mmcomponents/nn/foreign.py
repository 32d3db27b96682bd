"""What the body of another library needs to be a part of ours."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class PassThrough(nn.Module):
    """Stands where a module has been taken out: gives back its first argument."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The first argument."""
        return x


def check_config(config: dict[str, Any] | str, known: Iterable[str]) -> None:
    """Refuses what is neither the fields of a configuration nor a local path; nothing is ever downloaded.

    Args:
        config: What the user gave.
        known: Model types that the library has.

    Raises:
        ValueError: The fields name no known `model_type`, or there is no such path.
    """
    if isinstance(config, dict):
        if "model_type" not in config:
            raise ValueError(f"the config names no model_type, only {', '.join(map(str, config)) or 'nothing'}")
        kind, kinds = str(config["model_type"]), list(known)
        if kind not in kinds:
            near = difflib.get_close_matches(kind, kinds, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"transformers has no model_type {kind!r}{hint}")
    elif not Path(config).exists():
        raise ValueError(f"there is no {config!r}: config is a local folder, a config.json or a mapping of its fields")


def check_attention(body: type[Any] | None, attention: str) -> None:
    """Refuses an attention that the classes of a library say they have not.

    Raises:
        ValueError: With the attention that every model has.
    """
    if body is not None and attention == "sdpa" and not getattr(body, "_supports_sdpa", True):
        raise ValueError(f"{body.__name__} has no sdpa attention: give attn_implementation: eager")


def named_types(body: nn.Module, names: set[str]) -> tuple[type[nn.Module], ...]:
    """The types inside a body that go by one of these names."""
    return tuple(sorted({type(m) for m in body.modules() if type(m).__name__ in names}, key=lambda t: t.__name__))


class Starts:
    """How the vectors and buffers of a foreign body begin, as its library says; plain tensors, made once.

    A library's norms may start at 0, its layer scales at 0.1 and its frequencies at some series; a body on the meta
    device has none of it. Each module that owns such a tensor is copied to the CPU and given to the library's own
    initialisation. What comes out different for different seeds is random, and drawn by name as all matrices are.

    Args:
        body: The body, on any device.
        initialise: Fills the tensors of one module.

    Raises:
        ValueError: A body on the meta device has a buffer whose values cannot be made anew.
    """

    def __init__(self, body: nn.Module, initialise: Callable[[nn.Module], None]) -> None:
        self._initialise = initialise
        self._vectors: dict[str, Tensor] = {}
        self._random: dict[str, tuple[nn.Module, str]] = {}  # a copy without numbers of the owner, and the name in it
        self._buffers: dict[str, Tensor] = {}
        self._transposed = {f"{n}.weight" for n, m in body.named_modules() if type(m).__name__ == "Conv1D"}
        for prefix, module in body.named_modules():
            self._take(prefix + "." if prefix else "", module, initialise)

    def keep_only(self, body: nn.Module) -> None:
        """Forgets the buffers of modules that have been taken out of the body."""
        left = {name for name, _ in body.named_buffers()}
        self._buffers = {name: value for name, value in self._buffers.items() if name in left}

    def draw(self, name: str, value: Tensor, generator: torch.Generator) -> bool:
        """Fills a parameter of the body; False where a part's usual rule is right."""
        if name in self._vectors:
            value.copy_(self._vectors[name])
        elif name in self._random:
            module, own = self._random[name]
            seed = int(torch.randint(2**62, (), generator=generator))
            value.copy_(_initialised(module, self._initialise, seed).get_parameter(own))
        elif name in self._transposed:  # [in, out]
            nn.init.normal_(value, std=value.shape[0] ** -0.5, generator=generator)
        elif value.ndim == 3:  # tables [1, positions, width] and stacked experts [experts, out, in]
            nn.init.normal_(value, std=value.shape[-1] ** -0.5, generator=generator)
        else:
            return False
        return True

    @torch.no_grad()
    def restore(self, body: nn.Module) -> None:
        """Gives the buffers outside the state dict their values and types again, wherever they now lie.

        `to_empty` leaves garbage in them, and a cast to half precision rounds frequencies.
        """
        for name, value in self._buffers.items():
            prefix, _, own = name.rpartition(".")
            module = body.get_submodule(prefix)
            device = module.get_buffer(own).device
            if device.type != "meta":
                setattr(module, own, value.to(device, copy=True))

    def _take(self, prefix: str, module: nn.Module, initialise: Callable[[nn.Module], None]) -> None:
        buffers = dict(module.named_buffers(recurse=False))
        theirs = not type(module).__module__.startswith("torch.nn")
        own = module.named_parameters(recurse=False)
        vectors = [n for n, p in own if theirs and p.ndim < 2 and not n.endswith("bias")]
        for name, buffer in buffers.items():
            if not buffer.is_meta and name in module._non_persistent_buffers_set:
                self._buffers[prefix + name] = buffer.detach().cpu().clone()
        missing = [n for n, b in buffers.items() if b.is_meta]
        whole = any(isinstance(m, nn.ModuleList) for m in module.modules())  # a stack of layers: too much to copy
        for name in missing:
            value = None if whole else _initialised(module, initialise, 0).get_buffer(name)
            if value is None or _untouched(value) or name not in module._non_persistent_buffers_set:
                raise ValueError(f"the buffer {prefix}{name} cannot be made anew: build this body on a real device")
            self._buffers[prefix + name] = value
        if vectors and not whole:
            one, two = (_initialised(module, initialise, seed) for seed in (0, 1))
            for name in vectors:
                first, second = one.get_parameter(name).detach(), two.get_parameter(name).detach()
                if torch.equal(first, second):
                    self._vectors[prefix + name] = first.clone()
                else:
                    self._random[prefix + name] = (copy.deepcopy(module).to("meta"), name)


_UNTOUCHED = -12321


def _initialised(module: nn.Module, initialise: Callable[[nn.Module], None], seed: int) -> nn.Module:
    """A copy of a module on the CPU, with its library's initial values."""
    fresh = copy.deepcopy(module).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in fresh.parameters():
            parameter.fill_(1.0)  # the usual start of a vector, where the library says nothing
        for buffer in fresh.buffers():
            buffer.fill_(_UNTOUCHED)
        initialise(fresh)
    return fresh


def _untouched(value: Tensor) -> bool:
    return bool((value == _UNTOUCHED).all())


def matrix_flops(body: nn.Module, tokens: float, share_of_experts: float = 1.0) -> float:
    """Two operations for each multiply-add of a body's matrices over some positions; tables are not matrices."""
    tables = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
    total = 0.0
    for parameter in body.parameters():
        if parameter.ndim == 2 and id(parameter) not in tables:
            total += math.prod(parameter.shape)
        elif parameter.ndim == 3 and parameter.shape[0] > 1:
            total += share_of_experts * math.prod(parameter.shape)
    return 2.0 * tokens * total


def load_whole(kind: Any, folder: str | Path, **options: Any) -> Any:
    """A model of transformers with the weights of a local folder, all of which have to be there.

    Args:
        kind: Has `from_pretrained`.
        folder: Local.
        options: Handed to `from_pretrained`.

    Raises:
        ValueError: The folder cannot be read, or lacks weights, which would be left as they were drawn.
    """
    try:
        model, info = kind.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder}: transformers cannot read it: {str(error).splitlines()[0]}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{folder} lacks {', '.join(missing[:3])} and {max(len(missing) - 3, 0)} more weights")
    return model
