"""Tests of the complete conversion: the output folder, equal bytes in all cases, and resuming."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.convert import ConversionReport, convert_annotations, workers
from mmcomponents.data.convert.inputs.chunks import Chunk
from mmcomponents.data.datamodule import PackedDataModule
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import index_shards
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import find_shards
from mmcomponents.data.packing.source_options import SourceOptions
from mmcomponents.data.settings import ImageSettings

from .conftest import write_lines


@pytest.fixture
def data(tmp_path: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two data sets of a meta file, a folder of texts, and a tokenizer, in the working directory."""
    monkeypatch.chdir(tmp_path)
    made = train_tokenizer(["Read the digits in order."] * 3, 300)
    made.save_pretrained(str(tmp_path / "tokenizer"))
    said = {"from": "gpt", "value": "That."}
    ask = {"from": "human", "value": "What?"}
    images = ["one.png", "two.jpg", "broken.png", "nothing.png"]
    samples = [{"id": n, "image": images[n % 4], "conversations": [ask, said]} for n in range(30)]
    write_lines(tmp_path / "chat.jsonl", samples)
    pairs = [{"question": f"{n}?", "chosen": "Yes", "rejected": "No" if n % 5 else "Yes"} for n in range(12)]
    write_lines(tmp_path / "pairs.jsonl", pairs)
    meta = {
        "chat v1": {
            "root": "media",
            "annotation": "chat.jsonl",
            "data_augment": False,
            "max_dynamic_patch": 6,
            "repeat_time": 2,
            "length": 31,
        },
        "pairs": {"annotation": "pairs.jsonl", "repeat_time": 1, "data_augment": True},
    }
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "books").mkdir()
    for number in range(3):
        (tmp_path / f"books/{number}.txt").write_text("Read the digits in order.\n\n" * (1 + 40 * number))
    return tmp_path


ARGUMENTS: dict[str, Any] = {"tokenizer": "tokenizer", "samples_per_shard": 4, "split_documents": 200}


def pack(out: str, **more: Any) -> ConversionReport:
    return convert_annotations(["meta.json", "books"], out, **{**ARGUMENTS, "num_workers": 1, **more})


def files(out: str | Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*")) if path.is_file()}


def test_a_folder_is_packed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    report = pack("out", progress=lambda done, total: told.append((done, total)))
    names = {path.name for path in Path("out").glob("*.tar")}
    assert names == {
        *(f"chat_v1-00000{n}.tar" for n in range(8)), *(f"pairs-00000{n}.tar" for n in range(3)), "books-000000.tar"
    }  # fmt: skip
    index = Index.open(sorted(map(str, Path("out").glob("*.tar"))), load_tokenizer("tokenizer"))
    assert index.problems == {}
    assert len(index) == report.totals.samples
    assert set(index.sources) == {"chat v1", "pairs", "books"}
    chat = report.sources["chat v1"]
    assert (chat.totals.samples, chat.codes) == (16, {"broken_image": 7, "missing_file": 7})
    assert (report.sources["pairs"].totals.samples, report.codes["equal_answers"]) == (9, 3)
    assert report.sources["books"].totals.documents_cut == 2
    assert report.notes == ["chat v1: 31 lines according to the meta file, 30 in the file"]
    assert report.found == 0
    refused = [json.loads(line) for line in Path("out/refused.jsonl").read_text().splitlines()]
    assert [(r["source"], r["line"], r["id"]) for r in refused[:3]] == [
        ("chat v1", 3, 2), ("chat v1", 4, 3), ("chat v1", 7, 6)
    ]  # fmt: skip
    assert len(refused) == report.totals.refused == 17
    assert report.examples["equal_answers"] == refused[14]
    written = json.loads(Path("out/pack.json").read_text())
    assert written["sources"]["pairs"]["samples"] == 9
    assert written["sources"]["pairs"]["refused"] == {"equal_answers": 3}
    assert written["settings"]["max_tokens"] == 16384
    recipe = yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]
    assert recipe == {
        "tokenizer": str(data / "tokenizer"),
        "tokens_per_tile": 256,
        "images": {"tile_size": 448},
        "train": [str(data / "out" / f"{name}-??????.tar") for name in ("chat_v1", "pairs", "books")],
        "sources": {"chat v1": {"repeat": 2.0, "max_tiles": 6, "jpeg": False}},
    }
    monkeypatch.chdir("/")
    assert len(find_shards(recipe["train"])) == len(names)
    monkeypatch.chdir(data)
    assert SourceOptions(**recipe["sources"]["chat v1"]).max_tiles == 6
    size = sum(Path(name).stat().st_size for name in ("chat.jsonl", "pairs.jsonl", *map(str, Path("books").glob("*"))))
    assert told[-1] == (size, size)
    assert told == sorted(told)


