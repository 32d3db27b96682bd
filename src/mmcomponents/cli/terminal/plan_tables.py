"""Tables of `mmcomponents plan`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.filesize import pick_unit_and_suffix
from rich.table import Table
from rich.text import Text

from mmcomponents.training.memory.device_memory import LEFT_OUT, Run
from mmcomponents.training.memory.estimate import Plan, Settings
from mmcomponents.training.memory.verdict import RESERVE, Verdict


def plan_tables(found: Plan, run: Run, settings: Settings, verdicts: list[Verdict]) -> Group:
    """Returns what `plan` prints."""
    pack = found.pack
    parts: list[RenderableType] = [
        _slots(found),
        f"A pack has {pack['tokens']:,} tokens in one conversation: {pack['tiles']} tiles with "
        f"{pack['visual_tokens']:,} visual tokens, and {pack['targets']:,} targets. A step is a forward and a backward "
        f"pass over a pack{', and a forward pass of the reference' if found.memory.reference else ''}, with what "
        "activation checkpointing computes again.",
        "",
    ]
    if found.problem:
        parts += [Text(f"Activations are not counted: {found.problem}", style="red"), ""]
    else:
        parts += [_activations(found, settings), ""]
    parts += [
        _memory(found, settings),
        f"On {_devices(run.devices)} with {run.described()}. Not counted: {', '.join(LEFT_OUT)}.",
    ]
    if verdicts:
        parts += ["", *(_verdict(v, run, settings) for v in verdicts)]
    return Group(*parts)


def _slots(found: Plan) -> Table:
    table = Table("slot", "part")
    for head in ("parameters", "trainable", "FLOPs forward", "FLOPs per step"):
        table.add_column(head, justify="right")
    for slot in [*found.parts, "total"]:
        if slot == "total":
            table.add_section()
        numbers = (f"{found.parameters[slot]:,}", f"{found.trainable[slot]:,}")
        costs = (short_number(found.flops[slot]), short_number(found.training_flops[slot]))
        table.add_row(slot, found.parts.get(slot, ""), *numbers, *costs)
    return table


def _activations(found: Plan, settings: Settings) -> Table:
    table = Table("activations")
    for setting in found.activations:
        table.add_column(setting, justify="right")
    for slot in [*found.parts, "total"]:
        if slot == "total":
            table.add_section()
        row = [_size(kept[slot]) for kept in found.activations.values()]
        table.add_row(slot + (f" ({settings[slot]})" if slot in settings else ""), *row)
    return table


def _memory(found: Plan, settings: Settings) -> Table:
    memory = found.memory
    table = Table("memory per device")
    table.add_column("", justify="right")
    table.add_row("weights", _size(memory.weights))
    if memory.reference:
        table.add_row("weights of the reference", _size(memory.reference))
    table.add_row("gradients", _size(memory.gradients))
    table.add_row("optimizer", _size(memory.optimizer))
    table.add_row("gathered at a time, at most", _size(memory.gathered))
    if not found.problem:
        table.add_row(f"activations ({shown(settings)})", _size(memory.activations))
        table.add_row("temporary, at most", _size(memory.temporary))
    table.add_section()
    table.add_row("total without activations" if found.problem else "total", _size(memory.total))
    return table


def _verdict(found: Verdict, run: Run, settings: Settings) -> Text:
    where = f"{found.capacity / 2**30:g} GB on {_devices(run.devices)}"
    text = Text(f"{'fits' if found.fits else 'does not fit'} {where}", style="green" if found.fits else "red")
    if found.cheapest is not None and found.cheapest != settings:
        text.append(f"; activation checkpointing that fits with the least recomputation: {shown(found.cheapest)}")
    elif found.cheapest is None and found.devices is not None:
        text.append(f" with any activation checkpointing; {_devices(found.devices)} do with full")
    elif found.cheapest is None:
        text.append(f" with any activation checkpointing{', nor on more devices' if run.sharded else ': use fsdp2'}")
    text.append(f" ({RESERVE:.0%} is left free)", style="dim")
    return text


def _devices(number: int) -> str:
    return f"{number:,} device{'s' if number > 1 else ''}"


def shown(settings: Settings) -> str:
    """Returns settings in words: one if all slots have the same."""
    chosen = list(dict.fromkeys(settings.values()))
    if len(chosen) < 2:
        return chosen[0] if chosen else "none"
    return ", ".join(f"{slot} {setting}" for slot, setting in settings.items())


def _size(number: int) -> str:
    unit, suffix = pick_unit_and_suffix(number, ["B", "KiB", "MiB", "GiB", "TiB"], 1024)
    return f"{number / unit:,.1f} {suffix}" if number else "0"


def short_number(value: int) -> str:
    """Returns a number with at most one decimal and a suffix, such as 1.5 T."""
    unit, suffix = pick_unit_and_suffix(value, ["", "K", "M", "G", "T", "P", "E"], 1000)
    return f"{value / unit:,.1f} {suffix}" if suffix else str(value)
