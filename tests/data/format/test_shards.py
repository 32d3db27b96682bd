from __future__ import annotations

import bz2
import gzip
import io
import tarfile
from pathlib import Path

import pytest
import webdataset

from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.format.records import parse_object
from mmcomponents.data.format.shards import (
    IMAGE_SUFFIXES,
    Member,
    ShardWriter,
    find_shards,
    json_member,
    list_shard,
    media_members,
    read_members,
)


def write(folder: Path, samples: int = 5) -> list[Path]:
    with ShardWriter(folder, "train", samples_per_shard=3) as writer:
        for n in range(samples):
            writer.write(
                f"{n:03d}", {"messages": [], "n": n, "word": "ü"}, [("png", b"image %d %d" % (n, i)) for i in range(n)]
            )
    return writer.paths


def test_writing_listing_and_reading_by_offset(tmp_path: Path) -> None:
    paths = write(tmp_path)
    assert [path.name for path in paths] == ["train-000000.tar", "train-000001.tar"]
    listed = [(path, sample.key, sample.members) for path in paths for sample in list_shard(path)]
    assert [key for _, key, _ in listed] == ["000", "001", "002", "003", "004"]
    path, _, members = listed[4]
    assert [m.suffix for m in media_members(members, IMAGE_SUFFIXES)] == ["0.png", "1.png", "2.png", "3.png"]
    assert read_members(str(path), media_members(members, IMAGE_SUFFIXES))[2] == b"image 4 2"
    (text,) = read_members(str(path), [json_member(members)])
    assert parse_object(text) == {"messages": [], "n": 4, "word": "ü"}


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
    assert [m.offset for m in media_members(members, IMAGE_SUFFIXES)] == [0, 1, 2, 10, 11]
    assert media_members([Member("JPG", 3, 1), Member("txt", 4, 1)], IMAGE_SUFFIXES) == [Member("JPG", 3, 1)]


def test_broken_shards(tmp_path: Path) -> None:
    (path, _) = write(tmp_path)
    whole = {listed.key: listed for listed in list_shard(path)}
    cut = tmp_path / "cut.tar"
    for size in range(512, path.stat().st_size, 512):
        cut.write_bytes(path.read_bytes()[:size])
        listed = list(list_shard(cut))
        good = [sample for sample in listed if not sample.problem]
        assert all(whole[sample.key] == sample for sample in good)
        if size < path.stat().st_size - 10240:
            assert len(good) < len(whole)
        if len(good) < len(whole):
            assert listed[-1].problem
    with pytest.raises(SampleError, match=r"cut\.tar"):
        read_members(str(cut), [Member("json", 4990, 50000)])
    for content in (b"noise" * 1000, b"", b"x" * 100):
        (noise := tmp_path / "noise.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"noise\.tar is not a tar file"):
            list(list_shard(noise))


def test_compressed_shards_are_told_from_noise(tmp_path: Path) -> None:
    (path, _) = write(tmp_path)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"packed\.tar is compressed; gunzip it first"):
        list(list_shard(packed))
    packed.write_bytes(bz2.compress(path.read_bytes()))
    with pytest.raises(DataError, match="bunzip2 it first"):
        list(list_shard(packed))


def test_members_without_json_are_named() -> None:
    with pytest.raises(SampleError, match=r"no \.json member, but \.jpg, \.txt \(`mmcomponents data convert`"):
        json_member([Member("jpg", 0, 1), Member("txt", 1, 1)])


def test_a_broken_header_is_no_end(tmp_path: Path) -> None:
    (path, _) = write(tmp_path)
    data = bytearray(path.read_bytes())
    second = data.index(b"001.0.png")
    data[second + 148 : second + 156] = b"0000000\0"  # its checksum
    path.write_bytes(data)
    first, *rest = list_shard(path)
    assert rest == []
    assert f"truncated or damaged at byte {second}" in first.problem


def archive_of(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return path


def test_names_that_come_up_twice_or_leave_the_folder(tmp_path: Path) -> None:
    twice = list(list_shard(archive_of(tmp_path / "twice.tar", "a.json", "b.json", "a.png", "c.json", "c.json")))
    assert [sample.key for sample in twice] == ["a", "b", "a", "c"]
    problems = [sample.problem for sample in twice]
    assert problems[:2] == ["", ""]
    assert "the key a occurs twice" in problems[2]
    assert "c.json occurs twice" in problems[3]
    outside = list(list_shard(archive_of(tmp_path / "outside.tar", "../a.json", "/etc/b.json", "ok/c.json")))
    assert ["leaves the folder" in sample.problem for sample in outside] == [True, True, False]


DEEP = b'{"text": "x", "more": ' + b"[" * 100 + b"]" * 100 + b"}"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, DEEP])
def test_wrong_json(data: bytes) -> None:
    with pytest.raises(SampleError, match="wrong JSON"):
        parse_object(data)


def test_finding_shards(tmp_path: Path) -> None:
    one, two = write(tmp_path)
    assert find_shards(str(tmp_path)) == find_shards(str(tmp_path / "*.tar")) == [str(one), str(two)]
    assert find_shards([str(two), str(tmp_path)]) == [str(two), str(one)]
    with pytest.raises(DataError, match=r"no shard matches .*val"):
        find_shards([str(one), str(tmp_path / "val-*.tar")])


def test_keys_without_dots(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x") as writer, pytest.raises(ValueError, match=r"'a\.b'"):
        writer.write("a.b", {"messages": []})


def test_members_that_webdataset_leaves_out_are_no_samples(tmp_path: Path) -> None:
    names = ["./a.json", "./a.png", "./._a.json", "._a.png", "__MACOSX/._a.png", ".DS_Store", "README", "__meta__"]
    path = archive_of(tmp_path / "a.tar", *names, "__info__/b.json", "c/b.json", "c/b.png")
    found = {listed.key: [member.suffix for member in listed.members] for listed in list_shard(path)}
    assert found == {"./a": ["json", "png"], "c/b": ["json", "png"]}
    theirs = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    assert {sample["__key__"] for sample in theirs if "json" in sample} == {*found}