def test_a_recipe_finds_its_shards_in_any_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_annotations(["pairs.jsonl"], "odd [1] {a,b}", "tokenizer", samples_per_shard=4, num_workers=1)
    recipe = yaml.safe_load(Path("odd [1] {a,b}/recipe.yaml").read_text())["data"]
    assert list(recipe) == ["tokenizer", "train"], "without images and options of the source"
    monkeypatch.chdir("/")
    assert find_shards(recipe["train"]) == [str(data / f"odd [1] {{a,b}}/pairs-00000{n}.tar") for n in range(3)]


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train", "val", "test"], {"train": ["train"], "val": ["val"], "test": ["test"]}),
        (["digits-dev", "b.Validation"], {"val": ["b_Validation", "digits_dev"]}),
        (["latest", "value", "train_test", "val_test"], {"train": ["latest", "train_test", "val_test", "value"]}),
    ],
)
def test_the_names_of_files_tell_the_parts_of_the_data(data: Path, names: list[str], parts: dict[str, Any]) -> None:
    (data / "lines").mkdir()
    for name in names:
        write_lines(data / f"lines/{name}.jsonl", [{"text": "Read."}])
    convert_annotations(["lines"], "out", "tokenizer", num_workers=1)
    found = yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]
    assert found.pop("tokenizer") == str(data / "tokenizer")
    assert found == {part: [str(data / f"out/{name}-??????.tar") for name in mine] for part, mine in parts.items()}


def test_a_recipe_names_the_kinds_of_the_call(data: Path) -> None:
    convert_annotations(["pairs.jsonl"], "out", "tokenizer", num_workers=1, kinds=["Chat", "Pair"])
    assert yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]["kinds"] == ["Chat", "Pair"]


def test_boxes_that_cannot_be_read_are_counted(data: Path) -> None:
    said = {"from": "gpt", "value": "<box>[[1, 2]]</box>"}
    samples = [{"conversations": [{"from": "human", "value": "?"}, said]}] * 3
    write_lines(data / "boxes.jsonl", samples)
    for found in (0, 2):  # the second call finds it in the notes of the first
        report = convert_annotations(["boxes.jsonl"], "out", "tokenizer", samples_per_shard=2, num_workers=1)
        (note,) = report.notes
        assert note.startswith("invalid boxes in 3 samples, first boxes.jsonl:1: a box: '[[1, 2]]' is not a list")
        assert report.found == found
    assert json.loads(Path("out/pack.json").read_text())["sources"]["boxes"]["bad_boxes"] == 3


def test_the_same_bytes_after_sigkill_with_two_processes(data: Path) -> None:
    pack("straight")
    script = f"""
import os, signal
from pathlib import Path
from mmcomponents.data.convert import convert_annotations

def kill(done, total):
    if len(list(Path("killed/.pack").glob("*.tar.json"))) >= 2:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    convert_annotations(["meta.json", "books"], "killed", num_workers=2, progress=kill, **{ARGUMENTS!r})
"""
    (data / "call.py").write_text(script)
    call = subprocess.run([sys.executable, "call.py"], capture_output=True, text=True, timeout=120)
    assert call.returncode == -signal.SIGKILL, call.stderr
    done = len(list((data / "killed/.pack").glob("*.tar.json")))
    assert 2 <= done < 12, "not in the middle"
    assert not (data / "killed/refused.jsonl").exists()
    time.sleep(0.3)  # the processes exit after their parent
    report = pack("killed", num_workers=2)
    assert report.found >= done
    wanted, found = files("straight"), files("killed")
    recipe = found.pop("recipe.yaml").decode().replace("killed/", "straight/")
    assert recipe == wanted.pop("recipe.yaml").decode()
    assert found == wanted
    assert pack("killed").found == 12
    assert files("killed").keys() == {*wanted, "recipe.yaml"}


def test_a_shard_that_is_gone_is_made_again(data: Path) -> None:
    pack("out")
    before = files("out")
    Path("out/pairs-000001.tar").unlink()
    Path("out/chat_v1-000000.tar").write_bytes(b"short")
    Path("out/books-000000.index.safetensors").unlink()
    Path("out/.pairs-000001.tar.77.tmp").touch()
    assert pack("out").found == 9
    assert files("out") == before


