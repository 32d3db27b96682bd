from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipe_standins import Data, Task

from mmcomponents.cli import data as data_verb
from mmcomponents.cli import generate as generate_verb
from mmcomponents.cli.main import main
from mmcomponents.data.errors import DataError

Write = Callable[[str, str], Path]


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    return told.err


def test_components_lists_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["components", "projector"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["slot", "name", "package"]
    rows = [line.split()[:3] for line in lines[1:]]
    assert ["projector", "LinearProjector", "mmcomponents"] in rows
    assert {row[0] for row in rows} == {"projector"}
    assert main(["components", "--json", "--arguments", "projector"]) == 0
    arguments = {row["name"]: row["arguments"] for row in json.loads(capsys.readouterr().out)}
    assert list(arguments["LinearProjector"])[:2] == ["in_features", "out_features"]
    assert "did you mean 'projector'?" in line_of_error(capsys, "components", "projektor")
    assert "--jsn" in line_of_error(capsys, "components", "--jsn")


def test_a_part_that_cannot_be_imported_does_not_end_the_listing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("odd-1.0.dist-info/METADATA", "Name: odd\nVersion: 1.0\n")
    write("odd-1.0.dist-info/entry_points.txt", "[mmcomponents.components]\nprojector.Odd = odd:Odd\n")
    write("odd.py", "raise RuntimeError('no luck')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["components", "projector", "--arguments", "--json"]) == 0
    told = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(told.out)}
    assert rows["Odd"]["arguments"] is None
    assert rows["LinearProjector"]["arguments"]
    assert told.err == "mmcomponents: odd: cannot import odd.Odd: RuntimeError: no luck\n"


def test_data_verb_calls_the_functions_with_their_own_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls: list[tuple[object, ...]] = []

    def make(out: str, *, scenes: int = 10, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Makes.

        Args:
            out: Folder.
            scenes: Scenes.
            seed: Seed.
            progress: Is told of each scene.
        """
        assert progress is not None
        progress(1, 2)
        if scenes < 0:
            raise ValueError("scenes must not be negative,\ngot -1")
        calls.append((out, scenes, seed))

    def index(paths: list[str], tokenizer: str) -> list[str]:
        """Indexes.

        Args:
            paths: Shards.
            tokenizer: Folder.
        """
        calls.append((paths, tokenizer))
        if tokenizer == "none":
            raise DataError("there is no tokenizer")
        return [f"{path}.idx" for path in paths]

    monkeypatch.setattr(data_verb, "functions", lambda: {"handwriting": make, "index": index})
    assert main(["data", "handwriting", "--out", "d", "--scenes", "3"]) == 0
    assert main(["data", "index", "a.tar", "b.tar", "--tokenizer", "t"]) == 0
    assert calls == [("d", 3, 0), (["a.tar", "b.tar"], "t")]
    assert capsys.readouterr().out == "a.tar.idx\nb.tar.idx\n"
    assert line_of_error(capsys, "data", "index", "a", "--tokenizer", "none").endswith("there is no tokenizer\n")
    assert "did you mean 'handwriting'?" in line_of_error(capsys, "data", "handwritng")
    assert "scenes: Expected a int" in line_of_error(capsys, "data", "handwriting", "--out", "d", "--scenes", "x")
    assert "--scen 3; did you mean 'scenes'?" in line_of_error(
        capsys, "data", "handwriting", "--out", "d", "--scen", "3"
    )
    assert "out" in line_of_error(capsys, "data", "handwriting")
    told = line_of_error(capsys, "data", "handwriting", "--out", "d", "--scenes", "-1")
    assert told.endswith("scenes must not be negative, got -1\n")


class Teller(Task):
    """A task whose model is made late, as the real one's is."""

    model: torch.nn.Module

    def configure_model(self) -> None:
        self.model = self.part


class TellerData(Data):
    tokenizer = "tokens"
    renderer = "renderer"


def test_generate_loads_weights_and_answers(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write("r.yaml", "model: {projector: {class_path: recipe_standins.Wide}}")
    trained = Teller(projector=lambda i, o: sys.modules["recipe_standins"].Wide(i, o))
    trained.configure_model()
    torch.save({"state_dict": trained.state_dict()}, "last.ckpt")
    Image.new("RGB", (4, 3)).save("a.png")
    seen: dict[str, object] = {}

    def answer(
        model: torch.nn.Module, tokenizer: str, prompts: list[str], images: list[list[Image.Image]], **rest: object
    ) -> list[str]:
        assert torch.equal(model.layer.weight, trained.part.layer.weight)
        assert not model.training
        seen.update(rest, tokenizer=tokenizer, sizes=[[image.size for image in group] for group in images])
        if "" in prompts:
            raise ValueError("a prompt is\nempty")
        return [f"{prompt}!" for prompt in prompts]

    monkeypatch.setattr(generate_verb, "sampler", lambda: answer)

    def ask(*argv: str) -> int:
        return generate_verb.answer("generate", ["--config", "r.yaml", *argv], Teller, TellerData)

    assert ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "one", "two", "--top_k", "5") == 0
    assert capsys.readouterr().out == "one!\ntwo!\n"
    assert (seen["tokenizer"], seen["renderer"]) == ("tokens", "renderer")
    assert seen["sizes"] == [[(4, 3)], [(4, 3)]]
    assert (seen["top_k"], seen["temperature"], seen["max_new_tokens"]) == (5, 0.0, 64)
    assert ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt": "one", "answer": "one!"}]

    with pytest.raises(ValueError, match="generate: a prompt is empty"):
        ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "")
    with pytest.raises(ValueError, match=r"no checkpoint 'lst.ckpt'; did you mean 'last.ckpt'\?"):
        ask("--ckpt_path", "lst.ckpt", "--prompt", "x")
    with pytest.raises(ValueError, match=r"no image 'b.png'; did you mean 'a.png'\?"):
        ask("--image", "b.png", "--prompt", "x")
    write("c.png", "no picture")
    with pytest.raises(ValueError, match=r"image 'c.png' cannot be read"):
        ask("--image", "c.png", "--prompt", "x")
    with pytest.raises(ValueError, match=r"no option --max_new_token; did you mean 'max_new_tokens'\?"):
        ask("--prompt", "x", "--max_new_token", "5")
    with pytest.raises(ValueError, match="--ckpt_path is missing"):
        ask("--prompt", "x")
    with pytest.raises(ValueError, match="--prompt is missing"):
        ask()
    with pytest.raises(ValueError, match=r"last.ckpt does not fit the recipe: .*size mismatch"):
        ask("--ckpt_path", "last.ckpt", "--prompt", "x", "--data.width", "3", "--model.width", "3")
