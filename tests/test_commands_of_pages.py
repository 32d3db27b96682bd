"""Commands and recipes of README.md and of the pages in docs are parsed, without running anything."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml

from mmcomponents.cli.ablation.ablation_spec import make_ablation
from mmcomponents.cli.data import KINDS
from mmcomponents.cli.main import VERBS, main
from mmcomponents.cli.recipes.early_check import TRAINER_VERBS, check_command
from mmcomponents.cli.recipes.recipe import shipped
from mmcomponents.cli.terminal.parser import Parser
from pages import PAGES, ROOT, blocks, commands, name, prose

LINES = {line: page for page in reversed(PAGES) for line in commands(page)}
CALLS = sorted(line for line in LINES if line.startswith("mmcomponents "))
DEEP = ("evaluate", "generate", "import", "export", "data convert", "data inspect", "data preferences", "data steps")
"""Verbs whose commands are run until they miss a file."""


class Parsed(Exception):
    """Ends a command when its options are parsed; has the words that the parser leaves to the recipe."""


def file_of(block: str) -> str | None:
    """Returns the name of a recipe's file, from the comment in its first line."""
    found = re.match(r"# ([\w-]+\.yaml)\b", block)
    return found and found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the working folder, in which are the recipes of all pages and those that commands write."""
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if file := file_of(block):
                (tmp_path / file).write_text(block)
    named = re.findall(r"[\w./-]+/recipe\.yaml", "\n".join(page.read_text() for page in PAGES))
    for file in {tmp_path / found for found in named if not found.startswith(("/", "."))}:
        run = file.parent.name
        bases = [found for found in (run.replace("-", "/", 1), f"{run}/r50-coco", run) if found in shipped()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"extends: {bases[0]}\n" if bases else "data: {tokenizer: data/own/tokenizer}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends every parser of a verb after it has parsed."""
    known, parse = argparse.ArgumentParser.parse_known_args, jsonargparse.ArgumentParser.parse_args

    def own(self: Parser, words: Any = None, namespace: Any = None) -> Any:
        raise Parsed(known(self, words, namespace)[1])

    def of_function(self: jsonargparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        parse(self, *args, **kwargs)
        raise Parsed([])

    monkeypatch.setattr(Parser, "parse_known_args", own)
    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", of_function)


@pytest.mark.parametrize("line", CALLS)
def test_a_command_is_parsed(line: str, folder: Path, parse_only: None) -> None:
    verb, *words = shlex.split(line)[1:]
    if verb in TRAINER_VERBS:
        check_command(verb, [word for word in words if word not in ("--dry_run", "--print_config")])
        return
    with pytest.raises(Parsed) as found:
        main([verb, *words])
    rest = found.value.args[0]
    while rest and verb == "data" and not rest[0].startswith("-"):  # the model and its questions
        rest = rest[1:]
    if rest:
        check_command("fit", rest if "--config" in rest else ["--config", "quickstart", *rest])


@pytest.mark.parametrize("line", [line for line in CALLS if line.removeprefix("mmcomponents ").startswith(DEEP)])
def test_a_command_fails_only_for_missing_files(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"there is no |no checkpoint folder |no such file|cannot be read|no shard|does not exist|not found|no recipe"
        "|is not a folder|no module",
        error,
        re.IGNORECASE,
    ), error
    assert not re.search(r"no option|is missing|are required|belongs to no option", error), error


RECIPES = [
    pytest.param(block, id=f"{name(page)} {file_of(block) or number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "yaml"))
]


@pytest.mark.parametrize("block", RECIPES)
def test_the_keys_of_a_recipe_exist(block: str, folder: Path) -> None:
    tree = yaml.safe_load(block)
    if {"over", "runs"} & tree.keys():
        assert make_ablation(tree, [], {}, [], None).seeds
        return
    if "extends" not in tree:
        block = f"extends: quickstart\n{block}"
    (folder / "recipe-of-the-page.yaml").write_text(block)
    check_command("fit", ["--config", "recipe-of-the-page.yaml"])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_targets_extras_and_verbs_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(page))]
    for line in [*commands(page), *inline]:
        words = line.split()
        if line.startswith(("python benchmarks/", "python examples/")):
            source = (ROOT / words[1]).read_text()
            for flag in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
                assert f'"{flag}"' in source, line
        elif words[:1] == ["make"] and len(words) > 1:
            assert words[1] in targets, line
        elif words[:1] == ["mmcomponents"] and len(words) > 1:
            assert words[1] in VERBS, line
            assert words[1] != "data" or len(words) == 2 or words[2] in KINDS, line
        for names in re.findall(r"(?:mmcomponents|\.)\[([\w,]+)\]", line) if "pip install" in line else ():
            assert set(names.split(",")) <= extras.keys(), line
        for file in re.findall(r"(tests/[\w/]+(?:\.py)?)", line) if line.startswith("pytest") else ():
            assert (ROOT / file).exists(), line
