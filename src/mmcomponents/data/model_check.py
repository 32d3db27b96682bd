"""Whether data and model fit, before either is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcomponents.data.chat import IMAGE_CONTEXT, check_template
from mmcomponents.data.placeholders import VIDEO_PLACEHOLDER
from mmcomponents.data.verdicts import Verdicts

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
    verdicts: tuple[str, str] | None = None,
    verdict_ids: tuple[int, int] | None = None,
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
        verdicts: The positive and the negative word of the data's critic samples; None: it has none.
        verdict_ids: Token ids of these words that a head of the model reads; None: it has no such head.

    Raises:
        DataError: A verdict is no single token.
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
    if verdicts is not None:
        found = Verdicts.of(verdicts, tokenizer).ids
        if verdict_ids is not None and tuple(verdict_ids) != found:
            raise ValueError(
                f"the model's head reads the tokens {verdict_ids[0]} and {verdict_ids[1]} as verdicts, data.verdicts"
                f" {verdicts[0]!r} and {verdicts[1]!r} are {found[0]} and {found[1]} in {tokenizer_path}"
            )
