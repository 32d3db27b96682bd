"""Code, recipes and links of the pages in docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mmcomponents.cli.recipes.recipe import shipped

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@pages
def test_code_and_recipes_can_be_read(page: Path) -> None:
    for language, block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL):
        if language == "python":
            compile(block, page.name, "exec")
        elif language == "yaml":
            assert isinstance(yaml.safe_load(block), dict)


@pages
def test_links_and_files_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for file in re.findall(r"`((?:tests|benchmarks|examples)/[\w/.]+\.py)", text):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name == "systems"], ids=lambda page: page.stem)
def test_a_page_of_a_system_names_all_of_its_recipes(page: Path) -> None:
    named = set(re.findall(r"`(\w+/[\w.-]+)`", page.read_text()))
    stages = {name + stage for name in named for stage in ("-finetune", "-stage1", "-stage2")}
    own = {name for name in shipped() if name.startswith(f"{page.stem}/")}
    assert own
    assert own <= named | stages
