"""A folder with a model, whatever its format."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from mmcomponents.checkpoints.causal_lm import CausalLM
from mmcomponents.checkpoints.errors import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.files import check_folder, read_json, read_weights
from mmcomponents.checkpoints.formats import Format
from mmcomponents.checkpoints.hf import HFInternVL
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.official import InternViTAlone, Official
from mmcomponents.checkpoints.rules import Lazy, to_ours
from mmcomponents.checkpoints.spec import ModelSpec
from mmcomponents.compose import build
from mmcomponents.data import SampleRenderer, Tiling
from mmcomponents.data.chat import IMAGE_CONTEXT, check_template
from mmcomponents.data.images import Normalization
from mmcomponents.data.tokenizer import load_tokenizer
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMATS: tuple[Format, ...] = (Native(), Official(), HFInternVL(), InternViTAlone(), CausalLM())
"""All formats that are read; the first one that knows a configuration reads it."""


@dataclass
class Checkpoint:
    """A folder that was recognised; its weights are read when they are wanted.

    Attributes:
        folder: Where it lies.
        format: How it is stored.
        config: Its `config.json`.
        spec: What the model is made of.
        weights: By our names.
    """

    folder: Path
    format: Format
    config: dict[str, Any]
    spec: ModelSpec
    weights: dict[str, Lazy]

    def build(self) -> MultimodalModel:
        """The model on the meta device, its weights' names and shapes compared with those of the folder.

        Raises:
            CheckpointError: They differ.
        """
        model = meta_model(self.spec)
        wanted = dict(model.named_parameters())
        check_names(f"{self.folder}", {n: p.shape for n, p in wanted.items()}, self.weights)
        return model

    def load(self, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> MultimodalModel:
        """The model in evaluation mode.

        Args:
            device: Where its weights are to lie.
            dtype: Of its weights; None: as they are stored.

        Raises:
            CheckpointError: The weights are not those of the configuration, or cannot be read.
        """
        model = self.build()
        state = {}
        # The largest first: while it is copied, the others need no memory yet.
        for name, stored in sorted(self.weights.items(), key=lambda item: -item[1].nbytes):
            value = torch.empty(stored.meta.shape, dtype=dtype or stored.meta.dtype, device=device)
            value.copy_(stored.load())
            state[name] = nn.Parameter(value)
        model.load_state_dict(state, strict=False, assign=True)  # a tied head has no weight of its own
        model.tie_weights()
        # Nothing moves any more; Lightning's modules remember the device that they were built on.
        return model.to(device).eval()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the folder.

        Raises:
            DataError: There is none.
        """
        return load_tokenizer(self.folder)

    def renderer(self, tokenizer: PreTrainedTokenizerBase, tokens_per_tile: int | None) -> SampleRenderer:
        """What makes prompts and pictures ready, with the folder's settings.

        Args:
            tokenizer: Of the folder.
            tokens_per_tile: Of the model; None without images.
        """
        check_template(tokenizer, images=tokens_per_tile is not None)
        how = self.spec.processing
        tiling = Tiling(how.min_tiles, how.max_tiles, how.tile_size, how.thumbnail)
        normalization = cast(Normalization, how.normalization)
        return SampleRenderer(tokenizer, tokens_per_tile or 1, tiling, normalization, how.system)

    @cached_property
    def source(self) -> tuple[str, dict[str, Any]]:
        """Format and configuration that the model had first: nothing of it is lost in our own format."""
        kept = self.config.get("source") if isinstance(self.format, Native) else None
        return (kept["format"], kept["config"]) if kept else (self.format.name, self.config)


