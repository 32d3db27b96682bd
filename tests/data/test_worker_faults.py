"""Tests of processes that read: one that dies, stops or fails ends the run with one line."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.errors import DataError
from mmcomponents.data.loading.dataset import PackDataset

from .faulty_shards import data_of, good, indexed, read
from .test_datamodule import Reader, trainer_of

pytestmark = pytest.mark.usefixtures("impatient_loaders")
WORKERS = pytest.mark.parametrize("workers", [0, 2])


class Strange(Exception):
    """An exception that cannot be created from one text, so torch cannot raise it again."""

    def __init__(self, one: str, other: int) -> None:
        super().__init__(one, other)


def spoil(monkeypatch: pytest.MonkeyPatch, what: Callable[[], Any], sample: int = 7) -> None:
    """Calls a function in the process that reads one of the samples."""
    render = PackDataset.render

    def spoilt(self: PackDataset, number: int, epoch: int = 0, copy: int = 0) -> Any:
        if number == sample:
            what()
        return render(self, number, epoch, copy)

    monkeypatch.setattr(PackDataset, "render", spoilt)


def test_a_worker_that_dies_stops_the_run_with_one_line(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(folder, good(30), tokenizer)
    spoil(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    data = data_of(folder, num_workers=2)
    data.setup("fit")
    told = (
        r"^a worker process that reads data died \(DataLoader worker [^\n]*: SIGKILL\);"
        r" packs \d+ to \d+ were being read\. [^\n]*$"
    )
    with pytest.raises(DataError, match=told):
        read(data)


def test_a_worker_that_dies_under_a_trainer(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(folder, good(30), tokenizer)
    spoil(monkeypatch, lambda: os._exit(3))
    with pytest.raises(DataError, match=r"DataLoader worker .*exited unexpectedly: exit code 3"):
        trainer_of(folder, max_epochs=1).fit(Reader(), datamodule=data_of(folder, num_workers=2))


def stop(process: int) -> None:
    os.kill(process, signal.SIGSTOP)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_worker_that_stops_ends_the_run_with_one_line(
    part: str, folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(folder, good(60), tokenizer)
    data = data_of(folder, num_workers=2, worker_timeout=3, val=str(folder / "train-*.tar"))
    data.setup("fit")
    before = multiprocessing.active_children()
    if part == "val":
        spoil(monkeypatch, lambda: stop(os.getpid()))
    told = (
        r"^worker [12] of 2 that reads data \(process (\d+)\) is stopped: no batch came for 3 s"
        r" \(data\.loading\.worker_timeout; 0: no limit\); packs \d+ to \d+ were being read\. [^\n]*$"
    )

    def give_up() -> None:  # the test fails instead of waiting
        for child in set(multiprocessing.active_children()) - set(before):
            child.kill()

    def read_all() -> None:
        for _ in data.train_dataloader() if part == "train" else data.val_dataloader():
            time.sleep(0.5 * (part == "train"))
            for child in set(multiprocessing.active_children()) - set(before) if part == "train" else ():
                stop(child.pid or 0)  # when the next batches are ready, but not fetched

    limit = threading.Timer(20, give_up)
    limit.daemon = True
    limit.start()
    with pytest.raises(DataError, match=told) as error:
        read_all()
    assert limit.is_alive(), "the wait did not end by itself"
    limit.cancel()
    process = int(re.findall(r"process (\d+)", str(error.value))[0])
    for child in set(multiprocessing.active_children()) - set(before):
        child.join(5)
    assert not Path(f"/proc/{process}").exists(), "a stopped worker is killed: nothing waits for it at exit"


def test_a_worker_that_is_slow_is_waited_for(
    folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(folder, good(10), tokenizer)
    spoil(monkeypatch, lambda: time.sleep(1.5))
    data = data_of(folder, num_workers=1, worker_timeout=4)  # with a look each second
    data.setup("fit")
    assert len(read(data)[0]) == 10
    with pytest.raises(ValueError, match=r"data\.loading\.worker_timeout must be at least 0, not nan"):
        data_of(folder, worker_timeout=float("nan"))


@WORKERS
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TypeError("no such thing"), "TypeError: no such thing"),
        (RuntimeError("A DataLoader worker found it"), "RuntimeError: A DataLoader worker found it"),
        (KeyError("absent"), "KeyError: 'absent'"),
        (MemoryError(), "MemoryError:?"),
        (Strange("a", 1), "Strange: \\('a', 1\\)"),
    ],
)
def test_an_error_that_nobody_expected_names_the_sample(
    error: Exception,
    told: str,
    workers: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    indexed(folder, good(30), tokenizer)

    def fail() -> None:
        raise error

    spoil(monkeypatch, fail)
    data = data_of(folder, num_workers=workers)
    data.setup("fit")
    where = r"reading data failed, packs \d+ to \d+ were being read"
    with pytest.raises(DataError, match=rf"^{where}: {told}[^\n]*while reading the sample train-000000/0007$"):
        read(data)


@WORKERS
def test_an_error_of_the_data_says_the_same_from_a_worker(
    workers: int, folder: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(folder, good(30), tokenizer)

    def fail() -> None:
        raise DataError("the index is damaged: make it anew")

    spoil(monkeypatch, fail)
    data = data_of(folder, num_workers=workers)
    data.setup("fit")
    with pytest.raises(DataError, match=r"^the index is damaged: make it anew[^\n]*$"):
        read(data)
