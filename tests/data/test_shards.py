from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.shards import (
    Member,
    ShardWriter,
    find_shards,
    image_members,
    list_shard,
    parse_record,
    read_bytes,
)


def write(folder: Path, samples: int = 5) -> list[Path]:
    with ShardWriter(folder, "train", samples_per_shard=3) as writer:
        for n in range(samples):
            writer.write(f"{n:03d}", {"messages": [], "n": n, "text": "ü"}, [b"image %d %d" % (n, i) for i in range(n)])
    return writer.paths


def test_writing_listing_and_reading_by_offset(tmp_path: Path) -> None:
    paths = write(tmp_path)
    assert [path.name for path in paths] == ["train-000000.tar", "train-000001.tar"]
    listed = [(path, key, members) for path in paths for key, members in list_shard(path)]
    assert [key for _, key, _ in listed] == ["000", "001", "002", "003", "004"]
    path, _, members = listed[4]
    assert [m.suffix for m in image_members(members)] == ["0.png", "1.png", "2.png", "3.png"]
    assert read_bytes(path, image_members(members))[2] == b"image 4 2"
    (text,) = read_bytes(path, [m for m in members if m.suffix == "json"])
    assert parse_record(text) == {"messages": [], "n": 4, "text": "ü"}


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    paths = write(tmp_path)
    samples = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000", "001", "002", "003", "004"]
    assert samples[3]["2.png"] == b"image 3 2"


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    for one, other in zip(write(tmp_path / "a"), write(tmp_path / "b"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_ten_images_stay_in_the_order_of_their_numbers() -> None:
    members = [Member(f"{n}.jpg", n, 1) for n in (0, 1, 10, 11, 2)] + [Member("json", 99, 1)]
    assert [m.offset for m in image_members(members)] == [0, 1, 2, 10, 11]
    assert image_members([Member("JPG", 3, 1), Member("txt", 4, 1)]) == [Member("JPG", 3, 1)]


def test_broken_shards(tmp_path: Path) -> None:
    (path, _) = write(tmp_path)
    cut = tmp_path / "cut.tar"
    for size in (512, 2000, 2048, 5000):
        cut.write_bytes(path.read_bytes()[:size])
        with pytest.raises(DataError, match=r"cut\.tar"):
            list(list_shard(cut))
    with pytest.raises(SampleError, match=r"json has 10 of its 5000 bytes"):
        read_bytes(cut, [Member("json", 4990, 5000)])
    noise = tmp_path / "noise.tar"
    noise.write_bytes(b"noise" * 1000)
    with pytest.raises(DataError, match=r"noise\.tar is no complete tar file"):
        list(list_shard(noise))
    twice = tmp_path / "twice.tar"
    with tarfile.open(twice, "w") as archive:
        for name in ("a.json", "b.json", "a.png"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="the key a comes up twice"):
        list(list_shard(twice))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"messages": 3}', b"\xff\xfe"])
def test_wrong_json(data: bytes) -> None:
    with pytest.raises(SampleError, match="wrong JSON"):
        parse_record(data)


def test_finding_shards(tmp_path: Path) -> None:
    one, two = write(tmp_path)
    assert find_shards(str(tmp_path)) == find_shards(str(tmp_path / "*.tar")) == [one, two]
    assert find_shards([str(two), str(tmp_path)]) == [two, one]
    with pytest.raises(DataError, match=r"no shard matches .*val"):
        find_shards([str(one), str(tmp_path / "val-*.tar")])


def test_keys_without_dots(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x") as writer, pytest.raises(ValueError, match=r"'a\.b'"):
        writer.write("a.b", {"messages": []})
