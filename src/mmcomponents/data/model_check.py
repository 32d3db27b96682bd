"""Check that data and model fit, before either is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcomponents.data.chat.placeholders import VIDEO_PLACEHOLDER
from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT, check_template
from mmcomponents.data.chat.tokenizer import vocabulary_fingerprint
from mmcomponents.data.chat.verdicts import Verdicts
from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_model(
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_path: str,
    data_tokens_per_tile: int,
    tile_size: int,
    tokens_per_tile: int | None,
    image_size: int | None,
    vocab_size: int | None,
    image_token_id: int | None = None,
    verdicts: tuple[str, str] | None = None,
    verdict_ids: tuple[int, int] | None = None,
) -> None:
    """Checks that data and model fit.

    Args:
        tokenizer: Tokenizer of the data.
        tokenizer_path: Its folder, for messages.
        data_tokens_per_tile: Visual tokens per tile in the data.
        tile_size: Side of the data's tiles in pixels.
        tokens_per_tile: Visual tokens per tile of the model; None if it takes no images.
        image_size: Side in pixels of the tiles that the vision encoder expects; None without one.
        vocab_size: Vocabulary size of the model; None if it has no language side.
        image_token_id: Token id of the model's image placeholder.
        verdicts: The positive and the negative verdict word of the data's critic samples; None if it has none.
        verdict_ids: Token ids of the verdict words of the model's head; None without such a head.

    Raises:
        DataError: A verdict is not a single token.
        TemplateError: The tokenizer lacks tokens of the chat template.
        ValueError: Data and model do not fit; the message has both numbers.
    """
    check_template(tokenizer, images=tokens_per_tile is not None)
    # Folders of transformers have a <video> token without an embedding: it is always replaced before tokenization.
    if vocab_size is not None:
        tokens = len(tokenizer) - (tokenizer.get_vocab().get(VIDEO_PLACEHOLDER, -1) >= vocab_size)
        if tokens > vocab_size:
            raise ValueError(
                f"the tokenizer {tokenizer_path} has {tokens} tokens, the model's vocab_size is {vocab_size}"
            )
    check_tiles(data_tokens_per_tile, tile_size, tokens_per_tile, image_size)
    context = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    if image_token_id is not None and image_token_id != context:
        raise ValueError(
            f"the model's image_token_id is {image_token_id}, {IMAGE_CONTEXT} is {context} in {tokenizer_path}"
        )
    if verdicts is not None:
        found = Verdicts.of(verdicts, tokenizer).ids
        if verdict_ids is not None and tuple(verdict_ids) != found:
            raise ValueError(
                f"the model's head reads the tokens {verdict_ids[0]} and {verdict_ids[1]} as verdicts, data.verdicts"
                f" {verdicts[0]!r} and {verdicts[1]!r} are {found[0]} and {found[1]} in {tokenizer_path}"
            )


def check_tiles(
    data_tokens_per_tile: int | None, tile_size: int | None, tokens_per_tile: int | None, image_size: int | None
) -> None:
    """Checks that the tiles of data and model fit; None: it is not known, and not checked.

    Args:
        data_tokens_per_tile: Visual tokens per tile in the data.
        tile_size: Side of the data's tiles in pixels.
        tokens_per_tile: Visual tokens per tile of the model.
        image_size: Side in pixels of the tiles that the vision encoder expects.

    Raises:
        ValueError: They do not; the message has both numbers.
    """
    if None not in (tokens_per_tile, data_tokens_per_tile) and tokens_per_tile != data_tokens_per_tile:
        raise ValueError(
            f"vision encoder and merger produce {tokens_per_tile} visual tokens per tile, the data's tokens_per_tile is"
            f" {data_tokens_per_tile}: set data.tokens_per_tile to {tokens_per_tile}, or to null, which takes the"
            " model's"
        )
    if None not in (image_size, tile_size) and image_size != tile_size:
        raise ValueError(
            f"the vision encoder expects tiles of {image_size} pixels, the data's tile_size is {tile_size}: set"
            f" data.images.tile_size to {image_size}"
        )


def tokenizer_of(datamodule: object) -> Any | None:
    """Returns the tokenizer of a data module; None if it has none. A missing folder is reported when it is needed."""
    try:
        return getattr(datamodule, "tokenizer", None)
    except DataError:
        return None


def check_parts(parts: Mapping[str, Any], datamodule: object) -> None:
    """Checks the files that parts read, and that parts fit the tokenizer and the normalisation of the data.

    Args:
        parts: Parts by name, which may have been built without their files, on the meta device.
        datamodule: The data module; None: nothing is checked.

    Raises:
        ValueError: A file does not exist, or a part was made for another tokenizer or for pixels of another scale.
    """
    if datamodule is None:
        return
    tokenizer = tokenizer_of(datamodule)
    scale = getattr(getattr(datamodule, "images", None), "normalization", None)
    for kind in getattr(getattr(datamodule, "kinds", None), "kinds", ()):
        kind.check_parts(parts)
    for name, part in parts.items():
        own = getattr(part, "normalization", None)
        if own is not None and scale is not None and own != scale:
            raise ValueError(
                f"{name} ({type(part).__name__}) has pixels of the normalization {own!r}, and data.images.normalization"
                f" is {scale!r}"
            )
        for argument in getattr(part, "files", ()):
            path = getattr(part, argument, None)
            if isinstance(path, str) and not Path(path).is_file():
                raise ValueError(f"{name} ({type(part).__name__}) reads {argument}: there is no file {path}")
        wanted = getattr(part, "tokenizer_fingerprint", None)
        if wanted is not None and tokenizer is not None and wanted != (found := vocabulary_fingerprint(tokenizer)):
            files = ", ".join(str(getattr(part, argument, "")) for argument in part.files)
            raise ValueError(
                f"{name} ({type(part).__name__}) was made for a tokenizer with the fingerprint {wanted} ({files}), and"
                f" the tokenizer of the data has {found}"
            )
