from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import open_shard
from mmcomponents.demos.handwriting.builder import make_handwriting

Write = Callable[[str, str], Path]
Capture = pytest.CaptureFixture[str]

RECIPE = """
model: {projector: {class_path: no.such.Part}}
data:
  train: train-*.tar
  tokenizer: tokenizer
  tokens_per_tile: 4
  pack_tokens: ${trainer.max_steps}
  sources: {plain: {repeat: 2}}
trainer: {max_steps: 64}
"""
SHARDS = ("train-000000.tar", "train-000001.tar")
HOSTILE = "\x1b[31m[red]"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    tokenizer = train_tokenizer(["some words to learn"] * 2, 290)
    tokenizer.save_pretrained(folder / "tokenizer")
    for shard, name in enumerate(SHARDS):
        with open_shard(folder / name) as writer:
            for number in range(10):
                text = "word " * (3 + number + (140 if number == 9 and shard else 0))
                writer.write(f"{number}", {"text": text, "source": ("plain", HOSTILE)[shard]})
        build_index(folder / name, tokenizer)
    return folder


@pytest.fixture(autouse=True)
def here(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shards)


def found(capsys: Capture, *argv: str) -> dict[str, Any]:
    assert main(["data", "inspect", *argv, "--json"]) == 0
    printed = capsys.readouterr()
    figures: dict[str, Any] = json.loads(printed.out)
    return figures


