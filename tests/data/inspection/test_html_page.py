from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.inspection import Opened, inspect_data, render_page
from mmcomponents.data.inspection.html_page import data_url, visible
from mmcomponents.data.inspection.sample_view import show_samples

from .conftest import HOSTILE_SOURCE, picture

Open = Callable[..., Opened]
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Collects elements, attributes and text of a page; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def source(open_mixed: Open) -> str:
    opened = open_mixed(delta_log2=[2])
    report = inspect_data(opened, shown=20)
    return render_page(report, show_samples(opened.packs, report.survey.drawn), "<title> & more")


def test_the_page_stands_alone_and_nothing_of_the_data_acts(source: str) -> None:
    page = Page(source)
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "a", "b", "title "})
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href") is None
        assert tag != "img" or str(attributes["src"]).startswith("data:image/png;base64,")
    assert "url(" not in source
    policies = [
        found["content"] for tag, found in page.elements if found.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "\u202e" not in source
    assert "\x1b" not in source


def test_the_page_shows_what_there_is(source: str) -> None:
    text = re.sub(r"\s+", " ", Page(source).text)
    assert text.count("<script>alert('x')</script> {{ 7*7 }} <|im_end|>") == 2  # of the user and of the assistant
    assert HOSTILE_SOURCE.partition("\x1b")[0] + "U+001B" in text
    for wanted in (
        "<title> & more",
        "image 1: 4 × 9 visual tokensdelta 1/4",
        "video 1, frame 4: 4 × 1 visual tokens",
        "chosen<|im_start|>assistant There are three.<|im_end|>",
        "mix-000000/truncated",
        "(found when it was read for this page)",
        "12 samples as the model sees them",
        "a pack takes 800",
        "The one block of the epoch planned.",
    ):
        assert wanted in text
    assert text.count("Skipped samples") == 1
    grids = [found["style"] for _, found in Page(source).elements if "--columns" in (found.get("style") or "")]
    assert "--columns:4;--tile:28px" in grids
    (rule,) = re.findall(r"\.grid img {([^}]*)}", source)
    assert "outline: 1px solid var(--line)" in rule  # a white tile is visible on a white card


def test_texts_are_escaped_and_small_tiles_lose_nothing() -> None:
    assert visible("<b>\u200b") == '&lt;b&gt;<span class="odd" title="ZERO WIDTH SPACE">U+200B</span>'
    for side, kind in ((28, "png"), (448, "jpeg")):
        head, _, data = data_url(picture(side, side)).partition(",")
        assert head == f"data:image/{kind};base64"
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), np.int64)
        assert np.abs(image - np.asarray(picture(side, side))).max() <= (0 if kind == "png" else 40)


def test_a_page_without_samples(open_mixed: Open) -> None:
    report = inspect_data(open_mixed(pack_tiles=None), shown=0)
    page = Page(render_page(report, [], "none"))
    assert "0 samples as the model sees them" in page.text
    assert "tile budget" not in page.text