def test_other_settings_and_inputs_are_not_mixed(data: Path) -> None:
    pack("out")
    with pytest.raises(DataError, match=r"other settings or inputs \(samples_per_shard was 4, is 5\): give another"):
        pack("out", samples_per_shard=5)
    with (data / "pairs.jsonl").open("a") as file:
        file.write('{"text": "A page."}\n')
    with pytest.raises(DataError, match=r"\(the input pairs has changed\)"):
        pack("out")
    (data / "out/mine.txt").touch()
    report = pack("out", samples_per_shard=50, overwrite=True)
    assert report.sources["pairs"].totals.samples == 10
    assert sorted(path.name for path in Path("out").glob("*.tar")) == [
        "books-000000.tar", "chat_v1-000000.tar", "pairs-000000.tar"
    ]  # fmt: skip
    assert len(list(Path("out").glob("*.index.*"))) == 3
    assert Path("out/mine.txt").exists()


def test_a_folder_of_others_is_left_alone(data: Path) -> None:
    Path("out").mkdir()
    Path("out/train-000000.tar").touch()
    with pytest.raises(DataError, match=r"out has shards that this command did not write, such as train-000000\.tar"):
        pack("out", overwrite=True)
    Path("file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        pack("file")


def test_two_calls_do_not_pack_into_one_folder(data: Path) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(DataError, match="another call is writing to out"):
            pack("out")
        seen.append(done)

    seen: list[int] = []
    pack("out", progress=again)
    assert seen


def test_inputs_that_change_meanwhile_are_told(data: Path) -> None:
    with pytest.raises(DataError, match="the input pairs changed during the conversion"):
        pack("out", progress=lambda done, total: os.utime("pairs.jsonl"))


def test_a_process_that_dies_is_told(data: Path) -> None:
    others = set(multiprocessing.active_children())  # such as the ranks that tests share

    def kill(done: int, total: int) -> None:
        started = set(multiprocessing.active_children()) - others
        for process in started if list(Path("out/.pack").glob("*.tar.json")) else ():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(
        DataError, match=r"converted .*-00000\d\.tar \(lines of .*jsonl \d+ to \d+\) was ended by signal SIGKILL"
    ):
        pack("out", num_workers=2, progress=kill)
    assert pack("out").found >= 1


def test_faults_of_processes_reach_the_caller(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = object()  # causes an error in each process
    before = set(multiprocessing.active_children())
    monkeypatch.setattr(workers, "_death", lambda *_: AssertionError("it died without a word"))
    with pytest.raises(RuntimeError, match="AttributeError: 'object' object has no attribute 'tokenizer'"):
        list(workers.convert_in_processes(job, iter([Chunk(0, 0, 0, 1, 1, 1)] * 3), 2, lambda *_: None))
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"split_documents": 3}, "split_documents must be at least 16, not 3"),
        ({"max_tokens": 100}, "pieces of 200 tokens are longer than max_tokens, 100"),
        ({"num_workers": 0}, "num_workers must be at least 1, not 0"),
        ({"frame_template": "Frame"}, "must have <image> once"),
        ({"val": 1}, "val must be a share from 0 to less than 1"),
        ({"allowed_tokens": ["<loc>"]}, "allowed_tokens: '<loc>' is no added token of tokenizer; its others are none"),
        ({"allowed_tokens": ["<|im_end|>"]}, "belongs to the chat template"),
        ({"tokenizer": "nothing"}, "there is no tokenizer folder nothing"),
    ],
)
def test_wrong_settings(data: Path, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        pack("out", **arguments)
    assert not Path("out").exists()


def test_a_failed_call_does_not_occupy_its_folder(data: Path) -> None:
    """Without a sample, or after an error, the next call may have other settings; an interrupted call is protected."""
    convert_annotations(["chat.jsonl"], "out", "tokenizer", root="books", num_workers=1)
    assert not list(Path("out").glob("*.tar"))
    report = convert_annotations(["chat.jsonl"], "out", "tokenizer", root="media", num_workers=1)
    assert report.totals.samples == 16
    with pytest.raises(DataError, match="other settings or inputs"):
        pack("out")
    with pytest.raises(DataError, match="the input pairs changed during the conversion"):
        pack("failed", progress=lambda done, total: os.utime("pairs.jsonl"))
    assert list(Path("failed").glob("*.tar"))
    assert pack("failed", samples_per_shard=5).found == 0
    with pytest.raises(DataError, match="other settings or inputs"):
        pack("failed")


def test_a_share_of_the_samples_is_for_validation(data: Path) -> None:
    whole = pack("whole")
    report = pack("out", val=0.3, num_workers=2)
    assert report.totals.samples == whole.totals.samples
    assert report.notes[0] == whole.notes[0], "lines of both shares are counted together"
    assert report.notes[1:] == ["books: no sample was drawn for validation"]
    recipe = yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]
    tokenizer = load_tokenizer("tokenizer")
    parts = {part: Index.open(find_shards(recipe[part]), tokenizer) for part in ("train", "val")}
    names = {part: {index.name(n).partition("/")[2] + index.sources[index.source(n)] for n in range(len(index))}
             for part, index in parts.items()}  # fmt: skip
    assert not names["train"] & names["val"]
    assert min(map(len, names.values())) > 0
    assert len(names["train"] | names["val"]) == whole.totals.samples
    assert set(parts["val"].sources) <= set(parts["train"].sources)
    again = pack("one", val=0.3, samples_per_shard=100)
    assert again.sources["pairs (val)"].totals.samples == report.sources["pairs (val)"].totals.samples
    assert pack("out", val=0.3).found > 0


