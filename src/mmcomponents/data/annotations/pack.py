"""Annotations in, shards out: the call behind `mmcomponents data pack`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import accumulate, chain, count, islice
from pathlib import Path
from typing import Any

from mmcomponents.data.annotations.budget import Budget
from mmcomponents.data.annotations.chunks import Chunk, source_chunks
from mmcomponents.data.annotations.forms import Form
from mmcomponents.data.annotations.report import PackReport, write_report
from mmcomponents.data.annotations.shard import Job
from mmcomponents.data.annotations.sources import Source, find_sources
from mmcomponents.data.annotations.split import LEAST
from mmcomponents.data.annotations.state import Note, State, file_facts
from mmcomponents.data.annotations.workers import pack_here, pack_in_processes
from mmcomponents.data.control_text import check_template
from mmcomponents.data.errors import DataError
from mmcomponents.data.placeholders import FRAME_TEMPLATE, frame_prompt
from mmcomponents.data.tiling import Tiling
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer


def pack_annotations(
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
    samples_per_shard: int = 1000,
    num_workers: int | None = None,
    allow_outside_root: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Makes shards with their indices of annotations and their media.

    Writes `NAME-000000.tar` and so on for each source, `refused.jsonl` with every sample that cannot be used and why,
    `pack.json` with the totals, and `recipe.yaml` with the lines for a recipe. Texts and files of media are kept as
    they are. The same input gives the same bytes, however many processes work. A call that was stopped goes on when it
    is repeated. With several processes a script needs the guard `if __name__ == "__main__"`.

    Args:
        inputs: Annotation files (.jsonl), meta files (.json), text files (.txt), folders or patterns of these.
        out: Folder for the shards; made if it is missing.
        tokenizer: Folder of the tokenizer that the runs will use.
        root: Folder that paths of images and videos start at; by default that of the annotation file. What a
            meta file names comes first.
        format: Form of the annotations: conversations (InternVL), preference (MMPR), messages (OpenAI, XTuner) or text;
            auto looks at each line.
        max_tokens: Longest sample in tokens, its images and videos included; longer ones are refused.
        split_documents: Cut plain documents that are longer than this many tokens into pieces, where paragraphs or
            sentences end; by default they stay whole.
        tokens_per_tile: Tokens that a tile becomes in the model.
        max_tiles: Most tiles of a sample's images, thumbnails not counted, where a meta file says nothing.
        tile_size: Side of a tile in pixels.
        max_frames: Most frames that a run will take of a video; so many are counted for each.
        frame_template: Text of one frame of a video; runs must have the same.
        samples_per_shard: Lines of the input for each shard.
        num_workers: Processes; by default as many as there are cores.
        allow_outside_root: Allow paths of media that leave the root.
        overwrite: Replace what an earlier call with other settings or inputs has packed into the folder.
        progress: Called with (bytes of input done, bytes in all).

    Returns:
        What it came to.

    Raises:
        DataError: Inputs, root or tokenizer are missing or wrong, the folder belongs to another call, or a process
            died.
        ValueError: A setting makes no sense.
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
    sources = find_sources(inputs, root)
    loaded = load_tokenizer(tokenizer)
    check_template(loaded, images=False)  # with images it is checked when one comes
    budget = Budget(
        max_tokens, tokens_per_tile, Tiling(max_tiles=max_tiles, tile_size=tile_size), max_frames, frame_template
    )
    settings: dict[str, Any] = {
        "tokenizer": fingerprint(loaded),
        "format": format,
        "split_documents": split_documents,
        "samples_per_shard": samples_per_shard,
        "allow_outside_root": allow_outside_root,
        "max_tokens": max_tokens,
        "tokens_per_tile": tokens_per_tile,
        "max_tiles": max_tiles,
        "tile_size": tile_size,
        "max_frames": max_frames,
        "frame_template": frame_template,
        "sources": {source.name: _source_settings(source) for source in sources},
    }
    state = State(Path(out), settings)
    job = Job(state, tuple(sources), budget, format, split_documents, allow_outside_root, tokenizer)
    with state.opened(overwrite):
        found = _pack(job, samples_per_shard, num_workers or _cores(), progress)
        for source in sources:
            if _source_settings(source) != settings["sources"][source.name]:
                raise DataError(f"the input {source.name} has changed while it was packed: pack it again")
        report = write_report(state.out, sources, _notes(job), settings)
    report.found = found
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source_settings(source: Source) -> dict[str, Any]:
    told = {"repeat": source.repeat, "max_tiles": source.max_tiles, "jpeg": source.jpeg}
    return {"root": str(source.root), **told, **file_facts(source)}


def _pack(job: Job, lines: int, workers: int, progress: Callable[[int, int], None] | None) -> int:
    """Packs what is not packed yet, and returns how many shards were."""
    bar, found = _Progress(job.sources, progress), 0

    def to_do() -> Iterator[Chunk]:
        nonlocal found
        for number, source in enumerate(job.sources):
            for chunk, is_done in source_chunks(number, source, lines, partial(_known, job.state, source)):
                if is_done:
                    found += 1
                    bar.done(chunk)
                else:
                    yield chunk

    chunks = to_do()
    first = list(islice(chunks, 2))  # for a single shard no process is worth its start
    todo = chain(first, chunks)
    if workers == 1 or len(first) < 2:
        notes = pack_here(job, todo, bar.at)
    else:
        notes = pack_in_processes(job, todo, workers, bar.at)
    with closing(notes):  # ends the processes, also after Ctrl-C
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
    """Adds up the bytes of input that are done."""

    def __init__(self, sources: Sequence[Source], progress: Callable[[int, int], None] | None) -> None:
        self.progress = progress
        # of text files a chunk tells the numbers: bytes before each file
        self.before = {
            number: [0, *accumulate(path.stat().st_size for path in source.files)]
            for number, source in enumerate(sources)
        }
        self.documents = [source.documents for source in sources]
        self.total = sum(before[-1] for before in self.before.values())
        self.finished = 0
        self.parts: dict[Chunk, int] = {}

    def done(self, chunk: Chunk) -> None:
        self.parts.pop(chunk, None)
        before = self.before[chunk.source]
        whole = before[chunk.end] - before[chunk.begin] if self.documents[chunk.source] else chunk.end - chunk.begin
        self.finished += whole
        self._tell()

    def at(self, chunk: Chunk, done: int) -> None:
        self.parts[chunk] = done
        self._tell()

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(min(self.finished + sum(self.parts.values()), self.total), self.total)
