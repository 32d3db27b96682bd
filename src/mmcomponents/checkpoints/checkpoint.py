"""Reading of checkpoint folders in all formats."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from mmcomponents.checkpoints.causal_lm import CausalLM
from mmcomponents.checkpoints.checkpoint_error import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.checks.weight_names import check_layers, check_names
from mmcomponents.checkpoints.files import check_folder, read_json, read_weights
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.hf import HFInternVL
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.official import InternViTAlone, Official
from mmcomponents.checkpoints.rules import Lazy, to_ours
from mmcomponents.checkpoints.spec import ModelSpec, Processing, foreign_code
from mmcomponents.component import stored_tensors
from mmcomponents.compose import build, factory
from mmcomponents.data.chat.kinds import RecordKind
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT, check_template
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.media.images import NORMALIZATIONS, Normalization
from mmcomponents.data.media.tiling import Tiling, WholeImages
from mmcomponents.data.storage.hub import HubError, local_folder
from mmcomponents.generation.base import Sampler
from mmcomponents.limits import MAX_ROWS, check_sizes
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS: tuple[Format, ...] = (Native(), Official(), HFInternVL(), InternViTAlone(), CausalLM())
"""All formats that can be read; the first one that matches a configuration is used."""


@dataclass
class Checkpoint:
    """Checkpoint folder of a known format, with lazily read weights.

    Attributes:
        folder: Folder that it is read from.
        format: Format of its `config.json`.
        config: Its `config.json`.
        spec: Description of the model.
        weights: Weights by this library's names.
        has_processing: Whether it says how prompts and images are made.
    """

    folder: Path
    format: Format
    config: dict[str, Any]
    spec: ModelSpec
    weights: dict[str, Lazy]
    has_processing: bool = True

    def build(self) -> MultimodalModel:
        """Builds the model on the meta device and checks names and shapes of its weights against the folder.

        Raises:
            CheckpointError: They differ.
        """
        model = meta_model(self.spec)
        check_names(f"{self.folder}", stored_tensors(model), self.weights)
        return model

    def load(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        *,
        allow_nonfinite: bool = False,
    ) -> MultimodalModel:
        """Loads the model, in evaluation mode.

        Args:
            device: Device of the weights.
            dtype: Data type of the weights. None: as stored.
            allow_nonfinite: Whether to load weights with NaN or infinities.

        Raises:
            CheckpointError: The weights do not match the configuration, cannot be read, or are not finite.
        """
        model = self.build()
        parameters, state = {name for name, _ in model.named_parameters()}, {}
        # The largest first: while it is copied, the others do not need memory yet.
        for name, stored in sorted(self.weights.items(), key=lambda item: -item[1].nbytes):
            is_float = stored.meta.is_floating_point()
            value = torch.empty(stored.meta.shape, dtype=(is_float and dtype) or stored.meta.dtype, device=device)
            value.copy_(stored.load())
            if not allow_nonfinite:
                check_finite(f"{self.folder}" if dtype is None else f"{self.folder} as {dtype}", name, value)
            state[name] = nn.Parameter(value) if name in parameters else value
        model.load_state_dict(state, strict=False, assign=True)  # a tied head has no weight of its own
        model.tie_weights()
        for part in model.parts().values():
            part.set_buffers(part.buffer_values(device))
        if self.has_processing:
            model.renderer_of = partial(render_with, self.spec, self.folder, tokens_per_tile=model.tokens_per_tile)
        # No weight is moved or cast here: buffers get the type of the weights, and Lightning's modules record both.
        kinds = {value.dtype for value in state.values() if value.is_floating_point()}
        return model.to(device, kinds.pop() if len(kinds) == 1 else None).eval()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer of the folder.

        Raises:
            DataError: The folder has no tokenizer.
        """
        return load_tokenizer(self.folder)

    def renderer(self, tokenizer: PreTrainedTokenizerBase, tokens_per_tile: int | None) -> SampleRenderer:
        """Returns a renderer of prompts and images with the folder's settings.

        Args:
            tokenizer: Tokenizer of the folder.
            tokens_per_tile: Number of visual tokens per tile of the model. None: no images.

        Raises:
            CheckpointError: A record kind cannot be found or built.
        """
        return render_with(self.spec, self.folder, tokenizer, tokens_per_tile)

    def make_sampler(self, trust_remote_code: bool = False) -> Callable[..., Sampler] | None:
        """Returns the factory of the folder's sampler, which takes arguments that replace the folder's; None without.

        Args:
            trust_remote_code: Whether the sampler may be a third-party class by dotted path, which is then imported.

        Raises:
            CheckpointError: The sampler cannot be found, or is none.
        """
        if self.spec.sampler is None:
            return None
        if (foreign := foreign_code(self.spec.sampler)) and not trust_remote_code:
            raise CheckpointError(
                f"{self.folder}: its sampler is third-party code ({', '.join(foreign)}), which is imported only with"
                " trust_remote_code"
            )
        try:
            return cast(Callable[..., Sampler], factory("sampler", self.spec.sampler))
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.folder}: its sampler cannot be built: {error}") from error

    @cached_property
    def source(self) -> tuple[str, dict[str, Any]]:
        """Original format and configuration of the model, which the native format keeps."""
        kept = self.config.get("source") if isinstance(self.format, Native) else None
        return (kept["format"], kept["config"]) if kept else (self.format.name, self.config)


