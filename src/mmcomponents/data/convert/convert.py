"""Conversion of annotations to shards, the function behind `mmcomponents data convert`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from itertools import accumulate, chain, count, islice
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.kinds import BoxedImage
from mmcomponents.data.chat.kinds.named_kinds import named_kinds
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE, frame_prompt
from mmcomponents.data.chat.special_tokens import check_template
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer
from mmcomponents.data.convert.budget import Budget
from mmcomponents.data.convert.conversion_report import ConversionReport, write_report
from mmcomponents.data.convert.document_split import LEAST
from mmcomponents.data.convert.inputs.chunks import Chunk, source_chunks
from mmcomponents.data.convert.inputs.input_files import find_sources, unread_files
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.other_programs.coco import as_lines, beside_images
from mmcomponents.data.convert.reading import Form, Reading, Reasoning, TurnedBoxes
from mmcomponents.data.convert.resume_state import Note, State, file_facts
from mmcomponents.data.convert.shard_job import Job
from mmcomponents.data.convert.workers import convert_here, convert_in_processes
from mmcomponents.data.errors import DataError
from mmcomponents.data.media.tiling import Tiling


def convert_annotations(
    inputs: list[str],
    out: str,
    tokenizer: str,
    root: str | None = None,
    format: Form = "auto",
    max_tokens: int = 16_384,
    split_documents: int | None = None,
    tokens_per_tile: int = 256,
    max_tiles: int = 12,
    tile_size: int = 448,
    max_frames: int = 32,
    frame_template: str = FRAME_TEMPLATE,
    val: float = 0.0,
    samples_per_shard: int = 1000,
    num_workers: int | None = None,
    kinds: list[str] | None = None,
    allowed_tokens: list[str] | None = None,
    reasoning: Reasoning = "refuse",
    turned_boxes: TurnedBoxes = "turn",
    keep_unknown_keys: bool = False,
    allow_outside_root: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Converts annotations and their media to shards with indices.

    Writes `NAME-000000.tar` and so on for each source, `refused.jsonl` with every skipped sample and the reason,
    `pack.json` with the totals, and `recipe.yaml` with the lines for a recipe. Texts and media files are stored
    unchanged. The same input gives the same bytes, regardless of the number of processes. An interrupted call continues
    when it is repeated. With several processes a script needs the guard `if __name__ == "__main__"`.

    Args:
        inputs: Annotation files (.jsonl, a list in .json, .parquet), meta files (.json), text files (.txt), folders
            that the library `datasets` has saved, and folders or patterns of these. With the kind `BoxedImage`, files
            of COCO (.json).
        out: Folder for the shards, created if missing.
        tokenizer: Folder of the tokenizer that the runs will use.
        root: Folder to which paths of images and videos are relative; default: the folder of the annotation file. The
            root in a meta file takes precedence.
        format: Form of the annotations: conversations (InternVL), preference (MMPR), messages (OpenAI, XTuner) or text;
            auto recognises the form of each line.
        max_tokens: Largest number of tokens of a sample, with its images and videos; longer samples are skipped.
        split_documents: Split plain documents with more tokens than this at the ends of paragraphs or sentences;
            default: no splitting.
        tokens_per_tile: Visual tokens per tile in the model. With `BoxedImage` as the only kind it has no use, nor have
            the two that follow: each image is one tile of any size.
        max_tiles: Largest number of tiles of a sample's images, without thumbnails, if the meta file sets none.
        tile_size: Side of a tile in pixels.
        max_frames: Largest number of frames that a run will use of a video; each video counts as this many.
        frame_template: Text of one frame of a video; runs must use the same.
        val: Share of the samples for validation, such as 0.1, drawn by the keys of the samples, from each source for
            training. A source whose file is named val or test is not split.
        samples_per_shard: Number of input lines per shard; of those of its share, if the source is split.
        num_workers: Number of processes; default: the number of cores.
        kinds: Names or dotted paths of all record kinds of the runs; default: chat, document and pair. An annotation
            that a kind of another package matches is kept as its record, with the files under "image", "video" and
            "members" ({SUFFIX: PATH}).
        allowed_tokens: Special tokens of the tokenizer that texts may contain as single tokens, such as `<loc>`; runs
            must set the same as `data.text.allowed_tokens`. Other special tokens are encoded as plain text, and
            counted.
        reasoning: Treatment of the reasoning that an annotation has beside an answer ("reasoning_content"): refuse
            skips the sample, think writes it into the answer as <think>…</think>.
        turned_boxes: Treatment of boxes whose declared image size is that of the file before its EXIF orientation: turn
            them with the image, or refuse the sample.
        keep_unknown_keys: Keep keys in the record that are neither used nor known to be harmless, and count them;
            without it, samples with such keys are skipped.
        allow_outside_root: Allow paths of media outside the root.
        overwrite: Replace the results of an earlier call with other settings or inputs in the folder.
        progress: Called with (bytes of input done, bytes in total).

    Returns:
        The report.

    Raises:
        DataError: Inputs, root or tokenizer are missing or wrong, the folder belongs to another call, or a process
            died.
        ValueError: A setting is out of range.
        TemplateError: The tokenizer lacks tokens of the chat template.
    """
    least = {
        "max_tokens": (max_tokens, 1),
        "split_documents": (LEAST if split_documents is None else split_documents, LEAST),
        "tokens_per_tile": (tokens_per_tile, 1),
        "max_tiles": (max_tiles, 1),
        "tile_size": (tile_size, 1),
        "max_frames": (max_frames, 1),
        "samples_per_shard": (samples_per_shard, 1),
        "num_workers": (1 if num_workers is None else num_workers, 1),
    }
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ValueError(f"{name} must be at least {smallest}, not {value}")
    if split_documents is not None and split_documents > max_tokens:
        raise ValueError(f"pieces of {split_documents} tokens are longer than max_tokens, {max_tokens}")
    frame_prompt(1, frame_template)
    if not 0 <= val < 1:
        raise ValueError(f"val must be a share from 0 to less than 1, not {val}")
    known = named_kinds(kinds)  # a wrong name is an error before anything is written
    coco = as_lines(inputs, Path(out), known)
    sources = find_sources([str(coco.lines.get(given, given)) for given in inputs], root, val)
    if root is None:
        sources = beside_images(sources, coco.lines)
    loaded = load_tokenizer(tokenizer, allowed_tokens)
    check_template(loaded, images=False)  # the tokens for images are checked when a sample has one
    tiling = Tiling(max_tiles=max_tiles, tile_size=tile_size)
    whole_images = all(isinstance(kind, BoxedImage) for kind in known.kinds)
    budget = Budget(max_tokens, tokens_per_tile, tiling, max_frames, frame_template, whole_images)
    reading = Reading(format, keep_unknown_keys, reasoning, turned_boxes)
    settings: dict[str, Any] = {
        "tokenizer": fingerprint(loaded),
        **asdict(reading),
        "split_documents": split_documents,
        "samples_per_shard": samples_per_shard,
        "allow_outside_root": allow_outside_root,
        "max_tokens": max_tokens,
        "tokens_per_tile": None if whole_images else tokens_per_tile,
        "max_tiles": 1 if whole_images else max_tiles,
        "tile_size": None if whole_images else tile_size,
        "max_frames": max_frames,
        "frame_template": frame_template,
        "sources": {source.label: _source_settings(source) for source in sources},
    }
    if val:
        settings["val"] = val
    if allowed_tokens:
        settings["allowed_tokens"] = allowed_tokens
    if kinds is not None:
        settings["kinds"] = kinds
    state = State(Path(out), settings)
    names = None if kinds is None else tuple(kinds)
    allowed = tuple(allowed_tokens or ())
    job = Job(state, tuple(sources), budget, reading, split_documents, allow_outside_root, tokenizer, names, allowed)
    with state.opened(overwrite):
        found = _convert(job, samples_per_shard, num_workers or _cores(), progress)
        for source in sources:
            if _source_settings(source) != settings["sources"][source.label]:
                raise DataError(f"the input {source.label} changed during the conversion: convert it again")
        report = write_report(state.out, sources, _notes(job), settings, tokenizer, coco.categories)
    report.found = found
    if unread := unread_files(inputs):
        report.notes.append(f"not read, since they have no annotations: {', '.join(map(str, unread[:8]))}")
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source_settings(source: Source) -> dict[str, Any]:
    return {"root": str(source.root), **source.options, **file_facts(source)}


