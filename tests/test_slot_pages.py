"""The pages of the slots: their tables list all parts, and their examples of new parts pass contract tests.

After a part was added, `WRITE_DOCS=1 pytest tests/test_slot_pages.py` writes the tables again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcomponents import registry
from pages import README, ROOT, blocks

PAGES = ROOT / "docs" / "slots"
BEGIN, END = "<!-- parts: tests/test_slot_pages.py -->", "<!-- end of the parts -->"
HEAD = "| slot | what it does | parts |\n|---|---|---|\n"
slots = pytest.mark.parametrize("slot", list(registry.slots()))


def own_parts(slot: str) -> list[registry.Part]:
    """Returns the parts of this library for a slot."""
    return [part for part in registry.available(slot) if part.package == registry.PACKAGE]


def table_of_parts(slot: str) -> str:
    rows = [f"| `{part.name}` | {part.summary().replace('|', chr(92) + '|')} |" for part in own_parts(slot)]
    return "\n".join(["| part | what it is |", "|---|---|", *rows])


def table_of_slots(link: str) -> str:
    """Returns the table of all slots; `link` has the place of a slot's page."""
    rows = []
    for slot in registry.slots():
        purpose = page(slot).read_text().partition("\n\n")[2].partition("\n\n")[0].replace("\n", " ")
        names = ", ".join(f"`{part.name}`" for part in own_parts(slot))
        rows.append(f"| [{slot}]({link.format(slot=slot)}) | {sentence(purpose)} | {names} |\n")
    return HEAD + "".join(rows)


def sentence(text: str) -> str:
    """Returns the first sentence of a paragraph, without its links and what follows a colon."""
    first = re.split(r"(?<=[a-z)])[.:] ", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))[0]
    return first[:1].lower() + first[1:].rstrip(".")


def page(slot: str) -> Path:
    return PAGES / f"{slot}.md"


def check(file: Path, found: str, wanted: str) -> None:
    """Compares a table of a page with what it should be; with WRITE_DOCS=1, writes it."""
    if os.environ.get("WRITE_DOCS"):
        file.write_text(file.read_text().replace(found, wanted))
    assert wanted in file.read_text(), f"{file.relative_to(ROOT)}: run this test with WRITE_DOCS=1"


@slots
def test_a_page_lists_all_parts_of_its_slot(slot: str) -> None:
    text = page(slot).read_text()
    start, end = text.index(BEGIN), text.index(END)
    check(page(slot), text[start:end], f"{BEGIN}\n\n{table_of_parts(slot)}\n\n")


@pytest.mark.parametrize(
    ("file", "link"),
    [
        (PAGES / "index.md", "{slot}.md"),
        (README, "docs/slots/{slot}.md"),
    ],
    ids=["index", "README"],
)
def test_a_table_lists_all_slots(file: Path, link: str) -> None:
    found = re.search(re.escape(HEAD) + r"(?:\|.*\n)*", file.read_text())
    assert found
    check(file, found[0], table_of_slots(link))


@slots
def test_a_page_has_contract_parts_and_a_short_part_of_ones_own(slot: str) -> None:
    text = page(slot).read_text()
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == ["Contract", "Parts", "One of your own"]
    assert f"`{registry.slots()[slot].replace('data.chat.kinds.', 'data.chat.')}`" in text, "the base class is named"
    assert 0 < sum(len(block.splitlines()) for block in blocks(page(slot), "python")) < 100


@slots
def test_the_part_of_ones_own_runs(slot: str) -> None:
    scope: dict[str, Any] = {"__name__": f"page_of_{slot}"}
    with torch.random.fork_rng(devices=[]):
        for block in blocks(page(slot), "python"):
            exec(compile(block, f"docs/slots/{slot}.md", "exec"), scope)
    base = registry.imported(registry.slots()[slot])
    own = [value for value in scope.values() if isinstance(value, type) and value.__module__ == scope["__name__"]]
    assert [value for value in own if issubclass(value, base)]