def read(
    path: str | Path,
    *,
    image_token_id: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Opens a checkpoint folder: native, transformers `-hf`, official InternVL, or a single part of InternVL.

    Args:
        path: The folder, or a model of the hub, `org/name` or `org/name@revision`.
        image_token_id: Token id of the placeholder of a visual token, for a folder without tokenizer.
        allow_pickle: Whether to read weights in PyTorch's pickle format.
        trust_remote_code: Whether a native folder may name third-party classes by dotted path, which are then imported.

    Raises:
        CheckpointError: The folder is missing, broken, or of no known format.
    """
    try:
        folder = local_folder(path)
    except HubError as error:
        raise CheckpointError(str(error)) from error
    check_folder(folder)
    if not (folder / "config.json").exists() and (folder / "open_clip_config.json").exists():
        raise UnknownFormatError(f"{folder} holds a model of open_clip")
    config = read_json(folder / "config.json")
    found = next((known for known in FORMATS if known.matches(config)), None)
    if found is None:
        kind = config.get("model_type") or config.get("architectures")
        raise UnknownFormatError(f"{folder} holds a model of type {kind!r}, which is not of a known format")
    stored = read_weights(folder, allow_pickle)
    weights = {found.normalized(name): value for name, value in stored.items()}
    try:
        spec = found.refined(found.spec(config, weights), folder)
        named = image_token_id if image_token_id is not None else added_tokens(folder).get(IMAGE_CONTEXT)
        if spec.parts.get("vision") and named is not None:
            spec = replace(spec, image_token_id=named)
        if (foreign := spec.foreign_code()) and not trust_remote_code:
            raise CheckpointError(
                f"it names third-party code ({', '.join(foreign)}), which is imported only with trust_remote_code; "
                "parts that an installed package declares are found by their short names"
            )
        ours = to_ours(weights, found.rules(config, spec), found.ignored)
        ours = {name: value for name, value in ours.items() if not _is_unused(name, spec)}
        check_layers(spec, ours)
        _check_inputs(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{folder}: its configuration is wrong: {error}") from error
    except (LookupError, TypeError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{folder}: its configuration is wrong: {type(error).__name__} {error}") from error
    return Checkpoint(folder, found, config, spec, ours)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    image_token_id: int | None = None,
    allow_nonfinite: bool = False,
    trust_remote_code: bool = False,
) -> MultimodalModel:
    """Loads a model from a folder: a native export, a transformers `-hf` folder or an official InternVL folder.

    Args:
        path: The folder, or a model of the hub, `org/name` or `org/name@revision`.
        device: Device of the weights.
        dtype: Data type of the weights. None: as stored.
        image_token_id: Token id of the placeholder of a visual token, for a folder without tokenizer.
        allow_nonfinite: Whether to load weights with NaN or infinities.
        trust_remote_code: Whether a native folder may name third-party classes by dotted path, which are then imported.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The folder is missing, broken, or of no known format, or a weight is not finite.
    """
    found = read(path, image_token_id=image_token_id, trust_remote_code=trust_remote_code)
    return found.load(device, dtype, allow_nonfinite=allow_nonfinite)


def meta_model(spec: ModelSpec) -> MultimodalModel:
    """Builds the model of a spec on the meta device.

    Raises:
        CheckpointError: A part cannot be found or built, or two parts do not fit.
    """
    try:
        with torch.device("meta"):
            return build(spec.parts, spec.vocab_size, spec.image_token_id)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the model cannot be built: {reason}") from error


def render_with(
    spec: ModelSpec, folder: Path, tokenizer: PreTrainedTokenizerBase, tokens_per_tile: int | None
) -> SampleRenderer:
    """Returns a renderer of prompts and images with the settings of a folder, see `Checkpoint.renderer`."""
    check_template(tokenizer, images=tokens_per_tile is not None)
    processing = spec.processing
    try:
        kinds = [factory("record_kind", kind)() for kind in spec.kinds]
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its record kind cannot be built: {error}") from error
    return SampleRenderer(
        tokenizer,
        tokens_per_tile or 1,
        tiling_of(processing),
        cast(Normalization, processing.normalization),
        processing.system,
        typed_by=cast(list[RecordKind], kinds),
    )


def tiling_of(processing: Processing) -> Tiling:
    """Returns the tiling of a model's images in inference.

    Raises:
        ValueError: A setting is out of range.
    """
    if processing.longest_side is not None:
        return WholeImages(tile_size=processing.tile_size, longest=processing.longest_side)
    sizes = (processing.min_tiles, processing.max_tiles, processing.tile_size)
    return Tiling(*sizes, thumbnail=processing.thumbnail, share=False)


def _check_inputs(spec: ModelSpec) -> None:
    """Checks how a model's inputs are made.

    Raises:
        ValueError: A setting is out of range or unknown.
    """
    how = spec.processing
    tiling_of(how)
    if how.normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {how.normalization!r} is not one of {', '.join(NORMALIZATIONS)}")
    if not isinstance(how.system, str | None):
        raise ValueError(f"the system text is a {type(how.system).__name__}")
    if spec.image_token_id:  # 0 is an id too
        check_sizes(MAX_ROWS, image_token_id=spec.image_token_id)


def _is_unused(name: str, spec: ModelSpec) -> bool:
    """Returns whether a weight belongs to a vision block past the last level used, which `InternViT` does not build."""
    part = spec.parts.get("vision") or {}
    vision = (part.get("init_args") or {}) if str(part.get("class_path")).rpartition(".")[2] == "InternViT" else {}
    block = re.match(r"vision\.blocks\.(\d+)\.", name)
    if block is None or not vision.get("levels"):
        return False
    highest = max(level + vision["num_layers"] + 1 if level < 0 else level for level in vision["levels"])
    return bool(int(block[1]) >= highest)


def added_tokens(folder: Path) -> dict[str, int]:
    """Returns the ids of the added tokens of a folder's tokenizer, read from its files without building it."""
    found: dict[str, int] = {}
    if (folder / "tokenizer.json").exists():
        for token in read_json(folder / "tokenizer.json").get("added_tokens") or []:
            found[str(token["content"])] = int(token["id"])
    if (folder / "tokenizer_config.json").exists():
        table = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        found |= {str(token["content"]): int(number) for number, token in table.items()}
    if (folder / "added_tokens.json").exists():
        found |= {str(token): int(number) for token, number in read_json(folder / "added_tokens.json").items()}
    return found