def read(
    path: str | Path,
    *,
    image_token_id: int | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Recognises a folder: ours, a transformers `-hf` one, an official InternVL one, or one part of it alone.

    Args:
        path: The folder. Nothing is fetched from anywhere.
        image_token_id: Placeholder of a visual token, for a folder without tokenizer.
        allow_pickle: Whether weights in PyTorch's own format are read.
        trust_remote_code: Whether a folder of ours may name classes of others by dotted path, which are then imported.

    Raises:
        CheckpointError: It is missing, broken, or of no known format.
    """
    folder = Path(path)
    check_folder(folder)
    config = read_json(folder / "config.json")
    found = next((known for known in FORMATS if known.matches(config)), None)
    if found is None:
        kind = config.get("model_type") or config.get("architectures")
        raise UnknownFormatError(
            f"{folder} holds a model of type {kind!r}, which is none of the formats that are known"
        )
    stored = read_weights(folder, allow_pickle)
    weights = {found.normalized(name): value for name, value in stored.items()}
    try:
        spec = found.refined(found.spec(config, weights), folder)
        named = image_token_id if image_token_id is not None else added_tokens(folder).get(IMAGE_CONTEXT)
        if spec.parts.get("vision") and named is not None:
            spec = replace(spec, image_token_id=named)
        if (foreign := spec.foreign_code()) and not trust_remote_code:
            raise CheckpointError(
                f"it names code of others ({', '.join(foreign)}), which is imported only if asked for "
                "(trust_remote_code); a package that declares its parts is found by their short names"
            )
        ours = to_ours(weights, found.rules(config, spec), found.ignored)
        ours = {name: value for name, value in ours.items() if not _is_unused(name, spec)}
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"{folder}: its configuration is wrong: {type(error).__name__} {error}") from error
    return Checkpoint(folder, found, config, spec, ours)


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    image_token_id: int | None = None,
) -> MultimodalModel:
    """Loads a model from a folder: our export, a transformers `-hf` folder or an official InternVL folder.

    Args:
        path: The folder.
        device: Where its weights are to lie.
        dtype: Of its weights; None: as they are stored.
        image_token_id: Placeholder of a visual token, for a folder without tokenizer.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The folder is missing, broken, or of no known format.
    """
    return read(path, image_token_id=image_token_id).load(device, dtype)


def meta_model(spec: ModelSpec) -> MultimodalModel:
    """The model of a spec on the meta device.

    Raises:
        CheckpointError: A part cannot be found or built, or two of them do not fit.
    """
    try:
        with torch.device("meta"):
            return build(spec.parts, spec.vocab_size, spec.image_token_id)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(f"the model cannot be built: {error}") from error


def _is_unused(name: str, spec: ModelSpec) -> bool:
    """Whether a weight is of a block past the level that is read: folders hold it, our encoder does not build it."""
    vision = (spec.parts.get("vision") or {}).get("init_args") or {}
    block = re.match(r"vision\.blocks\.(\d+)\.", name)
    if block is None or not vision.get("levels"):
        return False
    highest = max(level + vision["num_layers"] + 1 if level < 0 else level for level in vision["levels"])
    return bool(int(block[1]) >= highest)


def check_names(where: str, wanted: dict[str, torch.Size], given: dict[str, Lazy]) -> None:
    """Refuses weights that are not those of a model.

    Raises:
        CheckpointError: With the first few names.
    """
    missing = [name for name in wanted if name not in given]
    surplus = [name for name in given if name not in wanted]
    if missing or surplus:
        told = [f"lacks {_few(missing)}"] * bool(missing) + [f"has {_few(surplus)}, which the model has not"] * bool(
            surplus
        )
        raise CheckpointError(f"{where} {' and '.join(told)}")
    whole = [name for name, value in given.items() if not value.meta.is_floating_point()]
    if whole:
        kind = str(given[whole[0]].meta.dtype).removeprefix("torch.")
        raise CheckpointError(f"{where}: {_few(whole)} is of type {kind}; quantised weights are not supported")
    wrong = [name for name, shape in wanted.items() if given[name].meta.shape != shape]
    if wrong:
        shapes = f"{list(given[wrong[0]].meta.shape)}, the model has {list(wanted[wrong[0]])}"
        raise CheckpointError(f"{where}: {wrong[0]} is {shapes} (and {len(wrong) - 1} more)")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def added_tokens(folder: Path) -> dict[str, int]:
    """Ids of the tokens that were added to a folder's tokenizer, read from its files without building it."""
    found: dict[str, int] = {}
    if (folder / "tokenizer.json").is_file():
        for token in read_json(folder / "tokenizer.json").get("added_tokens") or []:
            found[str(token["content"])] = int(token["id"])
    if (folder / "tokenizer_config.json").is_file():
        table = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
        found |= {str(token["content"]): int(number) for number, token in table.items()}
    if (folder / "added_tokens.json").is_file():
        found |= {str(token): int(number) for token, number in read_json(folder / "added_tokens.json").items()}
    return found
