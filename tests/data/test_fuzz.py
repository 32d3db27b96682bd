"""Fuzz tests with damaged data: the result is a sample or one of our two errors, within limits of time and memory.

Each case has its own seed, and a failure reports its case.
"""

from __future__ import annotations

import io
import json
import logging
import random
import resource
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.kinds import Kinds, Sample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.records import clips, parse_object
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shard_index import load_index
from mmcomponents.data.format.shards import list_shard
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.media.frames import DrawnFrames, MiddleFrames
from mmcomponents.data.media.images import TiledImage, decode_image, image_size
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.media.video import read_video, video_length
from mmcomponents.data.packing.pack_plan import Budgets, Pack

from .conftest import png, record
from .mutations import altered, damaged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SCALE = 1
"""Factor for the number of cases in a longer search: 30 takes some minutes."""
SECONDS = 5
"""Time limit of a case in seconds; most take a few milliseconds."""
MEMORY = 1 << 30
"""Bytes by which all cases of a test may increase the peak size of the process."""


@contextmanager
def in_time(case: str) -> Iterator[None]:
    """Limits the time of a case, and reports the case of any error that is not ours."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    except (SampleError, DataError):
        raise
    except BaseException as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _bounded(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"memory grew by {grown >> 20} MiB"


class Outcomes:
    """Counts the results of cases: a fuzz test whose cases all fail, or all pass, tests nothing."""

    def __init__(self) -> None:
        self.good = self.bad = self.wordless = 0

    def of(self, case: str, run: Callable[[], Any]) -> Any:
        """Returns the result of a case; None if it raised one of our errors."""
        try:
            with in_time(case):
                result = run()
        except (SampleError, DataError) as error:
            self.bad += 1
            self.wordless += not str(error)
            return None
        self.good += 1
        return result

    def check(self, cases: int, good: float = 0.02, bad: float = 0.02) -> None:
        assert self.good + self.bad >= cases
        assert not self.wordless, "each error says what is wrong"
        assert self.good > good * cases, f"{self.good} of {cases} are read"
        assert self.bad > bad * cases, f"{self.bad} of {cases} are refused"


# --- data to damage


def records() -> list[tuple[dict[str, Any], list[tuple[str, bytes]]]]:
    asked = [{"role": "user", "content": "<image>\nHow many?"}]
    turns = [*asked, {"role": "assistant", "content": "3"}, {"role": "user", "content": "Sure?"}]
    return [
        (record(), [("png", png(60, 30))]),
        (record("no image", "yes"), []),
        ({"messages": [*turns, {"role": "assistant", "content": "Yes."}], "id": 3}, [("png", png())]),
        ({"text": "Look: <image> and <image>.", "source": "books"}, [("png", png()), ("jpg", png(90, 30))]),
        ({"messages": asked, "chosen": "3", "rejected": "7 1", "source": "p"}, [("png", png(30, 90))]),
        (record("<video>\nAnd <image>?", "It fades.", clips=[[0.0, 0.9]]), [("mp4", film("mp4")), ("png", png())]),
    ]


def film(container: str, frames: int = 12) -> bytes:
    file = io.BytesIO()
    codec = {"mp4": "libx264", "webm": "libvpx", "avi": "mpeg4", "matroska": "libx264", "mpegts": "mpeg2video"}[
        container
    ]
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(frames):
            picture = np.full((32, 32, 3), 20 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


def pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(1).integers(0, 256, (20, 36, 3), np.uint8)
    image, turned = Image.fromarray(noise), Image.Exif()
    turned[0x0112] = 6
    wanted: dict[str, dict[str, Any]] = {
        "png": {"exif": turned}, "jpeg": {"exif": turned}, "webp": {"exif": turned}, "gif": {}, "bmp": {}, "dib": {},
        "tiff": {"exif": turned}, "ppm": {}, "avif": {"exif": turned}, "jpeg2000": {},
    }  # fmt: skip
    found = {}
    for kind, options in wanted.items():
        image.save(file := io.BytesIO(), kind, **options)
        found[kind] = file.getvalue()
    for kind, mode, more in (
        ("png", "P", {}), ("png", "RGBA", {}), ("png", "I;16", {}), ("jpeg", "CMYK", {}),
        ("jpeg", "RGB", {"progressive": True}), ("tiff", "RGB", {"compression": "tiff_lzw"}),
        ("tiff", "1", {"compression": "group4"}), ("webp", "RGBA", {"lossless": True}),
        ("gif", "P", {"save_all": True, "append_images": [image.convert("P")]}), ("ppm", "1", {}),
    ):  # fmt: skip
        source = Image.new("I;16", (9, 7), 500) if mode == "I;16" else image.convert(mode)
        source.save(file := io.BytesIO(), kind, **more)
        found[f"{kind} {mode} {list(more)}"] = file.getvalue()
    return found


def renderer_of(tokenizer: PreTrainedTokenizerFast) -> SampleRenderer:
    return SampleRenderer(tokenizer, 4, Tiling(1, 4, 28))


# --- the tests


def test_records(tokenizer: PreTrainedTokenizerFast) -> None:
    """A damaged record that can be rendered has the length in the index."""
    outcomes, renderer = Outcomes(), renderer_of(tokenizer)
    stored = [(contents, files) for contents, files in records() if not any(suffix == "mp4" for suffix, _ in files)]
    contents, _ = records()[-1]
    tiled = {id(kept): renderer.decode([data for _, data in files]) for kept, files in stored}
    frame = renderer.tile_frames([Image.new("RGB", (8, 8))])
    for number in range(4000 * SCALE):
        draw = random.Random(f"record/{number}")
        if film_too := number % 6 == 5:
            kept, images = contents, renderer.decode([png()])
        else:
            kept = draw.choice(stored)[0]
            images = tiled[id(kept)]
        if draw.random() < 0.3:
            data = damaged(json.dumps(kept).encode(), draw)
        else:
            data = json.dumps(altered(kept, draw)).encode()

        def run(data: bytes = data, images: list[Any] = images, films: int = int(film_too)) -> None:
            parsed = parse_object(data)
            clips(parsed, films)
            kind = Kinds().of(parsed)
            no_tiles = [TiledImage.of_tiles(0) for _ in images], [[TiledImage.of_tiles(0)] for _ in range(films)]
            planned = kind.measure(Sample(parsed, *no_tiles), renderer)
            segments = kind.render(Sample(parsed, images, [frame] * films), renderer)
            rows = sum(renderer.visual_tokens(images)) + films * 4
            assert len(segments) == planned.segments == planned.uses
            assert sum(len(segment.input_ids) - rows for segment in segments) == planned.text_tokens

        outcomes.of(f"record {number}", run)
    outcomes.check(4000 * SCALE, good=0.1, bad=0.2)


def test_pictures() -> None:
    """Damaged image files of all formats have the size that the index took from their header, or none."""
    outcomes = Outcomes()
    for kind, data in pictures().items():
        for number in range(60 * SCALE):
            broken = damaged(data, random.Random(f"{kind}/{number}"))

            def run(broken: bytes = broken) -> None:
                size = image_size(broken)
                assert decode_image(broken).size == size

            outcomes.of(f"picture {kind} {number}", run)
    outcomes.check(1200 * SCALE, good=0.1, bad=0.2)


def test_films() -> None:
    """Damaged videos have the number of frames in the index, or none."""
    outcomes = Outcomes()
    for container in ("mp4", "webm", "avi", "matroska", "mpegts"):
        whole = film(container)
        for number in range(30 * SCALE):
            draw = random.Random(f"{container}/{number}")
            broken = damaged(whole, draw)
            sampling = draw.choice((MiddleFrames(4), DrawnFrames(2, 6).sampling(str(number))))

            def run(broken: bytes = broken, sampling: Any = sampling) -> None:
                total, fps = video_length(broken)
                planned = sampling.indices(total, fps)
                assert len(read_video(broken, sampling)) == len(planned)

            outcomes.of(f"film {container} {number}", run)
    outcomes.check(150 * SCALE, good=0.05, bad=0.05)


KEYS = "abcdef"


@pytest.fixture(scope="module")
def samples() -> list[tuple[dict[str, Any], list[tuple[str, bytes]]]]:
    return records()


def write(path: Path, samples: list[tuple[Any, list[tuple[str, bytes]]]]) -> Path:
    """Writes a shard; a record may be bytes."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for key, (contents, files) in zip(KEYS, samples, strict=False):
            text = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
            for name, data in [("json", text), *((f"{n}.{suffix}", data) for n, (suffix, data) in enumerate(files))]:
                entry = tarfile.TarInfo(f"{key}.{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def read(shard: Path, tokenizer: PreTrainedTokenizerFast, number: int) -> dict[str, tuple[Any, Any]]:
    """Returns the usable samples of an indexed shard: stored data, and the tokens of their packs."""
    index = Index.open([shard], tokenizer)
    settings = PackSettings(Budgets(100_000, 1000), seed=number, frames=DrawnFrames(2, 4))
    dataset, _ = open_packs(index, renderer_of(tokenizer), settings)
    every, found = np.arange(len(index)), {}
    tokens, tiles = dataset.sizes.of(index.take(every), every, np.zeros_like(every), 1)
    for sample in every.tolist():
        batch = dataset[Pack(0, 1, (sample,), (0,), (int(tokens[sample]),))]
        if batch.refused:
            assert batch.refused[0].startswith(index.name(sample))
            continue
        assert batch.num_tokens == tokens[sample]
        assert (0 if batch.images is None else len(batch.images.pixels)) == tiles[sample]
        key = index.name(sample).partition("/")[2]
        stored = index.read(sample)
        found[key] = vars(stored) | {"kind": type(stored.kind)}, batch.input_ids.tolist()
    return found


@pytest.fixture
def whole(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, samples: Any) -> dict[str, tuple[Any, Any]]:
    """The samples of the undamaged shard."""
    build_index(path := write(tmp_path / "whole.tar", samples), tokenizer)
    found = read(path, tokenizer, 0)
    assert sorted(found) == list(KEYS)
    return found


def test_samples_beside_a_damaged_one(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, samples: Any, whole: dict[str, Any]
) -> None:
    """A fault in one sample of a shard does not affect the others."""
    outcomes, lost = Outcomes(), 0
    for number in range(150 * SCALE):
        draw = random.Random(f"sample/{number}")
        victim = draw.randrange(len(samples))
        contents, files = samples[victim]
        spoilt = list(samples)
        match draw.randrange(5):
            case 0:
                spoilt[victim] = damaged(json.dumps(contents).encode(), draw), files
            case 1:
                spoilt[victim] = json.dumps(altered(contents, draw)).encode(), files
            case 2 if files:
                spoilt[victim] = contents, files[1:] if draw.random() < 0.5 else [*files, *files]
            case 3:
                spoilt[victim] = contents, [(draw.choice(("png", "mp4", "txt")), data) for _, data in files]
            case _:
                spoilt[victim] = contents, [(suffix, damaged(data, draw)) for suffix, data in files]
        path = write(tmp_path / "spoilt.tar", spoilt)

        def run(path: Path = path, number: int = number) -> dict[str, Any]:
            build_index(path, tokenizer)
            return read(path, tokenizer, 0)

        found = outcomes.of(f"sample {number}", run)
        assert found is not None, "one bad sample is no reason to refuse a shard"
        lost += KEYS[victim] not in found
        for key in set(KEYS) - {KEYS[victim]}:
            assert found[key] == whole[key], f"sample {number}: {key} is not what it was"
    assert 0.2 * 150 * SCALE < lost < 150 * SCALE


def test_headers_of_shards(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, samples: Any, whole: dict[str, Any]
) -> None:
    """With wrong names, types, sizes and sums in tar headers, or cut or grown archives, samples are read completely."""
    outcomes, path = Outcomes(), tmp_path / "spoilt.tar"
    short = [sample for sample in samples if all(suffix != "mp4" for suffix, _ in sample[1])]
    data = write(path, short).read_bytes()
    with tarfile.open(path) as archive:
        headers = [entry.offset for entry in archive]
    for number in range(600 * SCALE):
        draw = random.Random(f"header/{number}")
        path.write_bytes(wrong_archive(data, headers, draw))

        def run(number: int = number) -> dict[str, Any]:
            listed = list(list_shard(path))
            size = path.stat().st_size
            for sample in listed:
                assert all(m.offset >= 0 <= m.size and m.offset + m.size <= size for m in sample.members)
            if number % 4:
                return {}
            build_index(path, tokenizer)
            return read(path, tokenizer, 0)

        for key, (stored, ids) in (outcomes.of(f"header {number}", run) or {}).items():
            if key in whole and stored == whole[key][0]:
                assert ids == whole[key][1]
    outcomes.check(600 * SCALE, good=0.3, bad=0.01)


def wrong_archive(data: bytes, headers: list[int], draw: random.Random) -> bytes:
    """Returns an archive with a mistake in one of its headers, or anywhere."""
    found = bytearray(data)
    place = draw.choice(headers)
    match draw.randrange(8):
        case 0:
            return damaged(data, draw)
        case 1:  # a duplicate or missing header
            block = found[place : place + 512]
            found[place : place + draw.choice((0, 512))] = block if draw.random() < 0.5 else b""
            return bytes(found)
        case 2:  # one header before another: long names, extended ones, sparse files, many of them
            kind = draw.choice((b"L", b"K", b"x", b"g", b"S", b"X", b"V", b"5", b"1"))
            size = draw.choice((0, 1, 30, 513, 5000, 1 << 34, 1 << 62, -512, -1))
            more = header(b"b", size, kind) + draw.choice((b"", b"31 size=-9999999\n30 path=../x\n".ljust(512, b"\0")))
            found[place:place] = more * draw.choice((1, 1, 2, 1500))
            return bytes(found)
        case 3:
            name = draw.choice(
                (b"../../x.json", b"/etc/x.json", b"C:\\x.json", b"", b"a", b"\xff\xfe.json", b"9" * 99, b"c.json")
            )
            found[place : place + 100] = name.ljust(100, b"\0")
        case 4:
            size = draw.choice((0, 1, 511, 513, 1 << 33, 1 << 62, 1 << 80, -1, -512, -(1 << 40)))
            found[place + 124 : place + 136] = base256(size)
        case 5:
            found[place + 156] = draw.randrange(256)
        case 6:
            return bytes(found[: draw.randrange(len(found))])
        case _:
            found[place + draw.randrange(512)] ^= 1 << draw.randrange(8)
    if draw.random() < 0.8:
        found[place : place + 512] = summed(bytes(found[place : place + 512]))
    return bytes(found)


def header(name: bytes, size: int, kind: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136], block[156:157], block[257:265] = base256(size), kind, b"ustar  \0"
    return summed(bytes(block))


def base256(number: int) -> bytes:
    return (b"\x80" if number >= 0 else b"\xff") + (number % (1 << 88)).to_bytes(11, "big")


def summed(block: bytes) -> bytes:
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]


