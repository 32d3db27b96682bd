"""What a release consists of: one version everywhere, a changelog of a page or two, and one repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from mmcomponents import __version__

ROOT = Path(__file__).parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
URL = re.compile(r"https://github\.com/([\w.-]+)/mmcomponents\b")


def test_all_files_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    newest = re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG, re.MULTILINE)[0]
    assert newest == __version__


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\]( - \d{4}-\d\d-\d\d)?", heading) for heading in headings[1:])
    assert len(CHANGELOG.splitlines()) <= 150


def test_the_repository_is_named_in_one_place() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    assert len({URL.match(url)[1] for url in urls.values() if URL.match(url)}) == 1
    texts = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.*")]
    assert not [path.name for path in texts if URL.search(path.read_text(encoding="utf-8"))]
