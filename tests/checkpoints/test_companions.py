"""Files beside the weights, read by transformers: tokens, chats, pixels and answers equal this library's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data.conftest import qwen  # noqa: F401  (a fixture)
from mmcomponents.checkpoints import CheckpointError, ModelSpec, Processing, convert, read
from mmcomponents.checkpoints.chat_template import chat_template
from mmcomponents.checkpoints.companions import write_companions
from mmcomponents.checkpoints.export_folder import format_named, weights_of, write
from mmcomponents.compose import build
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import end_ids
from mmcomponents.data.chat.template import render_prompt
from mmcomponents.data.chat.tokenizer import load_tokenizer, train_tokenizer
from mmcomponents.data.media.images import NORMALIZATIONS
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.generation.generate_text import generate

ROWS, TILE = 4, 28


def spec_for(vocabulary: int, image_token: int | None, **processing: Any) -> ModelSpec:
    """Tiny InternVL3; a language model without an image token."""
    part = lambda name, **args: {"class_path": name, "init_args": args}  # noqa: E731
    body = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48}
    eye = {"hidden_size": 24, "num_layers": 2, "num_heads": 3, "intermediate_size": 40}
    parts = {
        "embedder": part("TokenEmbedder"),
        "position": part("V2PE", base=10_000.0),
        "backbone": part("DecoderLM", **body),
        "heads": {"lm": part("LMHead")},
    }
    if image_token is not None:
        parts |= {
            "vision": part("InternViT", **eye, image_size=TILE, patch_size=7),
            "merger": part("PixelUnshuffle", rows=2, columns=2),
            "projector": part("MLPProjector"),
        }
    return ModelSpec(parts, vocabulary, image_token, Processing(tile_size=TILE, **({"max_tiles": 6} | processing)))


def written(folder: Path, tokenizer_folder: Path, format_name: str, image: bool = True, **processing: Any) -> Path:
    """Writes a random model in a format, with the tokenizer of another folder."""
    tokenizer = load_tokenizer(tokenizer_folder)
    context = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    spec = spec_for(len(tokenizer), context if image else None, **processing)
    model = build(spec.parts, spec.vocab_size, spec.image_token_id)
    model.init_weights(0)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0 if p.ndim >= 2 else 1.0)
    weights = weights_of(model.state_dict(), spec)
    write(folder, spec, weights, format_named(format_name), tokenizer_folder=tokenizer_folder)
    return folder


def js(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small tokenizer trained for the tests."""
    folder = tmp_path_factory.mktemp("small")
    train_tokenizer(["Read the digits in order.", "3 7 1", "How many digits?"] * 3, 300).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def qwen_folder(qwen: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Qwen2.5's tokenizer with InternVL's tokens."""
    folder = tmp_path_factory.mktemp("qwen")
    qwen.save_pretrained(folder)
    return folder


@dataclass
class Exported:
    """Model exported to transformers.

    Attributes:
        folder: Exported folder.
        before: Original tokenizer.
        after: Tokenizer as loaded by transformers.
    """

    folder: Path
    before: PreTrainedTokenizerBase
    after: PreTrainedTokenizerBase


@pytest.fixture(scope="module", params=["small", "qwen"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source: Path = request.getfixturevalue(f"{request.param}_folder")
    folder = written(tmp_path_factory.mktemp("exported") / "hf", source, "transformers")
    return Exported(folder, load_tokenizer(source), load_tokenizer(folder))


def noise(width: int, height: int) -> Image.Image:
    """Image with soft and hard edges."""
    draw = np.random.default_rng(width * 1000 + height)
    rough = Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))
    soft = rough.resize((max(1, width // 9), max(1, height // 9))).resize((width, height))
    return Image.blend(rough, soft, 0.5)


IMAGE, TEXT = {"type": "image"}, lambda text: {"type": "text", "text": text}
USER = lambda content: {"role": "user", "content": content}  # noqa: E731
SAID = lambda content: {"role": "assistant", "content": content}  # noqa: E731
SYSTEM = {"role": "system", "content": "Be brief. 简短"}

CHATS: list[tuple[list[dict[str, Any]], list[dict[str, Any]], list[int]]] = [
    ([USER("How many digits?")], [USER("How many digits?")], []),
    ([USER("\n 3 7,\n\n1 ")], [USER([TEXT("\n 3 7,\n\n1 ")])], []),
    ([SYSTEM, USER("hi")], [SYSTEM, USER([TEXT("hi")])], []),
    ([USER("a"), SAID("b\n"), USER("c d"), SAID("e"), USER("数 3?")],) * 2 + ([],),
    ([USER("<image>\nWhat?")], [USER([IMAGE, TEXT("What?")])], [8]),
    (
        [SYSTEM, USER("<image>\n<image>\nWhat\n?"), SAID("3"), USER("<image>\nAnd <ref>it</ref>?")],
        [SYSTEM, USER([IMAGE, IMAGE, TEXT("What\n?")]), SAID([TEXT("3")]), USER([IMAGE, TEXT("And <ref>it</ref>?")])],
        [4, 12, 4],
    ),
]


def as_the_processor(text: str, image_tokens: Sequence[int]) -> str:
    """Each placeholder expands to the visual tokens of its image, in image tags."""
    pieces = text.split("<IMG_CONTEXT>")
    assert len(pieces) == len(image_tokens) + 1
    images = [f"<img>{'<IMG_CONTEXT>' * n}</img>" for n in image_tokens]
    return "".join(a + b for a, b in zip(pieces, [*images, ""], strict=True))


@pytest.mark.parametrize("number", range(len(CHATS)))
def test_chats_become_the_tokens_that_we_render(exported: Exported, number: int) -> None:
    ours, theirs, image_tokens = CHATS[number]
    text = exported.after.apply_chat_template(theirs, tokenize=False, add_generation_prompt=True)
    ids = exported.after(as_the_processor(str(text), image_tokens), add_special_tokens=False)["input_ids"]
    assert ids == render_prompt(ours, exported.before, image_tokens).input_ids


def test_the_models_own_system_text_is_in_the_template(small_folder: Path, tmp_path: Path) -> None:
    system = "Say \"it\" {{ plainly }}\n— 'now' 简"
    tokenizer = load_tokenizer(written(tmp_path / "hf", small_folder, "transformers", system=system))
    for messages in ([USER("hi")], [SYSTEM, USER("hi")]):
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == render_prompt(messages, tokenizer, [], system).input_ids
    assert chat_template(None) in chat_template("x")


def test_a_video_is_its_token_and_a_line_break(exported: Exported) -> None:
    text = exported.after.apply_chat_template([USER([{"type": "video"}, TEXT("What?")])], tokenize=False)
    assert text == "<|im_start|>user\n<video>\nWhat?<|im_end|>\n"


def test_no_token_is_lost_and_the_named_ones_are_there(exported: Exported) -> None:
    before, after, config = exported.before, exported.after, AutoConfig.from_pretrained(exported.folder)
    vocabulary = after.get_vocab()
    # <video> has the next id: the embedding weight is not extended, as the processor replaces <video>.
    assert vocabulary.pop("<video>") == len(before)
    assert vocabulary == before.get_vocab()
    assert config.text_config.vocab_size == len(before)
    named = (after.start_image_token, after.end_image_token, after.context_image_token, after.video_token)
    assert named == ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    assert after.context_image_token_id == config.image_token_id
    assert (after.eos_token, after.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_answers_end_with_the_turn(exported: Exported) -> None:
    model, tokenizer = AutoModelForImageTextToText.from_pretrained(exported.folder), exported.after
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize("size", [(28, 28), (30, 29), (100, 60), (61, 140), (20, 300), (640, 480)])
@pytest.mark.parametrize("settings", [{}, {"normalization": "siglip", "max_tiles": 12, "min_tiles": 2}], ids=str)
def test_pixels_are_ours(small_folder: Path, tmp_path: Path, size: tuple[int, int], settings: dict[str, Any]) -> None:
    tokenizer = load_tokenizer(small_folder)
    spec = spec_for(len(tokenizer), 1, **settings)
    write_companions(tmp_path, "transformers", spec, small_folder)
    how = spec.processing
    tiling = Tiling(how.min_tiles, how.max_tiles, how.tile_size, how.thumbnail)
    (ours,) = SampleRenderer(tokenizer, ROWS, tiling, how.normalization).tile([noise(*size)])  # type: ignore[arg-type]
    theirs = AutoImageProcessor.from_pretrained(tmp_path)([noise(*size)], return_tensors="pt")
    assert theirs["num_patches"].tolist() == [len(ours.pixels)]
    grey_level = 1 / 255 / min(NORMALIZATIONS[how.normalization][1])
    torch.testing.assert_close(theirs["pixel_values"], ours.pixels, rtol=0, atol=1.001 * grey_level)


def test_processors_have_every_setting_written_out(small_folder: Path, tmp_path: Path) -> None:
    write_companions(tmp_path, "transformers", spec_for(400, 1), small_folder)
    assert js(tmp_path / "processor_config.json") == {"processor_class": "InternVLProcessor", "image_seq_length": ROWS}
    video = js(tmp_path / "video_preprocessor_config.json")
    assert video == {
        "video_processor_type": "InternVLVideoProcessor",
        "processor_class": "InternVLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": TILE, "width": TILE},
        "default_to_square": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_sample_frames": False,
        "initial_shift": True,
        "return_metadata": False,
    }
    image = js(tmp_path / "preprocessor_config.json")
    assert image["image_processor_type"] == "GotOcr2ImageProcessorFast"
    assert (image["crop_to_patches"], image["min_patches"], image["max_patches"]) == (True, 1, 6)


def test_the_video_processor_has_no_setting_that_is_not_written(tmp_path: Path, small_folder: Path) -> None:
    """Its class needs torchvision, so its settings are read from its source code."""
    import ast

    import transformers

    file = Path(transformers.__file__).parent / "models/internvl/video_processing_internvl.py"
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    (body,) = [node.body for node in classes if node.name == "InternVLVideoProcessor"]
    defaults = {ast.unparse(node.targets[0]) for node in body if isinstance(node, ast.Assign)} - {"valid_kwargs"}
    write_companions(tmp_path, "transformers", spec_for(400, 1), small_folder)
    assert {"size", "image_mean", "image_std"} <= defaults
    assert defaults - js(tmp_path / "video_preprocessor_config.json").keys() == set()


@pytest.mark.skipif(find_spec("torchvision") is None, reason="transformers' video processors need torchvision")
def test_the_whole_processor_loads(exported: Exported) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(exported.folder)
    assert processor.image_seq_length == ROWS
    assert processor.video_processor.size == {"height": TILE, "width": TILE}
    assert processor.video_processor.image_mean == [0.485, 0.456, 0.406]
    assert processor.chat_template == chat_template(None)


_ASK = """
import sys
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.internvl.processing_internvl import InternVLProcessor

folder, picture = sys.argv[1:]
assert not any(name.startswith("mmcomponents") for name in sys.modules)
tokenizer, eye = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
# Without torchvision there is no video processor, but the class of each argument is checked.
InternVLProcessor.check_argument_for_proper_class = lambda self, name, argument: type(argument)
rows = AutoConfig.from_pretrained(folder).image_seq_length
processor = InternVLProcessor(eye, tokenizer, None, image_seq_length=rows, chat_template=tokenizer.chat_template)
parts = [{"type": "image", "image": Image.open(picture)}, {"type": "text", "text": "How many digits?"}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
    return_tensors="pt",
)
model = AutoModelForImageTextToText.from_pretrained(folder)
answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
print(inputs["input_ids"][0].tolist())
print([i for i in answer.tolist() if i not in ends])
"""


def test_transformers_alone_gives_our_answer(small_folder: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "hf", small_folder, "transformers")
    noise(100, 60).save(tmp_path / "picture.png")
    told = subprocess.run(
        [sys.executable, "-c", _ASK, str(folder), str(tmp_path / "picture.png")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    prompt, answer = (json.loads(line) for line in told.stdout.splitlines()[-2:])
    checkpoint = read(folder)
    tokenizer = checkpoint.tokenizer()
    renderer = checkpoint.renderer(tokenizer, ROWS)
    tiles = len(renderer.tile([noise(100, 60)])[0].pixels)
    assert tiles > 1
    question = [USER("<image>\nHow many digits?")]
    assert prompt == render_prompt(question, tokenizer, [tiles * ROWS]).input_ids
    (ours,) = generate(
        checkpoint.load(),
        tokenizer,
        ["<image>\nHow many digits?"],
        [noise(100, 60)],
        max_new_tokens=12,
        renderer=renderer,
    )
    assert len(answer) > 3
    assert ours == tokenizer.decode(answer)


@pytest.mark.parametrize("format_name", ["official", "mmcomponents", "causal_lm"])
def test_other_formats_have_tokenizer_generation_and_template(
    format_name: str, small_folder: Path, tmp_path: Path
) -> None:
    text_only = format_name == "causal_lm"
    out = written(tmp_path / "out", small_folder, format_name, image=not text_only)
    before, after = load_tokenizer(small_folder), load_tokenizer(out)
    assert before.get_vocab() == after.get_vocab()
    assert js(out / "generation_config.json") == {
        "eos_token_id": before.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": before.convert_tokens_to_ids("<|endoftext|>"),
    }
    assert (out / "chat_template.jinja").read_text() == chat_template(None)
    processors = {file.name for file in out.glob("*processor_config.json")}
    assert processors == ({"preprocessor_config.json"} if format_name == "official" else set())
    if format_name == "official":
        config = js(out / "preprocessor_config.json")
        assert config["feature_extractor_type"] == "CLIPFeatureExtractor"
        assert (config["size"], config["crop_size"], config["image_std"]) == (TILE, TILE, [0.229, 0.224, 0.225])


@pytest.mark.parametrize("kept_as", ["key", "file"])
@pytest.mark.parametrize("format_name", ["official", "transformers"])
def test_a_template_of_the_source_stays_except_for_transformers(
    format_name: str, kept_as: str, small_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in small_folder.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    if kept_as == "key":
        settings = js(source / "tokenizer_config.json")
        (source / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "theirs"}))
    else:
        (source / "chat_template.jinja").write_text("theirs")
    out = written(tmp_path / "out", source, format_name)
    found = load_tokenizer(out).chat_template
    assert found == ("theirs" if format_name == "official" else chat_template(None))


def test_settings_of_the_source_are_kept_and_its_wrong_end_is_not(small_folder: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for folder in (source, out):
        folder.mkdir()
    for file in small_folder.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    settings = js(source / "tokenizer_config.json") | {
        "eos_token": "<|endoftext|>",
        "pad_token": None,
        "auto_map": {"AutoTokenizer": ["their.Code", None]},
        "extra_special_tokens": ["<quad>"],
    }
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "their.py").write_text("")
    (source / "generation_config.json").write_text(
        json.dumps({"_from_model_config": True, "eos_token_id": 1, "top_p": 0.5})
    )
    write_companions(out, "transformers", spec_for(400, 1), source)
    tokenizer = load_tokenizer(out)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    assert js(out / "generation_config.json") == {"top_p": 0.5, **ends}
    for given, kept_ends in (([7, 9], [282, 7, 9]), ([9, 282], [9, 282])):  # lists of ids are kept
        (source / "generation_config.json").write_text(json.dumps({"eos_token_id": given}))
        write_companions(out, "transformers", spec_for(400, 1), source)
        assert js(out / "generation_config.json")["eos_token_id"] == kept_ends
        assert end_ids(load_tokenizer(out)) >= {*kept_ends}
    kept = js(out / "tokenizer_config.json")
    assert "auto_map" not in kept
    assert kept["additional_special_tokens"] == ["<quad>"]
    assert not list(out.glob("*.py"))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, tokenizer.eos_token_id]}))
    write_companions(out, "transformers", spec_for(400, 1), source)
    assert js(out / "generation_config.json")["eos_token_id"] == [1, tokenizer.eos_token_id]


def test_a_tokenizer_without_image_tokens_is_refused(small_folder: Path, tmp_path: Path) -> None:
    text = (small_folder / "tokenizer.json").read_text().replace("<IMG_CONTEXT>", "<other>").replace("</img>", "</o>")
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text((small_folder / "tokenizer_config.json").read_text())
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"lacks: </img>, <IMG_CONTEXT>$"):
        write_companions(tmp_path / "out", "transformers", spec_for(400, 1), tmp_path)


def test_a_folder_without_tokenizer_gives_none(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "out").mkdir()
    for source in (None, tmp_path / "source"):
        write_companions(tmp_path / "out", "mmcomponents", spec_for(400, 1), source)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("saved_by_transformers", [False, True])
@pytest.mark.parametrize("format_name", ["official", "mmcomponents"])
def test_a_video_token_without_a_word_stays_with_transformers(
    format_name: str, saved_by_transformers: bool, small_folder: Path, tmp_path: Path
) -> None:
    folder = written(tmp_path / "hf", small_folder, "transformers")
    before, named = load_tokenizer(small_folder), load_tokenizer(folder)
    assert len(named) == len(before) + 1
    if saved_by_transformers:  # as in published folders, which have it in tokenizer.json
        named.save_pretrained(folder)
        assert "<video>" in {token["content"] for token in js(folder / "tokenizer.json")["added_tokens"]}
    convert(read(folder), tmp_path / "out", format_name)
    after = load_tokenizer(tmp_path / "out")
    assert after.get_vocab() == before.get_vocab()
    assert (after.eos_token, after.pad_token) == ("<|im_end|>", "<|endoftext|>")
    convert(read(tmp_path / "out"), tmp_path / "again", "transformers")
    assert load_tokenizer(tmp_path / "again").video_token_id == len(before)


def test_a_video_token_with_a_word_stays(small_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(small_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<video>"]})
    tokenizer.save_pretrained(tmp_path / "source")
    out = written(tmp_path / "out", tmp_path / "source", "mmcomponents")
    assert load_tokenizer(out).get_vocab() == tokenizer.get_vocab()
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "source/tokenizer.json").read_bytes()


def test_a_second_export_changes_nothing(small_folder: Path, tmp_path: Path) -> None:
    first = written(tmp_path / "first", small_folder, "transformers")
    convert(read(first), tmp_path / "again", "transformers")
    names = sorted(file.name for file in first.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("name", ["vocab.txt", "generation_config.json", "additional_chat_templates/a.jinja"])
def test_a_link_to_a_file_outside_is_not_copied(small_folder: Path, tmp_path: Path, name: str) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    shutil.copytree(small_folder, source)
    (tmp_path / "secret").write_text("{}")
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=rf"{name} is a link to a file outside of the folder"):
        write_companions(out, "mmcomponents", spec_for(400, 1), source)
    assert not (out / name).exists()
