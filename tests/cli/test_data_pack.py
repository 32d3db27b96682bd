from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import TimeRemainingColumn

from mmcomponents.cli import data_pack
from mmcomponents.cli.main import main
from mmcomponents.data.annotations import pack
from mmcomponents.data.tokenizer import train_tokenizer

Write = Callable[[str, str], Path]
PACK = ("data", "pack")


@pytest.fixture
def pages(write: Write) -> Path:
    train_tokenizer(["Read the digits in order."] * 3, 300).save_pretrained("tokenizer")
    return write("pages.jsonl", '{"text": "A page."}\n{"text": ""}\n{"text": "[b]Another[/b] page."}\n')


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("mmcomponents: data pack: ")
    return told.err


def test_pages_become_shards(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PACK, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told.out.splitlines() if "│" in line]
    assert rows[0][:3] == ["pages", "2", "1"]
    assert rows[1] == ["empty", "1", "pages.jsonl:2: the document has no text"]
    assert "out: 1 shard with its index, pack.json, recipe.yaml, refused.jsonl" in told.out
    assert main([*PACK, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0
    assert "out: 1 shard with its index (1 finished before)" in capsys.readouterr().out
    settings = ["--out", "out", "--tokenizer", "tokenizer", "--max_tokens", "5", "--max_tiles", "6"]
    error = line_of_error(capsys, *PACK, "pages.jsonl", *settings)
    assert "(max_tiles was 12, is 6; max_tokens was 16384, is 5)" in error
    assert main([*PACK, "--overwrite", "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0


def test_nothing_that_can_be_used_is_an_error(write: Write, pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("bad.jsonl", "{\n")
    error = line_of_error(capsys, *PACK, "bad.jsonl", "--out", "out", "--tokenizer", "tokenizer")
    assert error.endswith("no sample can be used; out/refused.jsonl says why of each\n")
    assert json.loads(Path("out/refused.jsonl").read_text())["code"] == "bad_json"
    write("blank.jsonl", "\n")
    error = line_of_error(capsys, *PACK, "blank.jsonl", "--out", "blank", "--tokenizer", "tokenizer")
    assert error.endswith("there is no sample in the inputs\n")


def test_a_faulty_meta_file_is_one_line(write: Write, pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("meta.json", '{\n  "a": {"annotation": "pages.jsonl"},\n  "b": {"annotation": "pages.jsonl"\n}\n')
    error = line_of_error(capsys, *PACK, "meta.json", "--out", "out", "--tokenizer", "tokenizer")
    assert "meta.json is no JSON: line " in error
    assert not Path("out").exists()


def test_the_bar_tells_what_is_left() -> None:
    bar = data_pack._bar()
    bar.add_task("pack", total=100)
    assert any(isinstance(column, TimeRemainingColumn) for column in bar.columns)


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--out", "o", "--tokenizer", "tokenizer"], "inputs"),
        (["pages.jsonl", "--tokenizer", "tokenizer"], "out"),
        (["pages.jsonl", "--out", "o"], "tokenizer"),
        (["none.jsonl", "--out", "o", "--tokenizer", "tokenizer"], "there is no none.jsonl"),
        (["pages.jsonl", "--out", "o", "--tokenizer", "none"], "there is no tokenizer folder none"),
        (["pages.jsonl", "--out", "o", "--tokenizer", "tokenizer", "--format", "xml"], "format"),
        (["pages.jsonl", "--out", "o", "--tokenizer", "tokenizer", "--max_token", "3"], "did you mean 'max_tokens'?"),
        (["pages.jsonl", "--out", "o", "--tokenizer", "tokenizer", "--max_tiles", "0"], "max_tiles must be at least 1"),
        (["pages.jsonl", "--out", "pages.jsonl", "--tokenizer", "tokenizer"], "pages.jsonl is no folder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    pages: Path, argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in line_of_error(capsys, *PACK, *argv)
    assert not Path("o").exists()


def test_ctrl_c_says_that_the_call_goes_on(
    pages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "write_report", stop)
    assert main([*PACK, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
