"""`mmcomponents fit --dry_run`: what a run starts from.

Which weights each slot takes from a folder, which are drawn, and how far the logits are from those of the folder's
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mmcomponents.cli.recipes.flags import sort_flags
from mmcomponents.cli.terminal.tables import cell, print_line, table_console
from mmcomponents.cli.user_error import errors_in_one_line

if TYPE_CHECKING:
    from mmcomponents.checkpoints.initial import InitialWeights
    from mmcomponents.model import MultimodalModel

_TEXT = 48
"""Number of text tokens of the sequence whose logits are compared."""


def main(verb: str, argv: list[str]) -> int:
    """Builds the model of a recipe with its first weights, and prints where they come from."""
    from mmcomponents.cli.recipes.recipe_cli import RecipeCLI
    from mmcomponents.data.datamodule import PackedDataModule
    from mmcomponents.training import MultimodalTask

    cli = RecipeCLI(verb, sort_flags(argv), MultimodalTask, PackedDataModule)
    task: Any = cli.model
    console = table_console()
    with errors_in_one_line(verb), Console(stderr=True).status("building the model with its first weights"):
        task.configure_model()
        model, loaded = task.model.eval(), task.initial_weights
        table = start_table(model, loaded)
        compared = _compared(model, task.weights, task.trust_remote_code)
    console.print(table)
    for line in compared:
        print_line(console, line)
    return 0


def start_table(model: MultimodalModel, loaded: InitialWeights | None) -> Table:
    """Returns a table with the source of each part's weights.

    Args:
        model: Model whose parts are listed.
        loaded: Weights of folders that it has been given; None: all are drawn.
    """
    from mmcomponents.nn.nf4_linear import quantized_weights
    from mmcomponents.training.gradients.gradient_watch import class_name

    table = Table("slot", "part")
    for head in ("parameters", "loaded", "drawn"):
        table.add_column(head, justify="right")
    table.add_column("from")
    starts = {} if loaded is None else loaded.sources()
    for name, part in model.parts().items():
        total = sum(parameter.numel() for parameter in part.parameters()) + quantized_weights(part)
        found = starts.get(name, {})
        constructor = {n: p.numel() for n, p in part.named_parameters() if n in part.brought and n not in found}
        count = sum(start.count for start in found.values()) + sum(constructor.values())
        sources = [*dict.fromkeys(start.folder for start in found.values()), *["its constructor"][: len(constructor)]]
        if getattr(part, "is_tied", False):
            table.add_row(name, class_name(part), "tied")
        else:
            shown = [f"{value:,}" if total else "" for value in (total, count, total - count)]
            table.add_row(name, class_name(part), *shown, cell(", ".join(sources)))
    return table


def _compared(model: MultimodalModel, weights: Any, trust_remote_code: bool) -> list[str]:
    """Returns lines about the logits beside those of the model of the only folder."""
    from mmcomponents.checkpoints import CheckpointError, read

    folders = {str(path) for path in (weights.values() if isinstance(weights, dict) else [weights]) if path}
    if not folders:
        return ["all weights are drawn: model.weights names no folder"]
    if len(folders) > 1:
        return ["logits are not compared: the weights are of several folders"]
    (folder,) = folders
    try:
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        other = read(folder, trust_remote_code=trust_remote_code).load(dtype=dtype)
    except CheckpointError as error:
        return [f"logits are not compared: {error}"]
    if reason := _incomparable(model, other):
        return [f"logits are not compared: {reason}"]
    difference, scale = logit_difference(model, other)
    same = "bit for bit equal to" if difference == 0 else f"at most {difference:.3g} from"
    return [f"logits of a random sequence are {same} those of {folder} (largest: {scale:.3g})"]


def _incomparable(model: MultimodalModel, other: MultimodalModel) -> str:
    for name, one in (("the model", model), ("the folder's model", other)):
        if one.backbone is None or "lm" not in one.heads:
            return f"{name} has no head lm"
        if one.vision is None and model.vision is not other.vision:
            return f"{name} has no vision encoder"
    pair = [one.tokens_per_tile if one.vision is not None else 0 for one in (model, other)]
    if pair[0] != pair[1]:
        return f"a tile becomes {pair[0]} visual tokens, and {pair[1]} in the folder's model"
    encoders = [one.vision for one in (model, other) if one.vision is not None]
    if len(encoders) == 2:
        sizes = [encoder.blank("cpu").pixels for encoder in encoders]
        shapes = [None if pixels is None else tuple(pixels.shape[-2:]) for pixels in sizes]
        if shapes[0] is None or shapes[0] != shapes[1]:
            return f"tiles are {shapes[0]}, and {shapes[1]} in the folder's model"
    return ""


def logit_difference(model: MultimodalModel, other: MultimodalModel) -> tuple[float, float]:
    """Returns the largest difference between the logits of two models, and their largest value.

    The sequence has a tile of noise, if the models see, and random tokens of the smaller vocabulary.

    Args:
        model: Model that a run starts with.
        other: A model with as many visual tokens for a tile of the same size.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = [one.embedder.embedding_weight() for one in (model, other) if one.embedder is not None]
    size = min(len(weight) for weight in weights if weight is not None)
    text = torch.randint(0, size, (_TEXT,), generator=generator)
    logits = []
    pixels, each = None, model.tokens_per_tile if model.vision is not None else 0
    if model.vision is not None:
        blank = model.vision.blank("cpu").pixels
        assert blank is not None
        pixels = torch.randn(blank.shape, generator=generator)
    for one in (model, other):
        if one.image_token_id is not None:
            text = torch.where(text == one.image_token_id, (text + 1) % size, text)
    for one in (model, other):
        ids = text
        if each:
            tile = torch.full((each,), int(one.image_token_id or 0))
            ids = torch.cat((text[: _TEXT // 2], tile, text[_TEXT // 2 :]))
        with torch.no_grad():
            logits.append(one.logits(ids.to(one.device), pixels)[:, :size].float().cpu())
    return float((logits[0] - logits[1]).abs().max()), float(logits[1].abs().max())
