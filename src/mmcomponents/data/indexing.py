"""Making the index of shards: one walk through each tar file, see `mmcomponents.data.index` for what is kept."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcomponents.data.chat import place_image, render_chat
from mmcomponents.data.errors import SampleError
from mmcomponents.data.images import image_size
from mmcomponents.data.index import PER_IMAGE, PER_MEMBER, PER_SAMPLE, VERSION, Column, index_path
from mmcomponents.data.shards import Member, find_shards, image_members, list_shard, parse_record, read_bytes
from mmcomponents.data.tokenizer import fingerprint, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def build_index(shard: str | Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Makes the index of one shard from the tar file alone, and returns its path.

    A sample that cannot be used is indexed with its problem, so that it is reported when its turn comes.

    Args:
        shard: The tar file.
        tokenizer: The tokenizer that the runs will use.

    Raises:
        DataError: The shard is no tar file.
        TemplateError: The tokenizer lacks tokens of the chat template.
    """
    shard = Path(shard)
    columns: dict[str, list[Any]] = {name: [] for name in (*PER_SAMPLE, *PER_MEMBER, *PER_IMAGE)}
    member_begin, image_begin, sources, problems = [0], [0], dict[str, int](), dict[int, str]()
    for key, members in list_shard(shard):
        row = _measure(shard, members, tokenizer)
        if row.problem:
            logger.warning("%s/%s cannot be used: %s", shard.stem, key, row.problem)
            problems[len(columns["key"])] = row.problem
        values = (0, key, sources.setdefault(row.source, len(sources)), row.text_tokens, row.turns, row.own_system)
        for name, value in zip(PER_SAMPLE, values, strict=True):
            columns[name].append(value)
        for name, member_values in zip(PER_MEMBER, zip(*members, strict=True), strict=True):
            columns[name] += member_values
        columns["image_width"] += [width for width, _ in row.images]
        columns["image_height"] += [height for _, height in row.images]
        member_begin.append(member_begin[-1] + len(members))
        image_begin.append(image_begin[-1] + len(row.images))
    text = {"key", "member_suffix"}
    arrays: dict[str, Column] = {
        name: np.array(column, np.str_ if name in text else np.int64) for name, column in columns.items()
    }
    target = index_path(shard)
    arrays |= {
        "version": np.array(VERSION),
        "fingerprint": np.array(fingerprint(tokenizer)),
        "shard_bytes": np.array(shard.stat().st_size),
        "sources": np.array(list(sources), np.str_),
        "problem_sample": np.array(
            list(problems), np.int64
        ),  # a column over all samples would be as wide as the longest
        "problem_reason": np.array(list(problems.values()), np.str_),
        "member_begin": np.array(member_begin),
        "image_begin": np.array(image_begin),
    }
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as file:  # a name without .npz would be given one by savez
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(temporary, target)  # a reader sees the old one or the new one, never half of it
    return target


@dataclass
class _Row:
    source: str = ""
    text_tokens: int = 1
    turns: int = 0
    own_system: bool = False
    problem: str = ""
    images: Sequence[tuple[int, int]] = ()


def _measure(shard: Path, members: Sequence[Member], tokenizer: PreTrainedTokenizerBase) -> _Row:
    row = _Row()
    try:
        texts = [m for m in members if m.suffix == "json"]
        if not texts:
            raise SampleError("the sample has no .json member")
        text, *data = read_bytes(shard, [texts[0], *image_members(members)])
        record = parse_record(text)
        row.source = str(record.get("source", ""))
        images = [image_size(image) for image in data]
        messages = place_image(record["messages"], len(images))
        chat = render_chat(messages, tokenizer, [0] * len(images))
        row.text_tokens, row.images = len(chat.input_ids), images
        row.turns = sum(m["role"] == "assistant" for m in messages)
        row.own_system = messages[0]["role"] == "system"
    except SampleError as error:
        row.problem = str(error)
    return row


def index_shards(paths: list[str], tokenizer: str) -> list[str]:
    """Makes the index of each shard, beside it.

    Args:
        paths: Shards, patterns of them, or folders.
        tokenizer: Folder of the tokenizer that the runs will use.

    Returns:
        Paths of the indices.

    Raises:
        DataError: There are no such shards, one is no tar file, or the tokenizer's folder is missing.
    """
    loaded = load_tokenizer(tokenizer)
    return [str(build_index(shard, loaded)) for shard in find_shards(paths)]
