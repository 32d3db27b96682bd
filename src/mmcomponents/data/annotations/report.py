"""What packing came to: refusals in one file, totals by source, and the lines that a recipe needs."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmcomponents.data.annotations.sources import Source
from mmcomponents.data.annotations.state import Note, Totals, write_whole
from mmcomponents.data.annotations.wording import counted
from mmcomponents.data.sources import SourceOptions


@dataclass
class SourceReport:
    """What one source came to.

    Attributes:
        totals: Its counts.
        codes: Refusals by code, see `mmcomponents.data.annotations.refused.CODES`.
    """

    totals: Totals = field(default_factory=Totals)
    codes: dict[str, int] = field(default_factory=dict)


@dataclass
class PackReport:
    """What a call of `pack_annotations` came to.

    Attributes:
        out: The folder.
        sources: By name.
        examples: The first refusal of each code, as it stands in `refused.jsonl`.
        found: Shards that an earlier call had finished.
        notes: What the user should look at, a sentence each.
    """

    out: Path
    sources: dict[str, SourceReport] = field(default_factory=dict)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    found: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def totals(self) -> Totals:
        """The counts over all sources."""
        total = Totals()
        for report in self.sources.values():
            total.add(report.totals)
        return total

    @property
    def codes(self) -> dict[str, int]:
        """Refusals by code over all sources, the most frequent first."""
        counts: dict[str, int] = {}
        for report in self.sources.values():
            for code, count in report.codes.items():
                counts[code] = counts.get(code, 0) + count
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def write_report(
    out: Path, sources: Sequence[Source], notes: Iterable[tuple[Source, Note]], settings: Mapping[str, Any]
) -> PackReport:
    """Writes `refused.jsonl`, `pack.json` and `recipe.yaml`.

    Args:
        out: The folder.
        sources: What was packed.
        notes: Of all chunks, in order; taken one after the other, since the refusals may be many.
        settings: Of the call.
    """
    report = PackReport(out, {source.name: SourceReport() for source in sources})
    boxes = ""
    temporary = out / f".refused.jsonl.{os.getpid()}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        for source, note in notes:
            mine = report.sources[source.name]
            mine.totals.add(note.totals)
            boxes = boxes or note.bad_box
            for refusal in note.refused:
                file.write(json.dumps(refusal, ensure_ascii=True) + "\n")
                mine.codes[refusal["code"]] = mine.codes.get(refusal["code"], 0) + 1
                report.examples.setdefault(refusal["code"], refusal)
    os.replace(temporary, out / "refused.jsonl")
    for source in sources:
        lines = report.sources[source.name].totals.lines
        if source.length is not None and source.length != lines:
            told = counted(source.length, "line")
            report.notes.append(
                f"{source.name}: the meta file tells of {told}, there {'is' if lines == 1 else 'are'} {lines}"
            )
    if boxes:
        report.notes.append(f"boxes that cannot be read: {counted(report.totals.bad_boxes, 'sample')}, first {boxes}")
    totals = {
        name: {**asdict(mine.totals), "refused": dict(sorted(mine.codes.items()))}
        for name, mine in report.sources.items()
    }
    write_whole(out / "pack.json", json.dumps({"settings": settings, "sources": totals}, indent=2) + "\n")
    write_whole(out / "recipe.yaml", _recipe(out, [s for s in sources if report.sources[s.name].totals.samples]))
    return report


def _shards(folder: Path, source: Source) -> list[str]:
    """The shards of a source, by a pattern; one by one in a folder whose name would be taken for one."""
    pattern = f"{source.stem}-??????.tar"
    found = fnmatch.filter(sorted(os.listdir(folder)), pattern) if set("*?[{") & set(str(folder)) else [pattern]
    return [str(folder / name) for name in found]


def _recipe(out: Path, sources: Sequence[Source]) -> str:
    options: dict[str, dict[str, Any]] = {}
    usual = asdict(SourceOptions())
    for source in sources:
        told = {"repeat": source.repeat, "max_tiles": source.max_tiles, "jpeg": source.jpeg}
        # what is as usual anyway is left for the recipe that extends this one
        options[source.name] = {key: value for key, value in told.items() if value not in (None, usual[key])}
    shards = [path for source in sources for path in _shards(out.resolve(), source)]
    data: dict[str, Any] = {"train": shards}
    if any(options.values()):
        data["sources"] = {name: told for name, told in options.items() if told}
    text = yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=1000)
    return f"# For a recipe: what to train on, and what the meta file said of each source.\n{text}"