def test_a_run_has_the_tiles_of_the_conversion(data: Path) -> None:
    convert_annotations(
        ["chat.jsonl"], "out", "tokenizer", root="media", num_workers=1, tile_size=112, tokens_per_tile=16
    )
    recipe = yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]
    assert (recipe["images"], recipe["tokens_per_tile"]) == ({"tile_size": 112}, 16)

    def opened(tile_size: int, tokens_per_tile: int) -> Index | None:
        images = ImageSettings(tile_size=tile_size)
        module = PackedDataModule(recipe["tokenizer"], tokens_per_tile, train=recipe["train"], images=images)
        return module.open_index("train")

    assert len(opened(112, 16) or []) == 16
    for other in ((28, 16), (112, 4)):
        told = (
            rf"for tiles of 112 pixels with 16 visual tokens, the run has tiles of {other[0]} pixels with {other[1]}:"
        )
        with pytest.raises(DataError, match=told):
            opened(*other)
    convert_annotations(["books"], "texts", "tokenizer", num_workers=1)
    texts = PackedDataModule("tokenizer", 1, train="texts/*.tar", images=ImageSettings(tile_size=28))
    assert len(texts.open_index("train") or []) == 3, "without images, tiles do not matter"
    index_shards(recipe["train"], "tokenizer")
    assert len(opened(28, 4) or []) == 16, "an index of its own is for any tiles"


def test_special_tokens_in_texts(data: Path) -> None:
    tokenizer = load_tokenizer("tokenizer")
    tokenizer.add_tokens(["<loc>", "<SEG>"], special_tokens=True)
    tokenizer.save_pretrained("located")
    ask, said = {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "<loc>4 <SEG>"}
    write_lines(data / "loc.jsonl", [{"conversations": [ask, said]}])
    report = convert_annotations(["loc.jsonl"], "spelled", "located", num_workers=1)
    assert "<loc> (1), <SEG> (1); --allowed_tokens makes them single tokens" in report.notes[0]
    report = convert_annotations(["loc.jsonl"], "out", "located", num_workers=1, allowed_tokens=["<loc>"])
    assert report.notes[0].startswith(
        "special tokens in texts are encoded as plain text, by number of samples: <SEG> (1);"
    )
    recipe = yaml.safe_load(Path("out/recipe.yaml").read_text())["data"]
    assert recipe["text"] == {"allowed_tokens": ["<loc>"]}
    allowed = load_tokenizer("located", ["<loc>"])
    number = allowed.convert_tokens_to_ids("<loc>")
    with pytest.raises(DataError, match="another tokenizer, chat template or allowed_tokens"):
        Index.open(find_shards(recipe["train"]), load_tokenizer("located"))
    index = Index.open(find_shards(recipe["train"]), allowed)
    ids = render_chat([{"role": "user", "content": "?"}, {"role": "assistant", "content": "<loc>4 <SEG>"}], allowed, [])
    assert ids.input_ids.count(number) == 1
    assert allowed.convert_tokens_to_ids("<SEG>") not in ids.input_ids
    assert len(index) == 1
    allowed.save_pretrained("saved")
    assert fingerprint(load_tokenizer("saved")) == fingerprint(allowed) != fingerprint(load_tokenizer("located"))
