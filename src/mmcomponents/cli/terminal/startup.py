"""Start-up output of a run: the part in each slot, its size, and how much of it is trained."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.table import Table
from torch import nn

from mmcomponents.cli.terminal.step_lines import StepLines
from mmcomponents.cli.terminal.tables import cell
from mmcomponents.data.packing.mixture import Mixture
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.nf4_linear import quantized_weights
from mmcomponents.training.distributed.rank_monitor import RankMonitor
from mmcomponents.training.gradients.gradient_norms import GradientNorms
from mmcomponents.training.gradients.gradient_watch import GradientWatch, class_name
from mmcomponents.training.gradients.non_finite import NonFiniteGuard


class StartupTable(Callback):
    """Prints the slots of the model and the training data when fit starts, on rank zero.

    Args:
        console: Console to print to; None: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the tables; weights are then on their devices, in the dtype that they are trained in."""
        model = getattr(pl_module, "model", None)
        if trainer.is_global_zero and isinstance(model, MultimodalModel):
            (self.console or Console()).print(slot_table(model))
        mixture = getattr(getattr(trainer, "datamodule", None), "mixture", None)
        if trainer.is_global_zero and isinstance(mixture, Mixture):
            (self.console or Console()).print(data_table(mixture))


def slot_table(model: MultimodalModel) -> Table:
    """Returns a table with a row for each filled slot, and the total.

    Counts are those of unsharded weights. A weight that several slots share is counted in the first of them and shown
    as shared in the others.
    """
    table = Table("slot", "part")
    for head in ("parameters", "trainable"):
        table.add_column(head, justify="right")
    table.add_column("dtype")
    owner: dict[nn.Parameter, str] = {}
    for name, part in model.parts().items():
        own = [p for p in part.parameters() if p not in owner]
        shared = {p: owner[p] for p in part.parameters() if p in owner}
        owner |= dict.fromkeys(own, name)
        count, trained = _count(own) + quantized_weights(part), _count([p for p in own if p.requires_grad])
        shown = [f"{count:,}", f"{trained:,}"] if count or not shared else []
        if shared:
            note = f"{_count(list(shared)):,} shared", f"with {', '.join(dict.fromkeys(shared.values()))}"
            shown = [" + ".join(pair) for pair in zip(shown, note, strict=True)] if shown else list(note)
        table.add_row(name, class_name(part), *shown, _dtypes(part))
    table.add_section()
    every = list(owner)
    trained = _count([p for p in every if p.requires_grad])
    table.add_row("total", "", f"{_count(every) + quantized_weights(model):,}", f"{trained:,}", _dtypes(model))
    return table


def data_table(mixture: Mixture) -> Table:
    """Returns a table of the training data: samples, passes per epoch, tokens and their share for each group."""
    table = Table("data")
    for head in ("samples", "passes", "tokens per epoch", "share"):
        table.add_column(head, justify="right")
    shares = mixture.shares()
    total = sum(share.tokens for share in shares)
    for name, samples, passes, tokens in shares:
        table.add_row(
            cell(name), f"{samples:,}", f"{passes:.4g}", f"{tokens:,.0f}", f"{tokens / total:.1%}" if total else ""
        )
    return table


def default_callbacks(given: list[Callback], summary: bool | None, lines: bool) -> list[Callback]:
    """Returns the callbacks that `fit` adds to those of a recipe.

    Args:
        given: Callbacks of the recipe; none of the same kind is added.
        summary: The trainer's `enable_model_summary`; None: not set by the recipe.
        lines: Whether progress is printed as lines.
    """
    added: list[Callback] = [StepLines()] if lines else []
    if summary is None and not any(isinstance(c, ModelSummary) for c in given):
        added.append(StartupTable())
    for kind in (RankMonitor, GradientWatch, NonFiniteGuard, GradientNorms):
        if not any(isinstance(c, kind) for c in given):
            added.append(kind())
    return added


def _count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _dtypes(module: nn.Module) -> str:
    found = {str(p.dtype).removeprefix("torch.") for p in module.parameters()}
    return ", ".join(sorted(found | ({"nf4"} if quantized_weights(module) else set())))
