"""Code, recipes, links and files of README.md and of the pages in docs."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmcomponents.cli.recipes.early_check import keys_of
from mmcomponents.cli.recipes.recipe import shipped
from pages import PAGES, README, ROOT, anchors, blocks, name, prose

DOCS = ROOT / "docs"
SIZES = ("1b", "2b", "4b", "8b", "9b", "14b", "38b", "78b")
STAGES = ("-finetune", "-stage1", "-stage2", "-pretrain", "-sft", "-mpo", "-prm")
NO_KEYS = {"model.py", "model.safetensors", "model.chat", "trainer.train", "data.chat"}
"""Names of files and of code, which look like keys of a recipe."""

pages = pytest.mark.parametrize("page", PAGES, ids=name)


@pages
def test_code_can_be_read(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
    for block in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)
    assert not re.findall(r"^```(?!python\n|yaml\n|\n|$).*", page.read_text(), flags=re.MULTILINE), "unknown language"


def test_the_page_about_composing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {"__name__": "compose"}
    with torch.random.fork_rng(devices=[]):
        for page in (DOCS / "compose.md", DOCS / "own_parts.md"):
            for block in blocks(page, "python"):
                exec(compile(block, page.name, "exec"), scope)
    assert capsys.readouterr().out == "(8, 8) torch.Size([3, 64, 64])\n"
    assert torch.isfinite(scope["loss"])
    assert len(scope["answer"].ids) <= 8
    # The part of the other page works in the model.
    model = scope["model"]
    model.projector = scope["GatedProjector"](256, 96)
    assert torch.isfinite(model(scope["batch"]).hidden).all()


@pages
def test_links_and_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, _, anchor in (found.partition("#") for found in re.findall(r"\]\(([^)\s]+)\)", text)):
        file = page.parent / target if target else page
        if target.startswith("http"):
            continue
        assert file.exists(), target
        if anchor.startswith("mmcomponents."):
            assert f"::: {anchor}\n" in file.read_text() + "\n", anchor
        elif anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"
    for file in re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+\.(?:py|ipynb|yaml))", text):
        assert (ROOT / file).exists(), file


def test_the_readme_is_short_and_its_links_are_absolute_on_pypi() -> None:
    text, project = README.read_text(), tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert len(text.splitlines()) <= 150
    (rule,) = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    links = re.findall(r"\]\(([^)]+)\)", text)
    shown = re.findall(r"\]\(([^)]+)\)", re.sub(rule["pattern"], rule["replacement"], text))
    start = project["project"]["urls"]["Repository"] + "/blob/main/"
    assert [link if link.startswith("http") else start + link for link in links] == shown
    assert any(link.startswith("docs/") for link in links)


@pages
def test_keys_of_recipes_exist(page: Path) -> None:
    named = set(re.findall(r"`(?:--)?((?:model|data|trainer)\.\w+)", prose(page)))
    assert named - NO_KEYS <= {*keys_of("fit"), "data.class_path"}


@pytest.mark.parametrize("page", sorted({*(DOCS / "systems").glob("*.md")} - {DOCS / "systems/index.md"}), ids=name)
def test_a_page_of_a_system_names_all_of_its_recipes(page: Path) -> None:
    named = set(re.findall(r"`(\w+/[\w.-]+)`", page.read_text()))
    each = {found.replace("SIZE", size) for found in named for size in SIZES}
    stages = {found + stage for found in named for stage in STAGES}
    own = {found for found in shipped() if found.startswith(f"{page.stem}/")}
    assert own <= named | each | stages
    known = {*shipped(), *(f"ablations/{file.stem}" for file in (ROOT / "recipes" / "ablations").glob("*.yaml"))}
    assert (named | each) & known
    folders = {recipe.partition("/")[0] for recipe in known}
    for found in named - known:
        if found.partition("/")[0] in folders:
            assert {found.replace("SIZE", size) for size in SIZES} & known, found


@pytest.mark.parametrize("page", [README, DOCS / "systems/index.md"], ids=name)
def test_the_tables_of_systems_are_complete(page: Path) -> None:
    linked = set(re.findall(r"^\| \[[^]]+\]\((?:\S*/)?(\w+)\.md\)", page.read_text(), flags=re.MULTILINE))
    assert {file.stem for file in (DOCS / "systems").glob("*.md")} - {"index"} <= linked


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = sorted(re.findall(r"([\w/]+\.md)$", text[text.index("\nnav:") :], flags=re.MULTILINE))
    assert listed == sorted(page.relative_to(DOCS).as_posix() for page in PAGES if page != README)


def test_the_pages_of_the_api_name_what_exists_and_all_that_is_exported() -> None:
    listed = [
        line for page in (DOCS / "api").glob("*.md") for line in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    found = []
    for path in listed:
        module, _, own = path.rpartition(".")
        found.append(getattr(importlib.import_module(module), own))
    packages = {path.rpartition(".")[0] for path in listed}
    for package in (importlib.import_module(path) for path in sorted(packages)):
        for own in getattr(package, "__all__", ()):
            value = getattr(package, own)
            if isinstance(value, type) or inspect.isfunction(value):
                assert any(value is other for other in found), f"{package.__name__}.{own}"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs pip install -e '.[docs]'")
def test_the_documentation_is_built_without_warnings(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "slots" / "projector" / "index.html").exists()
