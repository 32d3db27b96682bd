from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest

from mmcomponents.cli.data_index import inputs_first
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.shards import open_shard

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    train_tokenizer(["some words to learn"] * 2, 290).save_pretrained(tmp_path / "tokenizer")
    for name in ("a", "b"):
        with open_shard(tmp_path / f"{name}.tar") as shard:
            for number in range(30):
                shard.write(
                    f"{number}" if number else "0\x1b[7m",
                    {"text": "word"} if number else {"caption": "\x1b[31m[red]", "[b]\x1b[1m": 1},
                )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_samples_are_counted(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mmcomponents"), "propagate", False)  # as without handlers of pytest
    assert main(["data", "index", "a.tar", "--tokenizer", "tokenizer", "b.tar"]) == 0
    printed, logged = capsys.readouterr()
    assert printed.startswith("indexed 2 shards: 60 samples, 58 usable, 2 skipped\n")
    assert 'matches its keys "[b]\\u001b[1m", "caption"' in printed
    assert "│       2 │ a/0<U+001B>[7m" in printed
    assert "a/0<U+001B>[7m cannot be used: " in logged
    assert "\x1b" not in printed + logged
    assert (folder / "b.index.safetensors").is_file()
    assert main(["data", "index", "--tokenizer=tokenizer", "a.tar"]) == 0
    assert capsys.readouterr().out.startswith("indexed 1 shard: 30 samples")


def test_an_index_without_usable_samples_is_an_error_and_replaces_none_with_some(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "999")
    wrong = ["data", "index", "a.tar", "--kinds", "Chat", "Pair", "--tokenizer", "tokenizer"]
    assert main(wrong) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("indexed 1 shard: 30 samples, 0 usable, 30 skipped\n")
    assert "(chat, pair)" in printed.out
    assert printed.err.endswith("data index: no sample can be used; --kinds names the record kinds of other packages\n")
    assert main(["data", "index", "a.tar", "--tokenizer", "tokenizer"]) == 0
    good = (folder / "a.index.safetensors").read_bytes()
    capsys.readouterr()
    assert main(wrong) == 2
    printed = capsys.readouterr()
    assert printed.out.startswith("indexed 0 shards: 0 samples, 0 usable, 0 skipped\n")
    assert "none of its 30 samples can be used (wrong JSON: no kind of record (chat, pair) matches" in printed.out
    assert "its index with 29 usable ones is kept: name the record kinds with --kinds, or remove" in printed.out
    assert (folder / "a.index.safetensors").read_bytes() == good
    with (folder / "a.tar").open("ab") as shard:  # now another shard, whose index is of no use
        shard.write(bytes(512))
    assert main(wrong) == 2
    assert (folder / "a.index.safetensors").read_bytes() != good


def test_a_shard_without_an_index_makes_the_command_fail(folder: Path, capsys: Capture) -> None:
    (folder / "a.tar").write_bytes(gzip.compress((folder / "a.tar").read_bytes()))
    (folder / "c.tar.gz").touch()
    assert main(["data", "index", ".", "--tokenizer", "tokenizer"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("indexed 1 shard: 30 samples")
    assert printed[1] == "note: skipped 1 compressed archive in . (c.tar.gz): unpack to .tar first"
    (line,) = [line for line in printed if "a.tar" in line]
    assert line.split("│")[2].strip() == "is compressed; gunzip it first"
    assert (folder / "b.index.safetensors").is_file()
    assert not (folder / "a.index.safetensors").exists()


def test_an_invalid_call_writes_nothing(folder: Path, capsys: Capture) -> None:
    for more, complaint in (
        (["--frame_template", "x"], "must have <image> once"),
        (["no.tar"], "no.tar does not exist"),
        (["--tokenizers", "t"], "did you mean 'tokenizer'?"),
        (["--out"], "--out: expected one argument"),
        (["--kinds", "Chat", "Documnt"], "no record_kind is called 'Documnt'; did you mean 'Document'?"),
        (["--kinds", "os.mkdir"], "os.mkdir is not a record_kind, a subclass of "),
    ):
        assert main(["data", "index", ".", "--tokenizer", "tokenizer", *more]) == 2
        printed = capsys.readouterr()
        assert complaint in printed.err
        assert printed.err.count("\n") == 1
    assert list(folder.glob("*.safetensors")) == []


@pytest.mark.parametrize(
    ("given", "sorted_"),
    [
        ("a b --tokenizer t", "a b --tokenizer t"),
        ("a --tokenizer t b --out=o c", "a b c --tokenizer t --out=o"),
        ("--tokenizer t a", "a --tokenizer t"),
        ("a --overwrite b --out", "a b --overwrite --out"),
        ("a -h b", "a b -h"),
        ("a --kinds k l --tokenizer t b", "a b --kinds k l --tokenizer t"),
        ("a --kinds=k b", "a b --kinds=k"),
    ],
)
def test_inputs_may_stand_anywhere(given: str, sorted_: str) -> None:
    assert inputs_first(given.split(), {"--overwrite"}) == sorted_.split()
