"""Report of a conversion: skipped samples, totals by source, and the lines for a recipe."""

from __future__ import annotations

import fnmatch
import json
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mmcomponents.data.chat.kinds.named_kinds import entries_of
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.resume_state import Note, Totals
from mmcomponents.data.convert.wording import beginning, counted
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.data.storage.atomic_write import atomic_path, write_text


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
    out: Path,
    sources: Sequence[Source],
    notes: Iterable[tuple[Source, Note]],
    settings: Mapping[str, Any],
    tokenizer: str,
    categories: Sequence[Mapping[str, Any]] = (),
) -> ConversionReport:
    """Writes `refused.jsonl`, `pack.json` and `recipe.yaml`.

    Args:
        out: The folder.
        sources: The converted sources.
        notes: Notes of all chunks, in order. They are not held in memory, since skipped samples may be many.
        settings: Settings of the call.
        tokenizer: Folder of the tokenizer.
        categories: `id` and perhaps `name` of the category of each label, if there are files of COCO.
    """
    report = ConversionReport(out, {source.label: SourceReport() for source in sources})
    boxes = ""
    unknown, spelled = Counter[str](), Counter[str]()
    with atomic_path(out / "refused.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for source, note in notes:
            mine = report.sources[source.label]
            mine.totals.add(note.totals)
            boxes = boxes or note.bad_box
            unknown.update(note.unknown)
            spelled.update(note.spelled)
            for skipped in note.refused:
                file.write(json.dumps(skipped, ensure_ascii=True) + "\n")
                mine.codes[skipped["code"]] = mine.codes.get(skipped["code"], 0) + 1
                report.examples.setdefault(skipped["code"], skipped)
    for source in sources:
        shares = [report.sources[other.label].totals for other in sources if other.name == source.name]
        lines = sum(share.lines for share in shares)
        if not source.is_val and source.length is not None and source.length != lines:
            report.notes.append(
                f"{source.name}: {counted(source.length, 'line')} according to the meta file, {lines} in the file"
            )
        if source.is_val and not report.sources[source.label].totals.samples:
            report.notes.append(f"{source.name}: no sample was drawn for validation")
    if boxes:
        report.notes.append(f"invalid boxes in {counted(report.totals.bad_boxes, 'sample')}, first {boxes}")
    if turned := report.totals.turned_boxes:
        report.notes.append(
            f"boxes of {counted(turned, 'sample')} were given for the image before its EXIF orientation, and turned"
        )
    if unknown:
        report.notes.append(f"unknown keys were kept in the records, by number of samples: {_most(unknown)}")
    if spelled:
        report.notes.append(
            f"special tokens in texts are encoded as plain text, by number of samples: {_most(spelled)}; "
            "--allowed_tokens makes them single tokens"
        )
    totals = {
        name: {**asdict(mine.totals), "refused": dict(sorted(mine.codes.items()))}
        for name, mine in report.sources.items()
    }
    content = {"settings": settings, "sources": totals, **({"categories": list(categories)} if categories else {})}
    write_text(out / "pack.json", json.dumps(content, indent=2) + "\n")
    used = [source for source in sources if report.sources[source.label].totals.samples]
    recipe = _recipe(out, used, _run_settings(report.totals, settings, tokenizer))
    write_text(out / "recipe.yaml", recipe + _class_names(categories))
    return report


def _most(counts: Counter[str], listed: int = 8) -> str:
    found = ", ".join(f"{beginning(name, 40)} ({count})" for name, count in counts.most_common(listed))
    return found if len(counts) <= listed else f"{found}, and {len(counts) - listed} more"


def _shards(folder: Path, source: Source) -> list[str]:
    """Returns a pattern of a source's shards; if the folder's name has wildcards, the list of the shards."""
    pattern = f"{source.stem}-??????.tar"
    found = fnmatch.filter(sorted(os.listdir(folder)), pattern) if set("*?[{") & set(str(folder)) else [pattern]
    return [str(folder / name) for name in found]


def _run_settings(totals: Totals, settings: Mapping[str, Any], tokenizer: str) -> dict[str, Any]:
    """Returns the settings that the runs must share with the conversion, as in the data section of a recipe."""
    shared: dict[str, Any] = {"tokenizer": str(Path(tokenizer).resolve()) if Path(tokenizer).is_dir() else tokenizer}
    if (totals.tiles or totals.videos) and settings["tile_size"] is not None:
        shared["tokens_per_tile"] = settings["tokens_per_tile"]
        shared["images"] = {"tile_size": settings["tile_size"]}
    if totals.videos and settings["frame_template"] != FRAME_TEMPLATE:
        shared["videos"] = {"frame_template": settings["frame_template"]}
    if settings.get("allowed_tokens"):
        shared["text"] = {"allowed_tokens": list(settings["allowed_tokens"])}
    if settings.get("kinds") is not None:
        shared["kinds"] = entries_of(settings["kinds"])
    return shared


def _class_names(categories: Sequence[Mapping[str, Any]]) -> str:
    """Returns a comment with the flag that names the classes of a detector; "" if not all have names."""
    names = [str(category.get("name", "")) for category in categories]
    if not names or not all(names):
        return ""
    text = json.dumps(names, ensure_ascii=not all(name.isprintable() for name in names))
    return (
        f"# The sampler TopBoxes shows the names of the classes ({len(names)}) with\n"
        f"# --model.sampler.init_args.names {shlex.quote(text)}\n"
    )


def _recipe(out: Path, sources: Sequence[Source], shared: Mapping[str, Any]) -> str:
    options: dict[str, dict[str, Any]] = {}
    defaults = asdict(SourceOptions())
    for source in sources:
        # default values are omitted, so that the recipe that extends this one can set them
        own = source.options.items()
        options[source.name] = {key: value for key, value in own if value not in (None, defaults[key])}
    data = dict(shared)
    for part in ("train", "val", "test"):
        if mine := [path for source in sources if source.part == part for path in _shards(out.resolve(), source)]:
            data[part] = mine
    if any(options.values()):
        data["sources"] = {name: changed for name, changed in options.items() if changed}
    text = yaml.safe_dump({"data": data}, sort_keys=False, allow_unicode=True, width=1000)
    about = "the settings that runs must share with the conversion, the shards, and options of sources from a meta file"
    return f"# For a recipe: {about}.\n{text}"
