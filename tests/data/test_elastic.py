"""Tests of resuming with another number of ranks or workers: no pack twice, none missing, and in the same order.

`Loop` simulates a run, with counters as in Lightning's training loop. Slow tests use Lightning itself: a run of one
process resumed by two and vice versa.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmcomponents.data.packing.pack_plan import PackPlan
from mmcomponents.data.packing.source_options import SourceOptions

from .conftest import png, record
from .test_datamodule import module_of

RUN = Path(__file__).with_name("elastic_run.py")


def counters(**values: int) -> SimpleNamespace:
    return SimpleNamespace(**{"ready": 0, "started": 0, "processed": 0, "completed": 0, **values})


class Loop:
    """The attributes of a trainer that the data read, on one of several ranks.

    A checkpoint has what Lightning writes in a callback at the end of a batch: its counters and the state of the data.
    """

    overfit_batches = 0
    limit_train_batches = 1.0
    training = True
    accumulate_grad_batches = 1
    lightning_module = None
    num_training_batches = float("inf")

    def __init__(self, folder: Path, rank: int, world: int, checkpoint: dict[str, Any] | None, **settings: Any) -> None:
        self.global_rank, self.world_size = rank, world
        self.total, self.current, self.is_last_batch = counters(), counters(), False
        self.fit_loop = self.epoch_loop = self.batch_progress = self
        self.epoch_progress = SimpleNamespace(total=counters(ready=1, started=1), current=counters(ready=1, started=1))
        self.data = module_of(folder, **settings)
        self.data.trainer = self  # type: ignore[assignment]
        self.data.setup("fit")
        if checkpoint is not None:
            self.data.load_state_dict(checkpoint["data"])
            self.total, self.current = counters(**checkpoint["total"]), counters(**checkpoint["current"])
            self.is_last_batch = checkpoint["is_last_batch"]
        self.loader = self.data.train_dataloader()
        self.num_training_batches = len(self.loader)
        if checkpoint is not None:  # as Lightning's `_TrainingEpochLoop.reset` does
            self.current.completed += 1
            self.total.completed += 1
            if self.current.completed >= self.num_training_batches:
                self.current, self.is_last_batch = counters(), False
            done = self.current.completed
            self.current = counters(ready=done, started=done, processed=done, completed=done)
        self.read: list[int] = []

    @property
    def plan(self) -> PackPlan:
        return self.data.train_packs.plan

    def epoch(self, stop: int | None = None) -> dict[str, Any] | None:
        """Trains to the end of the epoch, or stops after a number of batches and returns the checkpoint."""
        for read, pack in enumerate(self.data._next_packs(), start=1):
            for counter in (self.total, self.current):
                counter.ready, counter.started, counter.processed = (
                    counter.ready + 1,
                    counter.started + 1,
                    counter.processed + 1,
                )
            self.is_last_batch = self.current.processed >= self.num_training_batches
            self.read.append(pack.number)
            if read == stop:
                return self.checkpoint()
            self.total.completed, self.current.completed = self.total.processed, self.current.processed
        self.current = counters()
        return None

    def checkpoint(self) -> dict[str, Any]:
        found = {"total": vars(self.total), "current": vars(self.current), "is_last_batch": self.is_last_batch}
        return json.loads(json.dumps({**found, "data": self.data.state_dict()}))  # type: ignore[no-any-return]


def run(
    folder: Path,
    world: int,
    checkpoint: dict[str, Any] | None,
    stop: int | None = None,
    epochs: int = 1,
    **settings: Any,
) -> tuple[list[int], dict[str, Any] | None]:
    """Returns the numbers of the packs that all ranks read, in the order of the steps, and the stop's checkpoint."""
    ranks = [Loop(folder, rank, world, checkpoint, **settings) for rank in range(world)]
    states = []
    for number in range(epochs):
        states = [rank.epoch(stop if number == epochs - 1 else None) for rank in ranks]
    assert all(state == states[0] for state in states), "the state is the same on all ranks"
    lengths = {len(rank.read) for rank in ranks}
    assert len(lengths) == 1, "all ranks take equally many steps"
    return [pack for step in zip(*(rank.read for rank in ranks), strict=True) for pack in step], states[0]


def packs_of_epoch(folder: Path, **settings: Any) -> int:
    return Loop(folder, 0, 1, None, **settings).plan.packs_in_epoch(0)


WORLDS = [(1, 2), (2, 1), (4, 3), (3, 4), (1, 4), (4, 1), (2, 2)]


