"""Tests of runs with remote shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import index_shards
from mmcomponents.data.format.shards import find_shards

from .storage.conftest import server  # noqa: F401
from .storage.server import Server, cut, status, whole


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def module_of(folder: Path, train: Any, **more: Any) -> PackedDataModule:
    where = {"tokenizer": str(folder / "tokenizer"), "tokens_per_tile": 4, "tile_size": 28, "max_tiles": 4}
    return PackedDataModule(**{**where, "train": train, "pack_tokens": 1500, "num_workers": 0, **more})


def packs_of(data: PackedDataModule) -> list[Any]:
    data.setup("fit")
    return list(data.train_dataloader())


def same(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert one.refused == other.refused == []
        assert [key.partition("/")[2] for key in one.keys] == [key.partition("/")[2] for key in other.keys]
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.images.pixels, other.images.pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_behind_http(handwriting: Path, server: Server, workers: int) -> None:  # noqa: F811
    for file in handwriting.iterdir():
        if file.is_file():
            server.files[f"/set/{file.name}"] = file.read_bytes()
    local = packs_of(module_of(handwriting, str(handwriting / "train-*.tar")))
    server.tricks["/set/train-000000.tar"].extend([status(503), cut(100)])
    remote = packs_of(module_of(handwriting, server.url("/set/train-{000000..000001}.tar"), num_workers=workers))
    same(remote, local)
    asked = [request for request in server.log if request.path.endswith("train-000000.tar")]
    assert all(request.range for request in asked), "ranges, never the complete shard"


def test_local_indexes_of_remote_shards(handwriting: Path, server: Server, tmp_path: Path) -> None:  # noqa: F811
    for file in handwriting.glob("train-*.tar"):
        server.files[f"/{file.name}"] = file.read_bytes()
    urls = server.url("/train-{000000..000001}.tar", auth="me:secret@")
    with pytest.raises(DataError, match=r"has no index .*--out FOLDER") as refused:
        packs_of(module_of(handwriting, urls))
    assert "secret" not in str(refused.value)
    with pytest.raises(DataError, match="name a folder for its index"):
        index_shards([urls], str(handwriting / "tokenizer"))
    made = index_shards([urls], str(handwriting / "tokenizer"), out=str(tmp_path / "indices"))
    assert len(made.paths) == 2
    remote = packs_of(module_of(handwriting, urls, index_folder=str(tmp_path / "indices")))
    same(remote, packs_of(module_of(handwriting, str(handwriting / "train-*.tar"))))


def test_a_server_without_ranges_is_an_error_of_setup(handwriting: Path, server: Server) -> None:  # noqa: F811
    for file in handwriting.glob("train-*"):
        server.files[f"/{file.name}"] = file.read_bytes()
    server.tricks["/train-000000.tar"].append(whole)
    with pytest.raises(DataError, match=r"^the server of http://127[^\n]* ignores ranges[^\n]*local disk[^\n]*$"):
        module_of(handwriting, server.url("/train-{000000..000001}.tar")).setup("fit")


def test_shards_in_an_object_store(handwriting: Path) -> None:
    store = fsspec.filesystem("memory")
    for file in handwriting.glob("train-*"):
        store.pipe_file(f"/bucket/{file.name}", file.read_bytes())
    try:
        remote = packs_of(module_of(handwriting, "memory://bucket/train-*.tar"))
    finally:
        store.rm("/bucket", recursive=True)
    same(remote, packs_of(module_of(handwriting, str(handwriting / "train-*.tar"))))


def test_samples_of_a_deleted_shard_are_skipped(handwriting: Path, server: Server) -> None:  # noqa: F811
    for file in handwriting.glob("train-*"):
        server.files[f"/{file.name}"] = file.read_bytes()
    data = module_of(handwriting, server.url("/train-{000000..000001}.tar"), max_refused=1.0)
    data.setup("fit")
    del server.files["/train-000001.tar"]
    batches = list(data.train_dataloader())
    skipped = [line for batch in batches for line in batch.refused]
    assert len(skipped) == 20
    assert all(line.startswith("train-000001/") for line in skipped)


def test_commands_run_only_where_they_are_allowed(handwriting: Path, tmp_path: Path) -> None:
    shard = handwriting / "train-000000.tar"
    marker = tmp_path / "ran"
    command = f"pipe:touch {marker}; cat {shard}"
    for call in (
        lambda: find_shards(command),
        lambda: packs_of(module_of(handwriting, command)),
        lambda: index_shards([command], str(handwriting / "tokenizer")),
    ):
        with pytest.raises(DataError, match="pipe:"):
            call()
    assert not marker.exists()
    made = index_shards([command], str(handwriting / "tokenizer"), out=str(tmp_path / "kept"), allow_pipe=True)
    (index,) = made.paths
    assert marker.exists()
    kept = Path(index).parent
    assert [path.suffix for path in sorted(kept.iterdir())].count(".tar") == 1
    same(packs_of(module_of(handwriting, str(kept))), packs_of(module_of(handwriting, str(shard))))
