from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_standins import Data, Task

import tiny
from mmcomponents import checkpoints
from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.runs.saved_weights import saved_state
from mmcomponents.cli.generate import arguments_of
from mmcomponents.cli.main import main
from mmcomponents.cli.models.run_weights import load_weights
from mmcomponents.cli.runs import generate_run as generate_verb
from mmcomponents.cli.user_error import UserError
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation import Autoregressive, generate
from mmcomponents.heads import LMHead
from mmcomponents.positions import RoPE

Write = Callable[[str, str], Path]


class LateTask(Task):
    """A task that creates its model in `configure_model`, as `MultimodalTask` does."""

    model: torch.nn.Module

    def configure_model(self) -> None:
        self.model = self.part


class LateData(Data):
    tokenizer = "tokens"
    renderer = SimpleNamespace(for_prompts=lambda: "renderer")


def test_a_recipe_with_a_checkpoint_answers(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("r.yaml", "model: {projector: {class_path: recipe_standins.Wide}}")
    trained = LateTask(projector=lambda i, o: sys.modules["recipe_standins"].Wide(i, o))
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
        if "<image>\n" in prompts:
            raise ValueError("a prompt is\nempty")
        return [f"{prompt}!" for prompt in prompts]

    def stream(model: torch.nn.Module, tokenizer: str, prompt: str, images: list, **rest: object) -> Iterator[str]:
        return iter(answer(model, tokenizer, [prompt], [images], **rest)[0])

    monkeypatch.setattr(generate_verb, "samplers", lambda: {"batch": answer, "stream": stream})

    def ask(*argv: str) -> int:
        return generate_verb.answer(
            "generate", arguments_of("generate", ["--config", "r.yaml", *argv]), LateTask, LateData
        )

    assert ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "one", "two", "--top_k", "5") == 0
    assert capsys.readouterr().out == "<image>\none!\n<image>\ntwo!\n"
    assert (seen["tokenizer"], seen["renderer"]) == ("tokens", "renderer")
    assert seen["sizes"] == [[(4, 3)], [(4, 3)]]
    sampler = seen["sampler"]
    assert isinstance(sampler, Autoregressive)
    assert (sampler.top_k, sampler.temperature, sampler.max_new_tokens) == (5, 0.0, 64)
    assert ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "one") == 0
    assert capsys.readouterr().out == "<image>\none!\n"
    assert ask("--ckpt_path", "last.ckpt", "--image", "a.png", "--prompt", "one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt": "one", "answer": "<image>\none!"}]

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
    with pytest.raises(ValueError, match=r"last.ckpt does not match the recipe: 2 of another shape"):
        ask("--ckpt_path", "last.ckpt", "--prompt", "x", "--data.width", "3", "--model.width", "3")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["What is this? It is a cat, a dog or 7."] * 4, 400)


class FixedAnswer(LMHead):
    """A head that gives the same answer to every question."""

    text_ids: list[int] = []
    place = 0

    def forward(self, state, batch):
        out = torch.zeros(state.hidden.shape[0], self.weight.shape[0])
        self.place = 0 if batch.layout.max_seqlen > 1 else self.place + 1
        out[:, self.text_ids[self.place % len(self.text_ids)]] = 1.0
        return out


class Folder:
    """Stand-in for a checkpoint folder."""

    def __init__(self, model, tokenizer) -> None:
        self.model = model
        self.words = tokenizer
        self.asked: dict[str, object] = {}

    def load(self, device, dtype, allow_nonfinite):
        self.asked = {"device": device, "dtype": dtype}
        return self.model

    def make_sampler(self, trust_remote_code):
        return None

    def tokenizer(self):
        return self.words

    def renderer(self, tokenizer, tokens_per_tile):
        return SampleRenderer(tokenizer, tokens_per_tile, Tiling(tile_size=16), system="Be kind.")


