from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.convert.budget import Budget
from mmcomponents.data.convert.inputs.chunks import Chunk
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.reading import Reading
from mmcomponents.data.convert.resume_state import Note, State
from mmcomponents.data.convert.shard_job import Job, convert_chunk
from mmcomponents.data.media.tiling import Tiling


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 30), colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 100, 200)).save(file, kind)
    return file.getvalue()


def film(frames: int = 12) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream: Any = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            shade = np.full((48, 64, 3), 20 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def write_lines(path: Path, samples: Sequence[Any]) -> Path:
    """Writes a file of JSON lines; texts are written unchanged."""
    lines = [sample if isinstance(sample, str) else json.dumps(sample) for sample in samples]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with a few media."""
    root = tmp_path / "media"
    (root / "deep").mkdir(parents=True)
    (root / "one.png").write_bytes(picture())
    (root / "two.jpg").write_bytes(picture("JPEG", (900, 450), 50))
    (root / "deep" / "lies.png").write_bytes(picture("WEBP", (10, 20)))
    (root / "film.mp4").write_bytes(film())
    (root / "broken.png").write_bytes(picture()[:30])
    (root / "broken.mp4").write_bytes(film()[:600])
    (root / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(picture())
    (root / "way_out.png").symlink_to(tmp_path / "secret.png")
    return root


Packed = tuple[Note, Path]


@pytest.fixture
def pack_lines(tmp_path: Path, media: Path, tokenizer: Any) -> Callable[..., Packed]:
    """Converts samples to one shard, as a call does; returns the note and the shard."""

    def pack(samples: Sequence[Any], **options: Any) -> Packed:
        path = write_lines(tmp_path / "lines.jsonl", samples)
        source = Source("set one", (path,), "lines", media)
        state = State(tmp_path / "out", {})
        state.folder.mkdir(parents=True, exist_ok=True)
        tiling = Tiling(max_tiles=2, tile_size=448)
        budget = Budget(options.pop("max_tokens", 2000), 4, tiling, options.pop("max_frames", 4))
        reading = Reading(**{field.name: options.pop(field.name) for field in fields(Reading) if field.name in options})
        settings = {"split": None, "allow_outside_root": False, **options}
        job = Job(state, (source,), budget, reading, tokenizer="", **settings)
        chunk = Chunk(0, 0, 0, path.stat().st_size, 1, len(samples))
        return convert_chunk(job, chunk, tokenizer), state.out / source.shard(0)

    return pack