def _convert(job: Job, lines: int, workers: int, progress: Callable[[int, int], None] | None) -> int:
    """Converts the chunks that are not done yet; returns the number of those that were."""
    bar, found = _Progress(job.sources, progress), 0

    def to_do() -> Iterator[Chunk]:
        nonlocal found
        for number, source in enumerate(job.sources):
            for chunk, is_done in source_chunks(
                number, source, source.per_chunk(lines), partial(_known, job.state, source)
            ):
                if is_done:
                    found += 1
                    bar.done(chunk)
                else:
                    yield chunk

    chunks = to_do()
    first = list(islice(chunks, 2))  # a single shard does not need another process
    todo = chain(first, chunks)
    if workers == 1 or len(first) < 2:
        notes = convert_here(job, todo, bar.at)
    else:
        notes = convert_in_processes(job, todo, workers, bar.at)
    with closing(notes):  # stops the processes, also after Ctrl-C
        for note in notes:
            bar.done(note.chunk)
    return found


def _known(state: State, source: Source, number: int) -> Chunk | None:
    note = state.note(source, number)
    return None if note is None else note.chunk


def _notes(job: Job) -> Iterator[tuple[Source, Note]]:
    for source in job.sources:
        for number in count():
            note = job.state.note(source, number)
            if note is None:
                break
            yield source, note


class _Progress:
    """Sums the bytes of input that are done."""

    def __init__(self, sources: Sequence[Source], progress: Callable[[int, int], None] | None) -> None:
        self.progress = progress
        # bytes before each file, since a chunk of text files counts files
        self.before = {
            number: [0, *accumulate(path.stat().st_size for path in source.files)]
            for number, source in enumerate(sources)
        }
        self.sources = sources
        self.total = sum(before[-1] for before in self.before.values())
        self.finished = 0
        self.parts: dict[Chunk, int] = {}

    def done(self, chunk: Chunk) -> None:
        self.parts.pop(chunk, None)
        before = self.before[chunk.source]
        source = self.sources[chunk.source]
        if source.kind == "texts":
            size = before[chunk.end] - before[chunk.begin]
        elif source.kind == "table":
            size = before[-1] * (chunk.end - chunk.begin) // sum(source.rows)
        else:
            size = chunk.end - chunk.begin
        self.finished += size
        self._report()

    def at(self, chunk: Chunk, done: int) -> None:
        self.parts[chunk] = done
        self._report()

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(min(self.finished + sum(self.parts.values()), self.total), self.total)
