"""Report of a conversion: skipped samples, totals by source, and the lines for a recipe."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmcomponents.data.convert.input_files import Source
from mmcomponents.data.convert.resume_state import Note, Totals
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.data.storage.atomic_write import atomic_path, write_text

_PARTS = {"val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}
"""Word in the name of an annotation file -> part of the data, as in the library `datasets`. Others are for training."""


@dataclass
class SourceReport:
    """Result for one source.

    Attributes:
        totals: Its counts.
        codes: Number of skipped samples by code, see `mmcomponents.data.convert.refused.CODES`.
    """

    totals: Totals = field(default_factory=Totals)
    codes: dict[str, int] = field(default_factory=dict)


@dataclass
class ConversionReport:
    """Result of `convert_annotations`.

    Attributes:
        out: The folder.
        sources: Results of the sources, by name.
        examples: The first skipped sample of each code, as in `refused.jsonl`.
        found: Number of shards that an earlier call had finished.
        notes: Remarks for the user, one line each.
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
        """Number of skipped samples by code over all sources, the most frequent first."""
        counts: dict[str, int] = {}
        for report in self.sources.values():
            for code, count in report.codes.items():
                counts[code] = counts.get(code, 0) + count
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def write_report(
    out: Path, sources: Sequence[Source], notes: Iterable[tuple[Source, Note]], settings: Mapping[str, Any]
) -> ConversionReport:
    """Writes `refused.jsonl`, `pack.json` and `recipe.yaml`.

    Args:
        out: The folder.
        sources: The converted sources.
        notes: Notes of all chunks, in order. They are not held in memory, since skipped samples may be many.
        settings: Settings of the call.
    """
    report = ConversionReport(out, {source.name: SourceReport() for source in sources})
    boxes = ""
    unknown: Counter[str] = Counter()
    with atomic_path(out / "refused.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for source, note in notes:
            mine = report.sources[source.name]
            mine.totals.add(note.totals)
            boxes = boxes or note.bad_box
            unknown.update(note.unknown)
            for skipped in note.refused:
                file.write(json.dumps(skipped, ensure_ascii=True) + "\n")
                mine.codes[skipped["code"]] = mine.codes.get(skipped["code"], 0) + 1
                report.examples.setdefault(skipped["code"], skipped)
    for source in sources:
        lines = report.sources[source.name].totals.lines
        if source.length is not None and source.length != lines:
            report.notes.append(
                f"{source.name}: {counted(source.length, 'line')} according to the meta file, {lines} in the file"
            )
    if boxes:
        report.notes.append(f"invalid boxes in {counted(report.totals.bad_boxes, 'sample')}, first {boxes}")
    if turned := report.totals.turned_boxes:
        report.notes.append(
            f"boxes of {counted(turned, 'sample')} were given for the image before its EXIF orientation, and turned"
        )
    if unknown:
        most = ", ".join(f"{beginning(key, 40)} ({count})" for key, count in unknown.most_common(8))
        more = f", and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        report.notes.append(f"unknown keys were kept in the records, by number of samples: {most}{more}")
    totals = {
        name: {**asdict(mine.totals), "refused": dict(sorted(mine.codes.items()))}
        for name, mine in report.sources.items()
    }
    write_text(out / "pack.json", json.dumps({"settings": settings, "sources": totals}, indent=2) + "\n")
    used = [source for source in sources if report.sources[source.name].totals.samples]
    write_text(out / "recipe.yaml", _recipe(out, used, settings.get("kinds")))
    return report


def _shards(folder: Path, source: Source) -> list[str]:
    """Returns a pattern of a source's shards; if the folder's name has wildcards, the list of the shards."""
    pattern = f"{source.stem}-??????.tar"
    found = fnmatch.filter(sorted(os.listdir(folder)), pattern) if set("*?[{") & set(str(folder)) else [pattern]
    return [str(folder / name) for name in found]


def _part(source: Source) -> str:
    """Returns the part of the data that the name of an annotation file tells; a meta file lists data for training."""
    words = re.split(r"[-_.]", source.name.lower()) if source.name == source.files[0].stem else []
    found = {_PARTS[word] for word in words if word in _PARTS}
    return found.pop() if len(found) == 1 and "train" not in words else "train"


def _recipe(out: Path, sources: Sequence[Source], kinds: Sequence[str] | None) -> str:
    options: dict[str, dict[str, Any]] = {}
    defaults = asdict(SourceOptions())
    for source in sources:
        # default values are omitted, so that the recipe that extends this one can set them
        own = source.options.items()
        options[source.name] = {key: value for key, value in own if value not in (None, defaults[key])}
    data: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        if mine := [path for source in sources if _part(source) == part for path in _shards(out.resolve(), source)]:
            data[part] = mine
    if kinds is not None:
        data["kinds"] = list(kinds)
    if any(options.values()):
        data["sources"] = {name: changed for name, changed in options.items() if changed}
    text = yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=1000)
    return f"# For a recipe: the shards, and the options of each source from the meta file.\n{text}"
