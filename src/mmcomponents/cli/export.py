"""`mmcomponents export`: writes a checkpoint folder, or the model of a run, in another format."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from mmcomponents.cli.models.folder_output import add_output_options, write_out
from mmcomponents.cli.terminal.parser import Parser
from mmcomponents.cli.user_error import UserError, errors_in_one_line
from mmcomponents.registry import near

if TYPE_CHECKING:
    from mmcomponents.checkpoints import ModelSpec
    from mmcomponents.data import SampleRenderer


def main(verb: str, argv: list[str]) -> int:
    """Runs the verb."""
    parser = Parser(
        prog=f"mmcomponents {verb}",
        description="Write a checkpoint folder SRC in another format, or the model of a run with its adapters merged. "
        "For a run, flags of its recipe (--data.tokenizer …) are accepted too.",
        allow_abbrev=False,
    )
    parser.usage = f"%(prog)s [SRC | --config RECIPE --ckpt_path CKPT] --format NAME --out DIR {_OPTIONS}"
    parser.add_argument("--ckpt_path", help="checkpoint of a run: a file, or a folder of shards")
    parser.add_argument("--format", help="transformers, official, mmcomponents or causal_lm")
    add_output_options(parser)
    # SRC comes first, since a later word may be the value of a recipe's flag, which this parser does not know.
    folder = argv[0] if argv and not argv[0].startswith("-") else None
    options, recipe_flags = parser.parse_known_args(argv[folder is not None :])
    from mmcomponents.checkpoints.export_folder import WRITTEN

    if options.format not in WRITTEN:
        given = options.format
        wrong = "--format is missing" if given is None else f"no format {given!r}{near(given, WRITTEN)}"
        raise UserError(f"{verb}: {wrong}; the formats are {', '.join(WRITTEN)}")
    with errors_in_one_line(verb):
        if folder is None:
            _export_run(verb, options, recipe_flags)
        elif recipe_flags or options.ckpt_path:
            flag = recipe_flags[0] if recipe_flags else "--ckpt_path"
            raise UserError(f"{verb}: {flag} cannot be combined with the folder {folder}{near(flag, _FLAGS)}")
        else:
            from mmcomponents.checkpoints import read

            found = read(folder, allow_pickle=options.allow_pickle, trust_remote_code=options.trust_remote_code)
            write_out(options, found.spec, found.weights, options.format, source=found.source, folder=found.folder)
    return 0


_OPTIONS = (
    "[--dtype bfloat16] [--max_shard_size 5GB] [--overwrite] [--allow_pickle] [--allow_nonfinite] [--trust_remote_code]"
)
_FLAGS = (
    "--out", "--format", "--dtype", "--max_shard_size", "--overwrite", "--allow_pickle", "--allow_nonfinite",
    "--trust_remote_code",
)  # fmt: skip


def _export_run(verb: str, options: argparse.Namespace, recipe_flags: list[str]) -> None:
    from mmcomponents.checkpoints.adapter_weights import merged_weights
    from mmcomponents.checkpoints.checkpoint import meta_model
    from mmcomponents.cli.models.model_card import RunOrigin
    from mmcomponents.cli.models.model_loading import data_attributes
    from mmcomponents.cli.models.run_weights import frozen_weights, model_weights
    from mmcomponents.cli.recipes.differences import report_differences
    from mmcomponents.cli.recipes.flags import sort_flags
    from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
    from mmcomponents.cli.recipes.run_folder import RECIPE
    from mmcomponents.component import stored_tensors
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.data.storage.hub import local_folder
    from mmcomponents.training import MultimodalTask
    from mmcomponents.training.adapters import inject_adapters

    flags = sort_flags(recipe_flags)
    for key, _ in flags.settings:
        if "." not in key and key != "data":
            raise UserError(f"{verb}: no option --{key}{near('--' + key, _FLAGS)}")
    if not flags.configs:
        raise UserError(f"{verb} needs a folder, or --config RECIPE and --ckpt_path CKPT")
    if not options.ckpt_path:
        raise UserError(f"{verb}: --ckpt_path is missing; without a checkpoint the weights would be random")
    cli = RecipeCLI(verb, flags, MultimodalTask, PackedDataModule)
    report_differences(Path(options.ckpt_path), cli.config_dump["model"], training=False)
    renderer, tokenizer_path = data_attributes(verb, cli.datamodule, "renderer", "tokenizer_path")
    task = cast(MultimodalTask, cli.model)
    filled = {"vocab_size": task.vocab_size, "image_token_id": task.image_token_id}
    kinds = _typed_kinds(cli.config_dump["data"])
    spec = recipe_spec(cli.config["model"].as_dict() | filled, renderer, kinds)
    # A tied head has no weight of its own: it exposes the embedding weight.
    model = meta_model(spec)
    own = set(stored_tensors(model))
    inject_adapters(model, task.slots)
    path = Path(options.ckpt_path)
    stored = model_weights(path, options.allow_nonfinite) | frozen_weights(path, model, task)
    saved = merged_weights(model, stored).items()
    weights = {name: value for name, value in saved if name in own or not name.startswith("heads.")}
    with TemporaryDirectory() as changed:
        folder = local_folder(tokenizer_path, weights=False)
        if not folder.is_dir() or getattr(getattr(cli.datamodule, "text", None), "allowed_tokens", None):
            # `byte-level` is no folder; allowed tokens are not special
            renderer.tokenizer.save_pretrained(changed)
            folder = Path(changed)
        home = next((above for above in path.resolve().parents if (above / RECIPE).is_file()), None)
        run = None if home is None else RunOrigin(home, path / "meta.pt" if path.is_dir() else path)
        write_out(options, spec, weights, options.format, source=None, folder=folder, run=run)


def recipe_spec(model: Mapping[str, Any], renderer: SampleRenderer, kinds: Sequence[dict[str, Any]] = ()) -> ModelSpec:
    """Returns the specification of a recipe's model.

    Args:
        model: The `model:` section with all defaults.
        renderer: The renderer of the recipe's data.
        kinds: Record kinds that render what users ask, with `class_path` and `init_args`.
    """
    from mmcomponents.checkpoints import ModelSpec, Processing
    from mmcomponents.compose import short_names
    from mmcomponents.data.chat.special_tokens import IMAGE_CONTEXT
    from mmcomponents.registry import slots

    names = [name for name in slots() if name in model and name not in ("objective", "sampler")]
    parts: dict[str, Any] = {name: short_names(model[name]) for name in names if model[name]}
    parts["heads"] = {name: short_names(head) for name, head in (model.get("heads") or {}).items()}
    placeholder = model.get("image_token_id")
    if placeholder is None and parts.get("vision"):
        placeholder = int(renderer.tokenizer.convert_tokens_to_ids(IMAGE_CONTEXT))
    sampler = short_names(model["sampler"]) if model.get("sampler") else None
    named = [short_names(kind) for kind in kinds]
    return ModelSpec(parts, model.get("vocab_size"), placeholder, Processing.of(renderer), sampler, named)


def _typed_kinds(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the record kinds of a recipe's data section that render what users ask."""
    from mmcomponents.compose import class_of
    from mmcomponents.data.chat.kinds import RecordKind

    found = data.get("init_args", data).get("kinds") or []
    return [kind for kind in found if getattr(class_of(kind), "typed", RecordKind.typed) is not RecordKind.typed]
