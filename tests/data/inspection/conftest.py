from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import open_shard
from mmcomponents.data.inspection import Opened, open_part

HOSTILE = "</td><script>alert('x')</script> {{ 7*7 }} <|im_end|>\n\u202egnp.exe <IMG_CONTEXT>"
HOSTILE_SOURCE = "<b onclick=x>\x1b[31m"


def picture(width: int, height: int) -> Image.Image:
    """Returns an image in which all pixels differ."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8))


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    picture(width, height).save(file, "png")
    return file.getvalue()


def video(frames: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            values = np.full((48, 64, 3), number * 8, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def chat(question: str, answer: str, source: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": source}


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shard of all kinds of samples, its index and its tokenizer."""
    folder = tmp_path_factory.mktemp("mixed")
    tokenizer: PreTrainedTokenizerFast = train_tokenizer(["What is shown? Frame-1: How many?"] * 3, 300)
    tokenizer.save_pretrained(folder / "tokenizer")
    with open_shard(folder / "mix-000000.tar") as shard:
        shard.write("wide", chat("<image>\nWhat is shown?", "A slope.", "pictures"), [("png", png(112, 56))])
        two = chat("Compare <image> with <image>.", "They differ.", "pictures")
        shard.write("two", two, [("png", png(28, 28)), ("png", png(28, 56))])
        film = chat("<image>\n<video>\nWhat moves?", "Nothing.", "videos")
        shard.write("film", film, [("png", png(28, 28)), ("mp4", video(20))])
        ask = {"messages": [{"role": "user", "content": "<image>\nHow many?"}], "source": "pairs"}
        shard.write("pair", {**ask, "chosen": "There are three.", "rejected": "There are"}, [("png", png(28, 28))])
        shard.write("doc", {"text": "Look: <image> A tree.", "source": "books"}, [("png", png(28, 28))])
        shard.write("hostile", chat(HOSTILE, HOSTILE, HOSTILE_SOURCE))
        for number in range(6):
            shard.write(f"text{number}", chat(f"{number}?", "Yes. " * (number + 1), "text"))
        shard.write("truncated", chat("<image>\nWhat?", "It.", "broken"), [("png", _broken_pixels())])
        shard.write("noimage", chat("<image>\nWhat?", "It.", "broken"), [("png", b"12 bytes, no.")])
        shard.write("noimage2", chat("<image>\nWhat?", "It.", "broken"), [("png", b"9 bytes.")])
        shard.write("long", chat("Long?", "word " * 900, "text"))
    build_index(folder / "mix-000000.tar", tokenizer)
    return folder


def _broken_pixels() -> bytes:
    """Returns a truncated JPEG with a complete header."""
    file = io.BytesIO()
    picture(200, 100).save(file, "jpeg")
    return file.getvalue()[:-400]


@pytest.fixture
def open_mixed(mixed: Path) -> Callable[..., Opened]:
    def opened(**settings: Any) -> Opened:
        small = {"tile_size": 28, "max_tiles": 8, "pack_tokens": 800, "pack_tiles": 48, "train_frames": (4, 4)}
        shards = str(mixed / "mix-000000.tar")
        module = PackedDataModule(str(mixed / "tokenizer"), 4, shards, **{**small, **settings})
        return open_part(module, "train")

    return opened
