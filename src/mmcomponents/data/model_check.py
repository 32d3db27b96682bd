"""Whether data and model fit, before either is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcomponents.data.chat import IMAGE_CONTEXT, check_template
from mmcomponents.data.placeholders import VIDEO_PLACEHOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_model(
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_path: str,
    data_tokens_per_tile: int,
    tile_size: int,
    tokens_per_tile: int | None,
    image_size: int | None,
    vocab_size: int,
    image_token_id: int | None = None,
) -> None:
    """Makes sure that data and model fit.

    Args:
        tokenizer: Of the data.
        tokenizer_path: Its folder, for messages.
        data_tokens_per_tile: Rows that the data takes a tile to become.
        tile_size: Side of the data's tiles.
        tokens_per_tile: Rows that the model makes of a tile; None: it takes no images.
        image_size: Side of the tiles that the encoder was made for.
        vocab_size: Rows of the word table.
        image_token_id: Id that the model takes for the place of a visual row.

    Raises:
        TemplateError: The tokenizer lacks tokens of the chat template.
        ValueError: They do not fit; with both numbers.
    """
    check_template(tokenizer, images=tokens_per_tile is not None)
    # transformers' folders name a <video> that has no row: it is always replaced before a text is tokenised.
    words = len(tokenizer) - (tokenizer.get_vocab().get(VIDEO_PLACEHOLDER, -1) >= vocab_size)
    if words > vocab_size:
        raise ValueError(f"the tokenizer {tokenizer_path} has {words} tokens, the model's vocab_size is {vocab_size}")
    if tokens_per_tile is not None and tokens_per_tile != data_tokens_per_tile:
        raise ValueError(
            f"vision and merger make {tokens_per_tile} rows of a tile, the data's tokens_per_tile is"
            f" {data_tokens_per_tile}"
        )
    if image_size is not None and image_size != tile_size:
        raise ValueError(
            f"the vision encoder is made for tiles of {image_size} pixels, the data's tile_size is {tile_size}"
        )
    context = tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT)
    if image_token_id is not None and image_token_id != context:
        raise ValueError(
            f"the model's image_token_id is {image_token_id}, {IMAGE_CONTEXT} is {context} in {tokenizer_path}"
        )