@pytest.mark.parametrize(("before", "after"), WORLDS)
def test_another_number_of_ranks_sees_the_rest_of_the_epoch(handwriting: Path, before: int, after: int) -> None:
    length = packs_of_epoch(handwriting)
    assert length == 10
    for stop in range(1, -(-length // before) + 1):
        first, checkpoint = run(handwriting, before, None, stop)
        assert checkpoint is not None
        assert checkpoint["data"]["packs"] == stop * before
        if stop * before >= length:  # the next epoch begins
            second, _ = run(handwriting, after, checkpoint)
            assert first + second == list(range(len(first + second)))
            assert len(second) == -(-length // after) * after
            continue
        second, _ = run(handwriting, after, checkpoint)
        together = first + second
        assert together == list(range(len(together))), "each pack once, in their order"
        assert length <= len(together) < length + after, "and no step more than the epoch takes"


@pytest.mark.parametrize("repeat", [0.5, 1.0, 2.5])
def test_each_sample_of_the_epoch_is_seen_as_often_as_planned(handwriting: Path, repeat: float) -> None:
    """Compares multisets of packs, with ranks that change twice: 4, then 3, then 1."""
    settings = {"sources": {"handwriting": SourceOptions(repeat=repeat)}}
    plan = Loop(handwriting, 0, 1, None, **settings).plan
    length = plan.packs_in_epoch(0)
    first, checkpoint = run(handwriting, 4, None, 1, **settings)
    if length > 7:
        second, checkpoint = run(handwriting, 3, checkpoint, 1, **settings)
        first += second
    rest, _ = run(handwriting, 1, checkpoint, **settings)
    assert first + rest == list(range(length)), "with one rank in the end, an epoch is its packs and no more"
    seen = Counter(sample for number in first + rest for sample in plan.pack(number).samples)
    assert sum(seen.values()) == round(60 * repeat)
    assert set(seen.values()) <= {int(repeat), int(repeat + 0.5)}


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 3)])
def test_in_the_second_epoch(handwriting: Path, before: int, after: int) -> None:
    length = packs_of_epoch(handwriting)
    first, checkpoint = run(handwriting, before, None, 2, epochs=2)
    begin = -(-length // before) * before
    assert checkpoint is not None
    assert checkpoint["data"]["begin"] == begin
    assert first == list(range(begin + 2 * before))
    second, _ = run(handwriting, after, checkpoint)
    assert first + second == list(range(len(first + second)))
    assert length <= len(first + second) - begin < length + after
    again, _ = run(handwriting, after, checkpoint, epochs=2)
    assert again[: len(second)] == second
    assert len(again) - len(second) == -(-length // after) * after, "epochs behind it are whole"


def test_inside_an_accumulation_window(handwriting: Path) -> None:
    """The boundaries of steps stay: an interrupted window is completed, with any number of ranks."""
    first = Loop(handwriting, 0, 1, None)
    checkpoint = first.epoch(stop=5)
    for after in (1, 2):
        loop = Loop(handwriting, 0, after, checkpoint)
        loop.accumulate_grad_batches = 4
        done, length = loop.data._place()
        assert (done, length) == ((5, 10) if after == 1 else (2, 5))
        batches = list(loop.loader)
        assert len(batches) == length - done
        windows = [batch.totals["data/packs"] for batch in batches if batch.totals]
        expected = [3, 3, 3, 2, 2] if after == 1 else [2, 2, 1]
        assert windows == expected


def test_an_epoch_that_is_limited_keeps_its_count(handwriting: Path) -> None:
    _, checkpoint = run(handwriting, 2, None, 2)
    for limit in (3, 1, 0.5):
        loop = Loop(handwriting, 0, 1, None)
        loop.limit_train_batches = limit  # type: ignore[assignment]
        loop.current = counters(ready=2, started=2, processed=2, completed=1)
        assert checkpoint is not None
        loop.data.load_state_dict(checkpoint["data"])
        loop.data.train_dataloader()
        assert vars(loop.current) == {"ready": 2, "started": 2, "processed": 2, "completed": 1}


def batches(folder: Path, checkpoint: dict[str, Any] | None, **settings: Any) -> list[Any]:
    return list(Loop(folder, 0, 1, checkpoint, **settings).loader)


def test_the_bookmark_is_a_shortcut(handwriting: Path) -> None:
    """A resumed run reads the same packs without the bookmark, or with another number of workers."""
    settings = {"block": 16, "delta_log2": [0, 2, 4]}
    _, checkpoint = run(handwriting, 1, None, 6, epochs=2, **settings)
    assert checkpoint is not None
    assert checkpoint["data"]["bookmark"][0] == 1, "it is in the second epoch"
    bare = json.loads(json.dumps(checkpoint))
    del bare["data"]["bookmark"]
    wanted = batches(handwriting, checkpoint, **settings)
    assert len(wanted) > 3
    for state, workers in ((bare, 0), (checkpoint, 2), (bare, 1)):
        found = batches(handwriting, state, num_workers=workers, **settings)
        assert [batch.keys for batch in found] == [batch.keys for batch in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one.input_ids, other.input_ids)
            assert torch.equal(one.layout.delta_log2, other.layout.delta_log2)
            assert torch.equal(one.images.pixels, other.images.pixels)


def test_a_checkpoint_plans_nothing(handwriting: Path) -> None:
    """The prefetching thread plans packs; if writing a checkpoint did so too, blocks would be counted twice."""
    loop = Loop(handwriting, 0, 1, None, block=8)
    loop.epoch()
    used, planning = len(loop.read), set[str]()
    block = loop.plan.epochs.block

    def planned(epoch: int, number: int) -> Any:
        planning.add(threading.current_thread().name)
        time.sleep(0.02)
        return block(epoch, number)

    loop.plan.epochs.block = planned  # type: ignore[method-assign]
    for number, _ in enumerate(loop.loader, start=1):
        for counter in (loop.total, loop.current):
            counter.processed += 1
        state = loop.data.state_dict()
        assert state["packs"] == used + number
        assert 0 <= state["packs"] - state["bookmark"][2] <= 10
    assert planning
    assert threading.main_thread().name not in planning


def test_a_wrong_count_would_show(handwriting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `adopt`, an epoch ends too late with fewer ranks, and too early with more."""
    from mmcomponents.data.loading.progress import PackProgress

    monkeypatch.setattr(PackProgress, "adopt", lambda *_: None)
    length = packs_of_epoch(handwriting)
    for before, after in ((2, 1), (1, 2)):
        first, checkpoint = run(handwriting, before, None, 4)
        second, _ = run(handwriting, after, checkpoint)
        assert not length <= len(first + second) < length + after


# --- with Lightning


def start(folder: Path, log: Path, world: int, **settings: Any) -> None:
    """Runs `elastic_run.py` in one process per rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(world):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        env |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "elastic"}
        arguments = json.dumps({"folder": str(folder), "log": str(log), "world": world, **settings})
        running.append(subprocess.Popen([sys.executable, str(RUN), arguments], env=env))
    assert [process.wait(120) for process in running] == [0] * world


def packs(log: Path) -> list[int]:
    """Returns the numbers of the packs of each step, in the order of the ranks."""
    lines = [json.loads(line) for file in sorted(log.parent.glob(f"{log.name}.*")) for line in file.open()]
    return [line["pack"] for line in sorted(lines, key=lambda line: (line["step"], line["rank"]))]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_lightning_sees_each_pack_of_the_epochs_once(
    handwriting: Path, tmp_path: Path, before: int, after: int, stop: int
) -> None:
    """Runs one and two processes (gloo) with Lightning's checkpoints and counters."""
    epochs = 1 if stop < 5 else 2
    checkpoint = str(tmp_path / "stop.ckpt")
    start(handwriting, tmp_path / "first", before, epochs=epochs, stop=stop, checkpoint=checkpoint)
    start(handwriting, tmp_path / "second", after, epochs=epochs, resume=checkpoint)
    first, second = packs(tmp_path / "first"), packs(tmp_path / "second")
    assert len(first) == stop * before
    assert first + second == list(range(len(first + second)))
    length = 10
    begun = stop * before // length  # epochs that were complete at the stop
    assert epochs * length <= len(first + second) < epochs * length + max(before, after)
    assert begun < epochs or not second


def test_what_a_shard_of_one_pack_gives(write_shard: Any, tokenizer: Any, tmp_path: Path) -> None:
    """With fewer packs than ranks, an epoch is one step."""
    write_shard([(record(), [png(16, 16)])] * 2)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    first, checkpoint = run(tmp_path, 4, None, 1)
    assert first == [0, 1, 2, 3]
    second, _ = run(tmp_path, 2, checkpoint)
    assert second == [4, 5]
