"""Utilities that wrap models of other libraries as components."""

from __future__ import annotations

import copy
import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcomponents.limits import MAX_LAYERS, MAX_ROWS, MAX_WIDTH, check_sizes
from mmcomponents.model_files import HUB_NAME, check_model_files, read_json_file
from mmcomponents.nn.nf4_linear import quantized_weights

log = logging.getLogger(__name__)


class PassThrough(nn.Module):
    """Replaces a removed module and returns its first argument."""

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns the first argument."""
        return x


ATTENTIONS = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
"""Attention implementations of transformers, and the package that each needs. Other names are kernels of a hub."""

_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def read_config(auto: Any, known: Iterable[str], config: dict[str, Any] | str, trust_remote_code: bool) -> Any:
    """Returns a configuration object of transformers; nothing is downloaded.

    Args:
        auto: `AutoConfig` of transformers.
        known: Its model types.
        config: Fields of the configuration, a local folder or config.json, or a model of the hub that is in its cache.
        trust_remote_code: Whether code in a local folder is executed.

    Raises:
        ValueError: The configuration is unknown, out of range, or names files or code outside of itself. Of fields that
            are given, one is unknown: transformers would keep it without a use.
    """
    if isinstance(config, dict):
        check_fields(config)
    elif not isinstance(config, str | Path):
        raise ValueError(
            f"config is a {type(config).__name__}: it must be a folder, a config.json or its fields, which"
            " config.to_dict() gives"
        )
    else:
        path = _configuration_path(config)
        config = str(path)
        if path.is_dir():
            check_model_files(path)
            path = path / "config.json"
        fields = read_json_file(path)
        check_fields(fields if isinstance(fields, dict) else {})
    _check_type(config, known)
    try:
        if isinstance(config, dict):
            made = auto.for_model(**config)
            if hasattr(made, "to_dict"):
                _refuse_unknown(config, made, str(config["model_type"]))
            return made
        return auto.from_pretrained(config, local_files_only=True, trust_remote_code=trust_remote_code)
    except _UnknownFieldError:
        raise
    except Exception as error:  # transformers checks the types of fields with an exception of its own
        where = "the configuration" if isinstance(config, dict) else config
        raise ValueError(f"{where}: transformers cannot read it: {' '.join(str(error).split())[:300]}") from error


class _UnknownFieldError(ValueError):
    """A field is none of its configuration."""


_OTHER_FIELDS = ("torch_dtype", "rope_theta", "rope_scaling", "partial_rotary_factor", "auto_map", *_ATTENTION_KEYS)
"""Former names that transformers reads, and fields of a folder that say nothing about the architecture."""


def _refuse_unknown(fields: Mapping[str, Any], made: Any, kind: str) -> None:
    """Refuses fields that a configuration does not have, in those of its parts too."""
    try:
        plain = type(made)()
    except Exception as error:  # a configuration of others, whose class needs arguments
        log.warning("fields of the configuration of %s are not checked: its class has no defaults (%s)", kind, error)
        return
    inner_parts = [name for name, value in vars(plain).items() if hasattr(value, "model_type")]
    unknown = []
    for key, value in fields.items():
        inner = getattr(made, key, None)
        if isinstance(value, Mapping) and hasattr(inner, "model_type"):
            _refuse_unknown(value, inner, f"{kind}, {key}")
        elif not hasattr(plain, key) and key not in _OTHER_FIELDS:
            unknown.append(key)
    if unknown:
        owners = [name for name in inner_parts if hasattr(getattr(plain, name), unknown[0])]
        hint = f"; {' and '.join(owners)} have one" if owners else _near(unknown[0], plain.to_dict())
        raise _UnknownFieldError(f"the configuration of {kind} has no field {', '.join(map(repr, unknown))}{hint}")


def _configuration_path(config: str) -> Path:
    """Returns a local path, or that of the configuration of a model of the hub in its cache."""
    path, name = Path(config), HUB_NAME.fullmatch(config)
    if path.exists():
        return path
    if name is None:
        raise ValueError(f"{config!r} does not exist: config must be a local folder, a config.json or its fields")
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name["repo"], "config.json", revision=name["revision"])
    if not isinstance(found, str):
        revision = f" --revision {name['revision']}" if name["revision"] else ""
        download = f"hf download {name['repo']} config.json{revision}"
        raise ValueError(f"{config!r} does not exist, nor in the hub's cache; to download a model's: {download}")
    return Path(found)


def check_fields(fields: Mapping[str, Any]) -> None:
    """Checks the fields of a configuration of transformers, at every depth, before they are used.

    Raises:
        ValueError: A number is out of range, or a field names a quantisation, or code or files outside of the folder.
    """
    for key, value in fields.items():
        if key in _ATTENTION_KEYS and value is not None:
            check_attention(None, value)
        if key in ("quantization_config", "transformers_weights") and value is not None:
            raise ValueError(f"the configuration has {key}, which is not supported")
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                check_fields(item)
            elif isinstance(item, str) and item.startswith(("hf-hub:", "hf_hub:")):
                raise ValueError(f"{key} {item!r} is in a hub: nothing is downloaded")
            elif key in _SIZES and item is not None:
                check_sizes(_limit(key), **{key: item})
            elif isinstance(item, int | float):
                _check_number(str(key), item)


def _limit(key: str) -> int:
    """Returns the largest value of a field, by the words in its name: the classes of transformers differ in names."""
    if any(word in key for word in ("layers", "n_layer", "depth", "stages", "blocks", "num_experts")):
        return MAX_LAYERS
    wide = any(word in key for word in ("size", "dim", "embd", "d_model", "width", "channels", "head"))
    return MAX_WIDTH if wide and "vocab" not in key else MAX_ROWS


def _check_number(key: str, value: float) -> None:
    most = _limit(key)
    if value != value or (isinstance(value, int) and value > most):
        raise ValueError(f"{key} must be a number of at most {most:,}, got {shortened(value)}")


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "image_size",
    "patch_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
"""Fields that most configurations have."""


def _check_type(config: dict[str, Any] | str, known: Iterable[str]) -> None:
    """Checks that fields of a configuration have a known model type."""
    if isinstance(config, dict):
        if "model_type" not in config:
            raise ValueError(f"the config names no model_type, only {', '.join(map(str, config)) or 'nothing'}")
        kind, kinds = str(config["model_type"]), list(known)
        if kind not in kinds:
            raise ValueError(f"transformers has no model_type {kind!r}{_near(kind, kinds)}")


def _near(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def check_attention(body: type[Any] | None, attention: object) -> None:
    """Checks that an attention implementation is known and installed, and that a model class supports it.

    transformers takes other names as repositories of compiled code, and downloads a kernel in place of a package that
    is missing or that the class does not support.

    Raises:
        ValueError: It is not; the message names the implementation that every model supports.
    """
    if not isinstance(attention, str) or attention not in ATTENTIONS:
        raise ValueError(f"attn_implementation {shortened(attention)} is not one of {', '.join(ATTENTIONS)}")
    package = ATTENTIONS[attention]
    others = getattr(body, "_compatible_flash_implementations", None)
    if package is not None and (find_spec(package) is None or (others and attention not in others)):
        reason = f"the package {package} is not installed" if find_spec(package) is None else "the model needs another"
        raise ValueError(f"attn_implementation {attention!r} cannot be used: {reason}")
    if body is not None and attention == "sdpa" and not getattr(body, "_supports_sdpa", True):
        raise ValueError(f"{body.__name__} has no sdpa attention: give attn_implementation: eager")


def named_types(body: nn.Module, names: set[str]) -> tuple[type[nn.Module], ...]:
    """Returns the module types of a model that have one of these names."""
    return tuple(sorted({type(m) for m in body.modules() if type(m).__name__ in names}, key=lambda t: t.__name__))


class Starts:
    """Initial values of the vectors and buffers of a wrapped model, computed once by its library; plain tensors.

    A library may initialise norms with 0, layer scales with 0.1 and frequencies with a series; a model on the meta
    device has none of these values. Each module that owns such a tensor is copied to the CPU and initialised by the
    library's own function. Values that differ between seeds are random, and drawn by name like all matrices.

    Args:
        body: The model, on any device.
        initialise: Function that fills the tensors of one module.

    Raises:
        ValueError: A model on the meta device has a buffer that cannot be recomputed.
    """

    def __init__(self, body: nn.Module, initialise: Callable[[nn.Module], None]) -> None:
        self._initialise = initialise
        self._vectors: dict[str, Tensor] = {}
        self._random: dict[str, tuple[nn.Module, str]] = {}  # a meta copy of the owner, and the name in it
        self._buffers: dict[str, Tensor] = {}
        self._statistics: dict[str, float] = {}  # of batch norms, which the state dict has
        self._transposed = {f"{n}.weight" for n, m in body.named_modules() if type(m).__name__ == "Conv1D"}
        for prefix, module in body.named_modules():
            self._record(prefix + "." if prefix else "", module, initialise)

    def keep_only(self, body: nn.Module) -> None:
        """Drops the buffers of modules that were removed from the model."""
        present = {name for name, _ in body.named_buffers()}
        self._buffers = {name: value for name, value in self._buffers.items() if name in present}

    def draw(self, name: str, value: Tensor, generator: torch.Generator) -> bool:
        """Fills a parameter of the model; returns False if the default initialisation of a component applies.

        Args:
            name: Name of the parameter in the model.
            value: Parameter of any shape, filled in place.
            generator: Random generator of this parameter.
        """
        if name in self._vectors:
            value.copy_(self._vectors[name])
        elif name in self._random:
            module, own = self._random[name]
            seed = int(torch.randint(2**62, (), generator=generator))
            value.copy_(_initialised(module, self._initialise, seed).get_parameter(own))
        elif name in self._transposed:  # [in, out]
            nn.init.normal_(value, std=value.shape[0] ** -0.5, generator=generator)
        elif value.ndim == 3:  # embeddings [1, positions, width] and stacked experts [experts, out, in]
            nn.init.normal_(value, std=value.shape[-1] ** -0.5, generator=generator)
        else:
            return False
        return True

    def fill(self, name: str, value: Tensor) -> bool:
        """Fills a buffer of the model; returns False if its value is unknown.

        Args:
            name: Name of the buffer in the model.
            value: Buffer of any shape, filled in place.
        """
        if name in self._buffers:
            value.copy_(self._buffers[name])
        elif name in self._statistics:
            value.fill_(self._statistics[name])
        return name in self._buffers or name in self._statistics

    @torch.no_grad()
    def restore(self, body: nn.Module, dtypes: bool = True) -> None:
        """Restores the values and dtypes of the buffers outside the state dict, on their present devices.

        `to_empty` leaves them uninitialised, and a cast to half precision rounds frequencies.

        Args:
            body: The model.
            dtypes: False where the library itself keeps the dtypes of buffers that must not be cast.
        """
        for name, value in self._buffers.items():
            prefix, _, own = name.rpartition(".")
            module = body.get_submodule(prefix)
            present = module.get_buffer(own)
            if not present.is_meta:
                dtype = value.dtype if dtypes else present.dtype
                setattr(module, own, value.to(present.device, dtype, copy=True))

    def _record(self, prefix: str, module: nn.Module, initialise: Callable[[nn.Module], None]) -> None:
        buffers = dict(module.named_buffers(recurse=False))
        if isinstance(module, _BatchNorm):
            self._statistics |= {prefix + name: _STATISTICS[name] for name in buffers}
            buffers = {}
        is_custom = not type(module).__module__.startswith("torch.nn")
        own = module.named_parameters(recurse=False)
        vectors = [n for n, p in own if is_custom and p.ndim < 2 and not n.endswith("bias")]
        for name, buffer in buffers.items():
            if not buffer.is_meta and name in module._non_persistent_buffers_set:
                self._buffers[prefix + name] = buffer.detach().cpu().clone()
        missing = [n for n, b in buffers.items() if b.is_meta]
        is_stack = any(isinstance(m, nn.ModuleList) for m in module.modules())  # a stack of layers is too large to copy
        for name in missing:
            value = None if is_stack else _initialised(module, initialise, 0).get_buffer(name)
            if value is None or _untouched(value) or name not in module._non_persistent_buffers_set:
                raise ValueError(f"the buffer {prefix}{name} cannot be recomputed: build this model on a real device")
            self._buffers[prefix + name] = value
        if vectors and not is_stack:
            one, two = (_initialised(module, initialise, seed) for seed in (0, 1))
            for name in vectors:
                first, second = one.get_parameter(name).detach(), two.get_parameter(name).detach()
                if torch.equal(first, second):
                    self._vectors[prefix + name] = first.clone()
                else:
                    self._random[prefix + name] = (copy.deepcopy(module).to("meta"), name)


_STATISTICS = {"running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
"""Buffers of a batch norm before training."""

_UNTOUCHED = -12321


def _initialised(module: nn.Module, initialise: Callable[[nn.Module], None], seed: int) -> nn.Module:
    """Returns a copy of a module on the CPU with the initial values of its library."""
    fresh = copy.deepcopy(module).to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in fresh.parameters():
            parameter.fill_(1.0)  # default for vectors that the library does not initialise
        for buffer in fresh.buffers():
            buffer.fill_(_UNTOUCHED)
        initialise(fresh)
    return fresh


def _untouched(value: Tensor) -> bool:
    return bool((value == _UNTOUCHED).all())


def matrix_flops(body: nn.Module, tokens: float, share_of_experts: float = 1.0) -> float:
    """Returns two operations per multiply-add of a model's matrices over `tokens` positions, without embeddings."""
    embeddings = {id(m.weight) for m in body.modules() if isinstance(m, nn.Embedding)}
    total = float(quantized_weights(body))
    for parameter in body.parameters():
        if parameter.ndim == 2 and id(parameter) not in embeddings:
            total += math.prod(parameter.shape)
        elif parameter.ndim == 3 and parameter.shape[0] > 1:
            total += share_of_experts * math.prod(parameter.shape)
    return 2.0 * tokens * total


def load_whole(kind: Any, folder: str | Path, settings: Any, trust_remote_code: bool) -> Any:
    """Loads a transformers model from a local folder that must contain all of its weights.

    Args:
        kind: Class with `from_pretrained`.
        folder: Local folder.
        settings: Configuration of the model.
        trust_remote_code: Whether code in the folder is executed.

    Raises:
        ValueError: The folder cannot be read, or lacks weights, which would keep random values.
    """
    try:
        model, info = kind.from_pretrained(
            str(folder),
            config=settings,
            local_files_only=True,
            use_safetensors=True,
            dtype="auto",
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # safetensors and the checks of a configuration have exceptions of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: transformers cannot read it: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{folder} lacks {', '.join(missing[:3])} and {max(len(missing) - 3, 0)} more weights")
    return model
