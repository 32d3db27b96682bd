"""JSON lists, Parquet files and folders of `datasets` give the shards that the same annotations give as lines."""

from __future__ import annotations

import base64
import datetime
import json
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.convert.conftest import write_lines
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.convert import ConversionReport, convert_annotations
from mmcomponents.data.convert.inputs import json_list
from mmcomponents.data.convert.inputs.chunks import source_chunks
from mmcomponents.data.convert.inputs.input_files import find_sources
from mmcomponents.data.convert.inputs.json_list import read_elements
from mmcomponents.data.convert.inputs.source import Source
from mmcomponents.data.convert.inputs.table_rows import read_rows
from mmcomponents.data.errors import DataError


@pytest.fixture
def samples(media: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.chdir(media.parent)
    train_tokenizer(["Read the digits in order."] * 3, 300).save_pretrained("tokenizer")
    turns = [{"role": "user", "content": "What [is] {it}? \u00e9"}, {"role": "assistant", "content": 'A "b", ]\\\n'}]
    images = ["one.png", "two.jpg", "gone.png"]
    return [{"id": number, "images": [images[number % 3]], "messages": turns} for number in range(11)]


def records(out: str) -> list[tuple[str, bytes]]:
    found = []
    for shard in sorted(Path(out).glob("*.tar")):
        with tarfile.open(shard) as archive:
            found += [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
    return found


def convert(path: str, out: str, **more: Any) -> ConversionReport:
    return convert_annotations(
        [path], out, "tokenizer", root="media", samples_per_shard=4, **{"num_workers": 1, **more}
    )


@pytest.mark.parametrize("block", [3, 64, 2**20])
@pytest.mark.parametrize("indent", [None, 2])
def test_elements_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None) -> None:
    monkeypatch.setattr(json_list, "_BLOCK", block)
    values = [{"a": '\u00e9\u4f60 ], \\ "'}, 12345, [], {}, "x", [[{"b": [1, 2]}]], -1.5e3, None]
    for ascii_only, start in ((True, ""), (False, "\ufeff \n")):
        path = tmp_path / "list.json"
        path.write_text(start + json.dumps(values, ensure_ascii=ascii_only, indent=indent) + " \n", encoding="utf-8")
        found = list(read_elements(path))
        assert [json.loads(text) for text, _ in found] == values
        for number, (_, end) in enumerate(found, start=1):
            assert [json.loads(text) for text, _ in read_elements(path, end)] == values[number:]
    chunks = [chunk for chunk, _ in source_chunks(0, Source("a", (path,), "list", tmp_path), 3)]
    assert [(chunk.first, chunk.count) for chunk in chunks] == [(1, 3), (4, 3), (7, 2)]


@pytest.mark.parametrize(
    ("text", "told"),
    [(b'[{"a": 1}, {"a"', "is not a JSON list: .* at byte 15"), (b"[1, 2", "is not a JSON list"),
     (b'["\xff"]', "invalid UTF-8"), (b"[" * 100_000, "is not a JSON list"), (b"[1, nul]", "Expecting value at byte 4"),
     (b"[1] [2]", "goes on after its JSON list, at byte 3"), (b"[1,, 2]", "Expecting value at byte 3"),
     (b"[1 2]", "no comma at byte 3"), (b"[, 1]", "Expecting value at byte 1"), (b"[1,]", "Expecting value at byte 3")],
)  # fmt: skip
def test_a_broken_list_is_an_error(tmp_path: Path, text: bytes, told: str) -> None:
    (tmp_path / "list.json").write_bytes(text)
    with pytest.raises(DataError, match=told):
        list(read_elements(tmp_path / "list.json"))


def test_a_list_and_lines_are_equal(samples: list[dict[str, Any]]) -> None:
    write_lines(Path("a.jsonl"), samples)
    lines = convert("a.jsonl", "lines")
    Path("a.json").write_text(json.dumps(samples, indent=1))
    told: list[tuple[int, int]] = []
    listed = convert("a.json", "list", num_workers=2, progress=lambda done, total: told.append((done, total)))
    assert records("list") == records("lines")
    assert (listed.codes, listed.totals.lines) == (lines.codes, 11)
    assert 0.9 < told[-1][0] / told[-1][1] <= 1
    Path("meta.json").write_text(json.dumps({"a": {"annotation": "a.json", "root": "media", "length": 11}}))
    assert convert("meta.json", "meta").notes == []
    assert records("meta") == records("lines")


def table(samples: list[dict[str, Any]], media: Path) -> pa.Table:
    """Returns samples as a data set of the hub: bytes in the table, and columns that most rows leave empty."""
    rows = []
    for sample in samples:
        path = media / sample["images"][0]
        image = {"bytes": path.read_bytes() if path.is_file() else None, "path": path.name}
        rows.append({**sample, "images": [image], "rejected_response": None, "score": float("nan")})
    return pa.Table.from_pylist(rows)


def test_tables_and_lines_are_equal(samples: list[dict[str, Any]], media: Path) -> None:
    write_lines(Path("a.jsonl"), samples)
    lines = convert("a.jsonl", "lines")
    whole = table(samples, media)
    pq.write_table(whole, "a.parquet", row_group_size=3)
    report = convert("a.parquet", "parquet", num_workers=2)
    assert records("parquet") == records("lines")
    assert report.codes == lines.codes == {"missing_file": 3}
    Path("hub").mkdir()
    for number, part in enumerate((whole.slice(0, 5), whole.slice(5))):
        pq.write_table(part, f"hub/train-{number:05d}-of-00002.parquet")
    pq.write_table(whole.slice(0, 2), "hub/validation-00000-of-00001.parquet")
    found = find_sources(["hub"], "media")
    assert [(source.name, source.rows, source.part) for source in found] == [
        ("train", (5, 6), "train"), ("validation", (2,), "val")
    ]  # fmt: skip
    convert("hub", "hubbed")
    assert [name for name, _ in records("hubbed")][: len(records("parquet"))] == [
        name for name, _ in records("parquet")
    ]


def test_a_folder_of_datasets(samples: list[dict[str, Any]], media: Path) -> None:
    for split in ("train", "test"):
        folder = Path("saved") / split
        folder.mkdir(parents=True)
        with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file:
            whole = table(samples[:3] if split == "test" else samples, media)
            with pa.ipc.new_stream(file, whole.schema) as stream:
                stream.write_table(whole, max_chunksize=4)
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    Path("saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    train, test = find_sources(["saved"], None)
    assert (train.name, train.rows, test.name, test.part) == ("saved-train", (11,), "saved-test", "test")
    assert [source.name for source in find_sources(["saved/test"], None)] == ["test"]
    report = convert("saved", "out")
    assert {name: part.totals.samples for name, part in report.sources.items()} == {"saved-train": 8, "saved-test": 2}


def test_values_of_tables(tmp_path: Path) -> None:
    row = {
        "text": "a",
        "date": datetime.date(2026, 1, 2),
        "at": datetime.datetime(2026, 1, 2, 3),
        "price": Decimal("1.50"),
        "raw": b"12",
        "image": {"bytes": None, "path": "x.png"},
        "none": None,
        "long": datetime.timedelta(seconds=90),
        "nested": [{"score": float("inf")}],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    (found,) = read_rows([tmp_path / "a.parquet"], [1], 0, 1)
    assert found == {
        "text": "a",
        "date": "2026-01-02",
        "at": "2026-01-02T03:00:00",
        "price": "1.50",
        "long": "0:01:30",
        "raw": f"data:;base64,{base64.b64encode(b'12').decode()}",
        "image": "x.png",
        "nested": [{"score": None}],
    }