def refused(capsys: Capture, *argv: str) -> str:
    assert main(["data", "inspect", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_shards_are_inspected_without_a_recipe(capsys: Capture) -> None:
    figures = found(capsys, *SHARDS, "--tokenizer", "tokenizer", "--pack_tokens", "128", "--packs_per_step=2")
    assert figures["budgets"] == {"tokens": 128, "tiles": 48}
    assert [source["name"] for source in figures["survey"]["sources"]] == ["plain", HOSTILE]
    assert figures["survey"]["total"]["refused"] == 1
    assert figures["survey"]["text_share"] == 1
    assert figures["survey"]["refusals"][0]["first"]["name"] == "train-000001/9"
    packing = figures["packing"]
    assert packing["packs_per_step"] == 2
    assert packing["token_fill"] == pytest.approx(figures["survey"]["total"]["tokens"] / (128 * packing["packs"]))
    assert figures["page"] is None


def test_a_recipe_is_inspected_without_its_model(capsys: Capture, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE)
    figures = found(capsys, "--config", str(recipe), "--data.pack_tiles", "null", "--trainer.max_steps", "90")
    assert figures["budgets"] == {"tokens": 90, "tiles": None}
    assert [source["passes"] for source in figures["survey"]["sources"]] == [2, 1]
    validation = found(capsys, "--config", str(recipe), "--part", "val", "--data.val", SHARDS[0])
    assert validation["part"] == "val"
    assert [source["passes"] for source in validation["survey"]["sources"]] == [1]


def test_a_recipe_may_name_class_kinds_and_packer(capsys: Capture, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("""
data:
  class_path: mmcomponents.data.PackedDataModule
  init_args: {train: train-*.tar, tokenizer: tokenizer, tokens_per_tile: 4, pack_tokens: 64, kinds: [Document, Chat]}
""")
    plain = found(capsys, "--config", str(recipe))
    assert plain["budgets"] == {"tokens": 64, "tiles": 48}
    named = found(capsys, "--config", str(recipe), "--data.packer", "BalancedPacker", "--data.packing.tokens", "64")
    assert named == plain
    assert found(capsys, *SHARDS, "--tokenizer", "tokenizer", "--packing.tokens", "64", "--packing.block", "9")


def test_shards_are_inspected_with_the_kinds_of_the_other_verbs(capsys: Capture) -> None:
    plain = found(capsys, *SHARDS, "--tokenizer", "tokenizer", "--pack_tokens", "64")
    for kinds in (["Document", "Chat"], ["[Document, Chat]"], ["Document", "{class_path: Chat}"]):
        given = [*SHARDS, "--kinds", *kinds, "--tokenizer", "tokenizer", "--pack_tokens", "64"]
        assert found(capsys, *given)["survey"] == plain["survey"]
    assert "--kinds has no value" in refused(capsys, *SHARDS, "--kinds", "--tokenizer", "tokenizer")
    assert "'Documnt'; did you mean 'Doc" in refused(capsys, *SHARDS, "--tokenizer", "tokenizer", "--kinds", "Documnt")


@pytest.mark.parametrize("verb", ["index", "convert", "inspect"])
def test_help_says_that_inputs_come_first(capsys: Capture, verb: str) -> None:
    with suppress(SystemExit):
        main(["data", verb, "--help"])
    assert "come first" in " ".join(capsys.readouterr().out.split())


def test_figures_for_a_terminal(capsys: Capture) -> None:
    assert main(["data", "inspect", *SHARDS, "--tokenizer", "tokenizer", "--pack_tokens", "128", "--block", "4"]) == 0
    printed = capsys.readouterr()
    assert "\x1b[31m" not in printed.out
    assert "<U+001B>[31m[red]" in printed.out
    for wanted in ("text 100.0%", "all 5 blocks planned", "first fit, order of shards", "a pack takes 128"):
        assert wanted in printed.out
    some = ("--block", "4", "--blocks", "2")
    some += ("--sources.plain.repeat", "1.25")
    assert main(["data", "inspect", *SHARDS, "--tokenizer", "tokenizer", "--pack_tokens", "128", *some]) == 0
    out = capsys.readouterr().out
    assert "from 2 of 6 blocks" in out
    assert "plain: 2 of 10 samples have one more pass in this epoch, and 3 in the next: 1.25 passes on average" in out


def test_a_page_is_written(capsys: Capture, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    figures = found(capsys, *SHARDS, "--tokenizer", "tokenizer", "--html", str(page), "--samples", "4")
    assert figures["page"] == str(page)
    assert len(figures["survey"]["drawn"]) == 4
    text = page.read_text()
    assert all(name in text for name in figures["survey"]["drawn"])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert main(["data", "inspect", *SHARDS, "--tokenizer", "tokenizer", "--html", str(page)]) == 0
    assert f"wrote {page} with 20 samples" in capsys.readouterr().out


def test_the_number_of_visual_tokens_is_that_of_the_recipes_model(capsys: Capture, tmp_path: Path) -> None:
    make_handwriting(tmp_path, scenes=20, held_out=2, val_scenes=2)
    shards, tokenizer = f"{tmp_path}/train-*.tar", f"{tmp_path}/tokenizer"
    recipe = ["--config", "quickstart", "--data.train", shards, "--data.tokenizer", tokenizer]
    expected = found(capsys, *recipe)
    assert found(capsys, *recipe, "--data.tokens_per_tile", "null") == expected
    fewer = ["--model.merger.rows", "4", "--model.merger.columns", "4"]
    less = found(capsys, *recipe, *fewer, "--data.tokens_per_tile", "null")
    assert less == found(capsys, *recipe, "--data.tokens_per_tile", "1") != expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "needs SHARDS, which come first, or --config RECIPE"),
        ("--tokenizer tokenizer train-000000.tar", "'train-000000.tar' is not a flag"),
        ("--tokenizer tokenizer train-000000.tar", "SHARDS come first"),
        ("train-000000.tar", "SHARDS need --tokenizer FOLDER"),
        ("train-000000.tar --tokenizer none", "there is no tokenizer folder none"),
        ("none-*.tar --tokenizer tokenizer", "none-*.tar"),
        ("train-000000.tar --tokenizer tokenizer --pak_tokens 3", "did you mean 'packing.tokens'?"),
        ("train-000000.tar --tokenizer tokenizer --pack_tokens few", "--packing.tokens: Expected a int. Got value: f"),
        ("train-000000.tar --tokenizer tokenizer --pack_tokens 0", "data.packing.tokens must be at least 1"),
        ("train-000000.tar --tokenizer tokenizer --pack_tokens 2", "no sample is left of 10"),
        ("train-000000.tar --tokenizer tokenizer --val x.tar", "no option --val"),
        ("train-000000.tar --tokenizer tokenizer --sources.plian.repeat 2", "did you mean 'plain'?"),
        ("train-000000.tar --config quickstart", "cannot be combined; set data.train"),
        ("--config nosuch", "there is no recipe 'nosuch'"),
        ("--config internvl3/8b", "the recipe has no data section"),
        (
            "--config quickstart --data.pak_tokens 3",
            "unknown key data.pak_tokens (the command line); did you mean 'packing.tokens'?",
        ),
        ("--config quickstart --data.seed x", "data.seed: Expected a int. Got value: x (the command line)"),
        ("--config quickstart --sampels 3", "no option --sampels; did you mean 'samples'?"),
        ("--config quickstart --samples -3", "--samples: takes a whole number"),
        ("--config quickstart --blocks 0", "--blocks: takes a whole number of at least 1"),
        ("--config quickstart --part test", "invalid choice: 'test'"),
        ("--config quickstart --part val --data.val null --data.tokenizer tokenizer", "set data.val"),
        ("--config quickstart --data.kinds [Chatt]", "no record_kind is called 'Chatt'"),
        ("--config quickstart --data.packer recipe_standins.Wide", "Wide is not a packer, a subclass of "),
        ("--config quickstart --data.packer recipe_standins.called", "recipe_standins.called is not a packer"),
        ("--config other.yaml", "packs of a PackedDataModule; OtherData has no open_index"),
        ("--config quickstart --data recipe_standins.OtherData", "OtherData has no open_index"),
        ("--config quickstart --data.class_path nowhere.Data", "data.class_path (the command line): cannot "),
        ("--config quickstart --data.images.tilesize 3", "did you mean 'tile_size'?"),
        ("--config quickstart --html none/page.html", "there is no folder none"),
        ("--config quickstart --html tokenizer", "--html tokenizer is a folder"),
        (
            "--config pipe.yaml",
            "data.loading.allow_pipe (pipe.yaml, as data.allow_pipe): a recipe cannot set this; add ",
        ),
        (
            "--config quickstart --config text.yaml --data.train pipe:true",
            "data.loading.allow_pipe (text.yaml): a recipe cannot set this; add --data.loading.allow_pipe true",
        ),
    ],
)
def test_errors_are_one_line(capsys: Capture, line: str, complaint: str) -> None:
    Path("other.yaml").write_text("data: {class_path: recipe_standins.OtherData}\n")
    Path("text.yaml").write_text("data: {loading: '{allow_pipe: true}'}\n")
    Path("pipe.yaml").write_text("data: {allow_pipe: true, train: 'pipe:true'}\n")
    assert complaint in refused(capsys, *line.split())


def test_help_names_both_usages(capsys: Capture) -> None:
    assert main(["data", "inspect", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "SHARDS … --tokenizer FOLDER" in printed
    assert "--config RECIPE" in printed
