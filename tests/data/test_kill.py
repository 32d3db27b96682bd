"""Tests that a repeatedly killed run reads the same batches, bit for bit, as an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter

from .conftest import png, record

RUN = Path(__file__).with_name("kill_run.py")
KILLS, EPOCHS = 10, 10


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, movie: bytes) -> Path:
    """Texts, documents, images, videos and pairs, in two shards."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with ShardWriter(tmp_path, "train", samples_per_shard=40) as writer:
        for n in range(80):
            match n % 5:
                case 0:
                    writer.write(f"{n:03d}", record("Say a number.", f"{n} 3 7", source="texts"))
                case 1:
                    writer.write(f"{n:03d}", {"text": f"Digits in order, page {n}. " * 4, "source": "books"})
                case 2:
                    files = [("png", png(20 + n, 30)), ("png", png(30, 20 + n))]
                    writer.write(f"{n:03d}", record("<image> and <image>", "two", source="pictures"), files)
                case 3:
                    writer.write(
                        f"{n:03d}", record("What happens?", f"It fades {n}.", source="films"), [("mp4", movie)]
                    )
                case _:
                    asked = [{"role": "user", "content": "<image>\nHow many?"}]
                    pair = {"messages": asked, "chosen": "3", "rejected": f"{n}", "source": "pairs"}
                    writer.write(f"{n:03d}", pair, [("png", png(40, 20 + n))])
    for path in writer.paths:
        build_index(path, tokenizer)
    return tmp_path


def start(folder: Path, run: Path, workers: int) -> subprocess.Popen[bytes]:
    run.mkdir(exist_ok=True)
    settings = {"folder": str(folder), "run": str(run), "workers": workers, "epochs": EPOCHS}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (run / "output").open("ab") as output:
        command = [sys.executable, str(RUN), json.dumps(settings)]
        return subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=output)


def notes(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of a log without one that the kill has cut."""
    if not (run / "log").exists():
        return []
    return [json.loads(line) for line in (run / "log").read_text().splitlines(keepends=True) if line.endswith("}\n")]


def kill(process: subprocess.Popen[bytes], run: Path, draw: random.Random, more: int) -> None:
    """Kills a run some time after it has written further lines: only the process, or its workers too."""
    before, until = len(notes(run)), time.monotonic() + 120
    while len(notes(run)) < before + more and process.poll() is None:
        assert time.monotonic() < until, (run / "output").read_text()[-2000:]
        time.sleep(0.002)
    time.sleep(draw.random() * 0.05)
    assert process.poll() is None, "it was done before it could be killed"
    if draw.random() < 0.5:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(folder: Path, workers: int) -> None:
    whole, killed = folder / "whole", folder / "killed"
    assert start(folder, whole, 2 - workers).wait(300) == 0, (whole / "output").read_text()[-2000:]
    wanted = notes(whole)
    assert [line["batch"] for line in wanted] == list(range(len(wanted)))
    assert len({line["hashes"]["batch.input_ids"] for line in wanted}) == len(wanted), "no two batches are alike"
    assert sum("pixels" in line for line in wanted) > len(wanted) / 2
    draw = random.Random(workers)
    for _ in range(KILLS):
        process = start(folder, killed, workers)
        kill(process, killed, draw, draw.randrange(1, 15))
        assert process.returncode == -signal.SIGKILL
    assert start(folder, killed, workers).wait(300) == 0, (killed / "output").read_text()[-2000:]
    joined: list[dict[str, Any]] = []
    resumed = 0
    for line in notes(killed):
        assert line == wanted[line["batch"]], "what is done again after a kill is what was done before it"
        resumed += line["batch"] < len(joined)
        joined = [*joined[: line["batch"]], line]
    assert joined == wanted
    assert resumed > 0
