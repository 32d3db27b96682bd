"""Files that parts read travel with an export."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from mmcomponents.checkpoints import CheckpointError, load
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.positions import V2PE
from mmcomponents.testing import small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder


class Listed(TokenEmbedder):
    """Embedder that reads a list of numbers."""

    files = ("table", "other")

    def __init__(self, vocab_size: int, hidden_size: int, table: str, other: str | None = None) -> None:
        super().__init__(vocab_size, hidden_size)
        self.table, self.other = json.loads(Path(table).read_text()), other
        self.init_weights()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "numbers.json").write_text("[3, 1]")
    parts = small_parts(embedder=partial(Listed, table=str(tmp_path / "far" / "numbers.json")), position=V2PE)
    written = write_folder(Case("embedder", None, parts, text_packs), small_model(**parts), tmp_path)
    shutil.rmtree(tmp_path / "far")
    moved = tmp_path / "elsewhere"
    written.rename(moved)
    return moved


def test_a_folder_holds_them_wherever_it_is(folder: Path) -> None:
    embedder = load(folder, trust_remote_code=True).embedder
    assert (embedder.table, embedder.other) == ([3, 1], None)
    config = json.loads((folder / "config.json").read_text())["model"]["embedder"]
    assert config["init_args"]["table"] == "parts/0-numbers.json"
    assert config["files"] == ["table"]
    assert torch.equal(embedder.embedding_weight(), small_model(embedder=TokenEmbedder).embedder.embedding_weight())


def test_a_file_that_is_missing_or_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "parts" / "0-numbers.json").unlink()
    with pytest.raises(CheckpointError, match=r"Listed reads table: .*0-numbers\.json"):
        load(folder, trust_remote_code=True)
    (tmp_path / "secret").write_text("[]")
    config = json.loads((folder / "config.json").read_text())
    config["model"]["embedder"]["init_args"]["table"] = "../secret"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"Listed reads table: .* outside of the folder"):
        load(folder, trust_remote_code=True)
