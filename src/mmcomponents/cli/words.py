"""`mmcomponents words`: nearest words of the visual tokens of images, as a table and as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mmcomponents.cli.models.model_options import add_model_options, check_model, load_model, parse_arguments
from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.parser import Parser, positive, recipe_verb_parser
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import UserError, errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.generation.visual_words import TileWords

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parsed = parse_arguments(_parser(verb), argv)
    if parsed is None:
        return 0
    options, folder, recipe = parsed
    if not options.image:
        raise UserError(f"{verb}: --image is missing")
    if options.out and Path(options.out).suffix.lower() not in _SUFFIXES:
        raise UserError(f"{verb}: --out {options.out} must end in one of {', '.join(_SUFFIXES)}")
    flags = sort_flags(recipe)
    check_model(verb, options, folder, flags)
    from mmcomponents.cli.models.media_inputs import Media
    from mmcomponents.cli.models.model_loading import limit_tiles

    media = Media()
    for path in options.image:
        media.add_image(path)
    loaded = limit_tiles(load_model(verb, options, folder, flags), options.max_tiles)
    import torch

    from mmcomponents.evaluation.word_sheet import word_sheet
    from mmcomponents.generation.visual_words import nearest_words

    with errors_in_one_line(verb):
        tiling = loaded.renderer.tiling.for_images(len(media.images))
        tiles = [tiling.cut(image) for image in media.images]
        pixels = torch.cat([image.pixels for image in loaded.renderer.tile(media.images)])
        found = nearest_words(loaded.model, pixels, loaded.tokenizer, options.top)
        names = [f"{path}, tile {n}" for path, cut in zip(options.image, tiles, strict=True) for n in range(len(cut))]
        if options.out:
            word_sheet([tile for cut in tiles for tile in cut], found).save(options.out)
    if options.json:
        rows = [_as_json(name, tile) for name, tile in zip(names, found, strict=True)]
        sys.stdout.write(json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
        return 0
    console = table_console()
    for name, tile in zip(names, found, strict=True):
        print_line(console, name)
        console.print(_table(tile), highlight=False)
    if options.out:
        print_line(console, f"wrote {options.out}")
    return 0


def _as_json(name: str, tile: TileWords) -> dict[str, object]:
    return {"tile": name, "grid": tile.grid, "words": tile.words, "cosines": tile.cosines.tolist()}


def _table(tile: TileWords) -> Table:
    table = Table("token", "row, column", *map(str, range(1, tile.cosines.shape[1] + 1)))
    for number, (words, cosines) in enumerate(zip(tile.words, tile.cosines.tolist(), strict=True)):
        place = "" if tile.grid is None else f"{number // tile.grid[1]}, {number % tile.grid[1]}"
        shown = (cell(f"{word!r} {cosine:.2f}") for word, cosine in zip(words, cosines, strict=True))
        table.add_row(str(number), place, *shown)
    return table


def _parser(verb: str) -> Parser:
    parser = recipe_verb_parser(
        verb,
        "Show the words whose embeddings are nearest to the visual tokens of images. MODEL is a folder in any format "
        "that `generate` reads. With a recipe, its flags (--model.…, --data.…) are accepted too.",
        "%(prog)s MODEL --image FILE [options]\n"
        "       %(prog)s --config RECIPE --ckpt_path FILE --image FILE [options]",
    )
    add_model_options(parser)
    add = parser.add_argument
    add("--image", nargs="+", action="extend", default=[], help="image files")
    add("--top", type=positive, default=5, help="number of words of a visual token (5)")
    add("--max_tiles", type=int, help="most tiles of an image")
    add("--out", metavar="FILE.png", help="picture of the tiles with the nearest word of each visual token")
    add("--json", action="store_true", help="print words and cosines as JSON")
    return parser