def test_shards_that_change_behind_their_index(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, samples: Any, whole: dict[str, Any]
) -> None:
    """With bytes changed after indexing, a sample that can still be read has the length in the index."""
    path, outcomes, lost = write(tmp_path / "rotten.tar", samples), Outcomes(), 0
    build_index(path, tokenizer)
    data = path.read_bytes()
    for number in range(150 * SCALE):
        draw = random.Random(f"rot/{number}")
        rotten = bytearray(data)
        for place in (draw.randrange(len(data) - 10240) for _ in range(draw.choice((1, 3, 40)))):
            rotten[place] ^= 1 << draw.randrange(8)
        path.write_bytes(rotten)
        found = outcomes.of(f"rot {number}", lambda number=number: read(path, tokenizer, 0))
        assert found is not None
        lost += len(found) < len(KEYS)
        for key, (stored, ids) in found.items():
            if stored == whole[key][0]:
                assert ids == whole[key][1]
    assert 0.1 * 150 * SCALE < lost < 150 * SCALE


def test_index_files(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, samples: Any) -> None:
    """Any damage to an index raises an error."""
    path, outcomes = write(tmp_path / "a.tar", samples), Outcomes()
    place = build_index(path, tokenizer)
    data, unharmed = place.read_bytes(), 0
    before = load_index(place)
    for number in range(400 * SCALE):
        broken = damaged(data, random.Random(f"index/{number}"))
        place.write_bytes(broken)
        if broken == data:
            unharmed += 1
            continue

        def run() -> dict[str, Any]:
            found = load_index(place)
            assert found.header == before.header
            return read(path, tokenizer, 0)

        found = outcomes.of(f"index {number}", run)
        assert found is None or sorted(found) == list(KEYS), "what does not show in what is read may be damaged"
    assert outcomes.bad > 0.95 * (400 * SCALE - unharmed)
    place.write_bytes(data)
    assert len(read(path, tokenizer, 0)) == len(KEYS)
