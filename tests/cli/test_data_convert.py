from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import TimeRemainingColumn

from mmcomponents.cli.main import main
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.convert import convert

Write = Callable[[str, str], Path]
CONVERT = ("data", "convert")


@pytest.fixture
def pages(write: Write) -> Path:
    train_tokenizer(["Read the digits in order."] * 3, 300).save_pretrained("tokenizer")
    return write("pages.jsonl", '{"text": "A page."}\n{"text": ""}\n{"text": "[b]Another[/b] page."}\n')


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("mmcomponents: data convert: ")
    return printed.err


def test_pages_become_shards(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CONVERT, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.out.splitlines() if "│" in line]
    assert rows[0][:3] == ["pages", "2", "1"]
    assert rows[1] == ["empty", "1", "pages.jsonl:2: the document has no text"]
    assert "out: 1 shard with its index, pack.json, recipe.yaml, refused.jsonl" in printed.out
    assert main([*CONVERT, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0
    assert "out: 1 shard with its index (1 from an earlier call)" in capsys.readouterr().out
    settings = ["--out", "out", "--tokenizer", "tokenizer", "--max_tokens", "5", "--max_tiles", "6"]
    error = line_of_error(capsys, *CONVERT, "pages.jsonl", *settings)
    assert "(max_tiles was 12, is 6; max_tokens was 16384, is 5)" in error
    assert main([*CONVERT, "--overwrite", "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0


def test_the_former_name_still_works(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "pack", "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "mmcomponents: `data pack` is now called `data convert`\n"
    assert "out: 1 shard with its index, pack.json, recipe.yaml, refused.jsonl" in printed.out
    assert len(list(Path("out").glob("*.tar"))) == 1


def test_the_kinds_of_records_are_named(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--out", "out", "--tokenizer", "tokenizer", "--kinds", "Chat"]
    assert main([*CONVERT, "pages.jsonl", *settings, "Document"]) == 0
    capsys.readouterr()
    error = line_of_error(capsys, *CONVERT, "pages.jsonl", *settings, "Documnt")
    assert "no record_kind is called 'Documnt'; did you mean 'Document'?" in error


def test_inputs_without_a_usable_sample_are_an_error(
    write: Write, pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("bad.jsonl", "{\n")
    error = line_of_error(capsys, *CONVERT, "bad.jsonl", "--out", "out", "--tokenizer", "tokenizer")
    assert error.endswith("all samples were skipped; out/refused.jsonl lists the reasons\n")
    assert json.loads(Path("out/refused.jsonl").read_text())["code"] == "bad_json"
    write("blank.jsonl", "\n")
    error = line_of_error(capsys, *CONVERT, "blank.jsonl", "--out", "blank", "--tokenizer", "tokenizer")
    assert error.endswith("the inputs contain no samples\n")


def test_an_invalid_meta_file_is_reported_in_one_line(
    write: Write, pages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("meta.json", '{\n  "a": {"annotation": "pages.jsonl"},\n  "b": {"annotation": "pages.jsonl"\n}\n')
    error = line_of_error(capsys, *CONVERT, "meta.json", "--out", "out", "--tokenizer", "tokenizer")
    assert "meta.json is not JSON: line " in error
    assert not Path("out").exists()


def test_the_progress_bar_shows_the_remaining_time() -> None:
    bar = progress_bar()
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
        (["pages.jsonl", "--out", "pages.jsonl", "--tokenizer", "tokenizer"], "pages.jsonl is not a folder"),
    ],
)
def test_errors_are_one_line(pages: Path, argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reason in line_of_error(capsys, *CONVERT, *argv)
    assert not Path("o").exists()


def test_ctrl_c_reports_that_the_call_can_be_resumed(
    pages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(convert, "write_report", stop)
    assert main([*CONVERT, "pages.jsonl", "--out", "out", "--tokenizer", "tokenizer"]) == 130
    assert capsys.readouterr().err == "stopped; run the same command again to resume\n"
