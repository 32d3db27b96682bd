"""`mmcomponents words`: table, picture, JSON, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmcomponents.checkpoints import ModelSpec
from mmcomponents.checkpoints.export_folder import format_named, weights_of, write
from mmcomponents.checkpoints.spec import Processing
from mmcomponents.cli.main import main
from mmcomponents.compose import build
from mmcomponents.data.chat.tokenizer import train_tokenizer

PARTS: dict[str, Any] = {
    "vision": {"class_path": "InternViT", "init_args": {"hidden_size": 24, "num_layers": 1, "num_heads": 3,
        "intermediate_size": 40, "image_size": 16, "patch_size": 4}},
    "merger": {"class_path": "PixelUnshuffle"},
    "projector": {"class_path": "MLPProjector"},
    "embedder": {"class_path": "TokenEmbedder"},
    "position": {"class_path": "V2PE"},
    "backbone": {"class_path": "DecoderLM", "init_args": {"hidden_size": 32, "num_layers": 1, "num_heads": 4,
        "intermediate_size": 48}},
    "heads": {"lm": {"class_path": "LMHead"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a tokenizer, and an image of two tiles."""
    path = tmp_path_factory.mktemp("words")
    tokenizer = train_tokenizer(["What is this? It is a cat."] * 4, 400)
    spec = ModelSpec(PARTS, len(tokenizer), tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"), Processing(16))
    model = build(PARTS, spec.vocab_size, spec.image_token_id)
    write(path / "model", spec, weights_of(model.state_dict(), spec), format_named("mmcomponents"))
    tokenizer.save_pretrained(path / "model")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 32, 3), dtype=np.uint8)).save(path / "a.png")
    return path


def test_words_as_a_table_a_picture_and_json(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["words", str(folder / "model"), "--image", str(folder / "a.png"), "--top", "3"]
    out = tmp_path / "words.png"
    assert main([*words, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert [f"a.png, tile {number}" in shown for number in range(4)] == [True, True, True, False]  # with the thumbnail
    assert "0, 1" in shown
    assert f"wrote {out}" in shown
    assert Image.open(out).size == (3 * 180 + 12, 192)
    assert main([*words, "--json", "--max_tiles", "1"]) == 0
    (tile,) = json.loads(capsys.readouterr().out)
    assert tile["grid"] == [2, 2]
    assert [len(token) for token in tile["words"]] == [3] * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "words: --image is missing"),
        (["--image", "a.png", "--out", "a.pdf"], "words: --out a.pdf must end in one of .png, .jpg, .jpeg, .webp"),
        (["--image", "a.png", "--top", "0"], "argument --top: takes a whole number of at least 1, got '0'"),
        (["--image", "nix.png"], "there is no image 'nix.png'"),
    ],
)
def test_errors_are_one_line(
    given: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["words", "model", *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