@pytest.fixture
def folder(write: Write, tokenizer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Folder]:
    """Returns a function that puts a model into the folder `m`, with a fixed answer or the one of its weights."""

    def make(answer: str | None = None, **parts) -> Folder:
        vocab = len(tokenizer)
        head = (LMHead if answer is None else FixedAnswer)(tiny.WIDTH, vocab)
        if answer is not None:
            head.text_ids = tokenizer.encode(answer + "<|im_end|>", add_special_tokens=False)
        model = tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": head}, **parts)
        stand_in = Folder(model, tokenizer)
        Path("m").mkdir(exist_ok=True)
        monkeypatch.setattr(checkpoints, "read", lambda path, allow_pickle, trust_remote_code: stand_in)
        return stand_in

    Image.effect_noise((40, 20), 80).convert("RGB").save(write("note", "").parent / "a.png")
    Image.new("RGB", (20, 20), "blue").save("b.jpg")
    return make


def line_of_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["generate", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("mmcomponents: ").rstrip("\n")


def test_a_folder_answers_as_the_function_does(folder, tokenizer, capsys) -> None:
    made = folder()
    options = ["--max_new_tokens", "6", "--temperature", "1", "--seed", "2", "--top_k", "50"]
    settings = {"max_new_tokens": 6, "temperature": 1.0, "seed": 2, "top_k": 50}
    renderer = SampleRenderer(tokenizer, 4, Tiling(max_tiles=2, tile_size=16), system="Be brief.")
    pictures = [Image.open("a.png"), Image.open("b.jpg")]
    wanted = generate(made.model, tokenizer, ["<image>\n<image>\nWhat?"], [pictures], renderer=renderer, **settings)
    pair = ["--image", "a.png", "b.jpg", "--prompt", "What?", "--system", "Be brief.", "--max_tiles", "2"]
    assert main(["generate", "m", *pair, *options, "--share_tiles"]) == 0
    assert capsys.readouterr().out == f"{wanted[0]}\n"
    each = replace(renderer, tiling=replace(renderer.tiling, share=False))
    wanted = generate(made.model, tokenizer, ["<image>\n<image>\nWhat?"], [pictures], renderer=each, **settings)
    assert main(["generate", "m", *pair, *options]) == 0
    assert capsys.readouterr().out == f"{wanted[0]}\n", "each image has the whole budget"
    assert main(["generate", "m", *pair, *options, "--json", "--dtype", "bfloat16", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"prompt": "What?", "answer": wanted[0]}]
    assert made.asked == {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    made.model.position.delta_log2 = 0
    assert main(["generate", "m", "--prompt", "7", "a", "--delta", "1/4", "--max_new_tokens", "2"]) == 0
    assert made.model.position.delta_log2 == 2
    assert capsys.readouterr().out.count("\n") >= 2


def test_stops_and_pieces(folder, monkeypatch) -> None:
    folder("It is a cat, a dog")

    class Terminal(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["generate", "m", "--prompt", "What?", "--stop", "dog", "cow"]) == 0
    assert sys.stdout.getvalue() == "It is a cat, a \n"
    assert sys.stdout.flushes > 3


def test_answers_cannot_control_a_terminal(folder, monkeypatch, capsys) -> None:
    folder("It is \x1b[2Ja cat")
    ask = ["generate", "m", "--prompt", "What?", "Who?"]
    assert main(ask) == 0
    assert capsys.readouterr().out == "It is \x1b[2Ja cat\n" * 2, "to a pipe the answer is data"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for more in ([], ["--json"]):
        assert main([*ask, *more]) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert printed.count("[2Ja cat") == 2


def test_boxes_are_drawn(folder, capsys) -> None:
    folder("<ref>a dog</ref><box>[[100, 100, 900, 900]]</box>")
    assert main(["generate", "m", "--image", "b.jpg", "--prompt", "Where?", "--boxes", "out.png"]) == 0
    drawn, plain = (np.asarray(Image.open(name).convert("RGB")).astype(int) for name in ("out.png", "b.jpg"))
    changed = np.argwhere(np.abs(drawn - plain).sum(-1) > 60)
    assert (changed.min(), changed.max()) == (2, 17)
    folder("It is a cat")
    assert main(["generate", "m", "--image", "b.jpg", "--prompt", "Where?", "--boxes", "out.png"]) == 0
    assert capsys.readouterr().err == "mmcomponents: the answer contains no boxes\n"


def test_errors_are_one_line(folder, monkeypatch, capsys, tmp_path) -> None:
    folder(position=RoPE(8, max_position_embeddings=60))
    ask = ["--prompt", "x", "--max_new_tokens", "4"]
    assert "no model folder 'mm'; did you mean 'm'?" in line_of_error(capsys, "mm", *ask)
    assert "b.jpg is a file; a model is a folder" in line_of_error(capsys, "b.jpg", *ask)
    assert "more than the limit of 60" in line_of_error(capsys, "m", "--prompt", "7 " * 60)
    assert "more than the limit of 9" in line_of_error(capsys, "m", *ask, "--max_length", "9")
    assert "delta is a setting of V2PE" in line_of_error(capsys, "m", *ask, "--delta", "0.5")
    assert "argument --delta" in line_of_error(capsys, "m", *ask, "--delta", "1/0")
    assert "there is no video 'c.mp4'" in line_of_error(capsys, "m", *ask, "--video", "c.mp4")
    assert "video 'a.png' cannot be read" in line_of_error(capsys, "m", *ask, "--video", "a.png")
    assert "--dtype" in line_of_error(capsys, "m", *ask, "--dtype", "int8")
    assert "--device 'abacus' cannot be used" in line_of_error(capsys, "m", *ask, "--device", "abacus")
    assert "--max_tiles must be at least 1" in line_of_error(capsys, "m", *ask, "--max_tiles", "0")
    assert "--boxes needs one image and one prompt, got 0 and 1" in line_of_error(capsys, "m", *ask, "--boxes", "o.png")
    boxes = ["--image", "a.png", "--boxes"]
    assert "must have the suffix of an image format" in line_of_error(capsys, "m", *ask, *boxes, "o.txt")
    assert "there is no folder 'none'" in line_of_error(capsys, "m", *ask, *boxes, "none/o.png")
    assert "cannot be combined with a recipe" in line_of_error(capsys, "m", *ask, "--config", "quickstart")
    assert "cannot be combined" in line_of_error(capsys, "m", "--interactive", "--json")
    assert "need temperature >= 0" in line_of_error(capsys, "m", *ask, "--temperature", "-1")

    def refuse(path: str, allow_pickle: bool, trust_remote_code: bool) -> None:
        raise CheckpointError("m holds nothing")

    monkeypatch.setattr(checkpoints, "read", refuse)
    assert line_of_error(capsys, "m", *ask) == "m holds nothing"


def test_a_folder_without_the_head_of_the_texts_is_one_line(folder, capsys) -> None:
    made = folder()
    made.model.heads["rank"] = made.model.heads.pop("lm")
    line = line_of_error(capsys, "m", "--prompt", "hi")
    assert "m has no sampler, and Autoregressive reads the head 'lm', while the model has rank" in line
    assert "--config RECIPE --ckpt_path FILE uses the sampler of the recipe" in line


def talk(monkeypatch: pytest.MonkeyPatch, lines: str, *argv: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    return main(["generate", "m", "--interactive", *argv])


def test_a_conversation_from_a_pipe(folder, monkeypatch, capsys) -> None:
    made = folder("a cat")
    assert talk(monkeypatch, "What?\n\n/image b.jpg\n7?\n", "--image", "a.png", "--prompt", "First") == 0
    assert capsys.readouterr().out == "a cat\n" * 3
    read: list[int] = []
    made.model.backbone.register_forward_pre_hook(lambda module, given: read.append(given[1].num_tokens))
    assert talk(monkeypatch, "7?\n7?\n/reset\n7?\n/quit\n7?\n") == 0
    turns = [count for count in read if count > 1]
    assert len(turns) == 3
    assert turns[0] == turns[2] > turns[1], "the second turn processes only new tokens"


def test_a_conversation_continues_after_errors(folder, monkeypatch, capsys) -> None:
    folder("a cat")
    assert talk(monkeypatch, "/image c.png\n/dance\n<image>\nWhat?\n") == 2
    printed = capsys.readouterr()
    assert printed.out == "a cat\n"
    assert [line.split(": ", 1)[1] for line in printed.err.splitlines()] == [
        "there is no image 'c.png'; did you mean 'a.png'?",
        "'/dance' is not a command; /help lists them",
        "1 <image> placeholders in the user's turns, 0 images",
    ]
    assert talk(monkeypatch, "/help\n") == 0
    assert "/reset" in capsys.readouterr().out


def test_at_a_terminal_ctrl_c_stops_an_answer_and_ctrl_d_ends(folder, monkeypatch, capsys) -> None:
    made = folder("a cat, a dog")
    typed = iter([KeyboardInterrupt, "What?", "What?", EOFError])

    def read_line(prompt: str) -> str:
        line = next(typed)
        if not isinstance(line, str):
            raise line
        return line

    def interrupt(module, given) -> None:
        if made.model.heads["lm"].place == 2:
            hook.remove()
            raise KeyboardInterrupt

    hook = made.model.backbone.register_forward_pre_hook(interrupt)
    monkeypatch.setattr("builtins.input", read_line)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert main(["generate", "m", "--interactive"]) == 0
    assert capsys.readouterr().out.split("\n") == ["", "a cat,", "a cat, a dog", "", ""]


def test_a_model_after_the_options_is_reported(folder, capsys) -> None:
    folder("a cat")
    Path("m/config.json").write_text("{}")
    assert line_of_error(capsys, "--prompt", "hi", "m").startswith(
        "generate: MODEL comes first: mmcomponents generate m"
    )
    assert "needs MODEL, a folder, or --config" in line_of_error(capsys, "--prompt", "hi")


def test_invalid_values_are_reported_in_one_line(folder, capsys) -> None:
    folder("a cat")
    ask = ["--prompt", "x"]
    assert "need temperature >= 0" in line_of_error(capsys, "m", *ask, "--temperature", "nan")
    assert "--frames must be from 1 to 1024, got 0" in line_of_error(capsys, "m", *ask, "--frames", "0")
    assert "not valid UTF-8" in line_of_error(capsys, "m", "--prompt", "caf\udce9")
    boxes = [*ask, "--image", "a.png", "--boxes"]
    assert "must have the suffix of an image format" in line_of_error(capsys, "m", *boxes, "o.psd")
    assert "'m' is a folder" in line_of_error(capsys, "m", *boxes, "m")


def test_invalid_utf8_does_not_end_a_conversation(folder, monkeypatch, capsys) -> None:
    folder("a cat")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n7?\n"), encoding="utf-8"))
    assert main(["generate", "m", "--interactive"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "a cat\n"
    assert "not valid UTF-8" in printed.err


def test_invalid_checkpoints_are_reported_in_one_line(write: Write) -> None:
    write("shards/last.ckpt", "")
    write("model.safetensors", "")
    for name, saved in {"list": [1], "tensor": torch.ones(2), "odd": {"state_dict": 3}}.items():
        torch.save(saved, f"{name}.ckpt")
        with pytest.raises(CheckpointError, match="it has no state_dict of tensors"):
            saved_state(Path(f"{name}.ckpt"))
    with pytest.raises(CheckpointError, match=r"no .metadata; it contains shards/last.ckpt"):
        saved_state(Path("shards"))
    with pytest.raises(CheckpointError, match="use its folder as MODEL"):
        saved_state(Path("model.safetensors"))
    torch.save({"state_dict": {"bias": torch.ones(2)}}, "other.ckpt")
    with pytest.raises(UserError, match=r"1 missing \(weight\); 1 unexpected \(bias\)"):
        load_weights(torch.nn.Linear(2, 2, bias=False), Path("other.ckpt"))


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141)])
def test_an_interrupted_answer_ends_the_command(folder, capfd, error, code) -> None:
    made = folder("<ref>a</ref><box>[[1, 1, 9, 9]]</box>")

    def interrupt(module, given) -> None:
        raise error

    made.model.backbone.register_forward_pre_hook(interrupt)
    with capfd.disabled():
        stdout = os.dup(1)
        try:
            assert main(["generate", "m", "--prompt", "x", "--image", "a.png", "--boxes", "o.png"]) == code
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
    assert not Path("o.png").exists()
    if error is KeyboardInterrupt:
        with pytest.MonkeyPatch.context() as patch:
            assert talk(patch, "x\n7?\n") == 130, "a pipe does not continue"
