from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import mmcomponents
import tiny
from checkpoints_models import IMAGE_TOKEN, STYLES, hf_model, ids_and_pixels
from figures import GOLDEN
from mmcomponents.batch import ImageBatch
from mmcomponents.checkpoints import CheckpointError, convert, read
from mmcomponents.checkpoints.checkpoint import added_tokens, tiling_of
from mmcomponents.checkpoints.hf import HFInternVL
from mmcomponents.checkpoints.rules import lazy, to_ours
from mmcomponents.data.media.tiling import WholeImages
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.positions import MovingBaseRoPE, RoPE
from mmcomponents.sequence import one_sequence


@pytest.mark.parametrize("images", [0, 1, 3])
def test_logits_are_those_of_transformers(hf: Any, hf_folder: Path, images: int) -> None:
    ids, pixels = ids_and_pixels(images)
    ours = mmcomponents.load(hf_folder)
    with torch.no_grad():
        expected = hf(input_ids=ids[None], pixel_values=pixels).logits[0]
        torch.testing.assert_close(ours.logits(ids, pixels), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_transformers(hf: Any, hf_folder: Path) -> None:
    ids, pixels = ids_and_pixels(2)
    checkpoint = read(hf_folder)
    ours = checkpoint.load()
    weights = torch.randn(len(ids), 64, generator=torch.Generator().manual_seed(3))
    (hf(input_ids=ids[None], pixel_values=pixels).logits[0] * weights).sum().backward()
    (ours.logits(ids, pixels) * weights).sum().backward()
    format = HFInternVL()
    theirs = {format.normalized(name): lazy(p.grad) for name, p in hf.named_parameters() if p.grad is not None}
    mapped = to_ours(theirs, format.rules(checkpoint.config, checkpoint.spec))
    assert set(mapped) == {name for name, _ in ours.named_parameters()}
    for name, parameter in ours.named_parameters():
        expected = mapped[name].load()
        assert parameter.grad is not None
        assert (parameter.grad - expected).norm() <= 1e-4 * expected.norm(), name


@pytest.mark.parametrize("images", [0, 1, 3])
@pytest.mark.parametrize("style", [style for style in STYLES if "ntk" not in style[1]], ids=str)
def test_greedy_answers_are_those_of_transformers(tmp_path: Path, style: tuple[str, str, bool], images: int) -> None:
    # Not with dynamic NTK past the trained length: transformers changes the base during decoding. This library keeps
    # that of the prefill, so that cached keys and new queries agree.
    hf = hf_model(*style)
    hf.save_pretrained(tmp_path)
    ids, pixels = ids_and_pixels(images)
    if pixels is None:  # its `generate` fails without pixels: decoded step by step
        theirs = ids[None]
        for _ in range(12):
            theirs = torch.cat((theirs, hf(input_ids=theirs).logits[:, -1:].argmax(-1)), dim=1)
    else:
        theirs = hf.generate(
            input_ids=ids[None], pixel_values=pixels, max_new_tokens=12, do_sample=False, eos_token_id=None
        )
    prompt = one_sequence(ids, pixels, IMAGE_TOKEN)
    (answer,) = tiny.token_ids(Autoregressive(max_new_tokens=12), mmcomponents.load(tmp_path), prompt, set())
    assert answer == theirs[0, len(ids) :].tolist()


@pytest.mark.parametrize("style", [style for style in STYLES if "ntk" in style[1]], ids=str)
def test_the_moving_base_gives_the_answers_of_transformers_past_the_trained_length(
    tmp_path: Path, style: tuple[str, str, bool]
) -> None:
    hf = hf_model(*style, seed=2)
    hf.save_pretrained(tmp_path)
    ids, pixels = ids_and_pixels(1)
    theirs = hf.generate(
        input_ids=ids[None], pixel_values=pixels, max_new_tokens=24, do_sample=False, eos_token_id=None
    )[0, len(ids) :].tolist()
    model = mmcomponents.load(tmp_path)
    kept = model.position
    assert isinstance(kept, RoPE)
    assert len(ids) + 24 > 2 * kept.max_position_embeddings
    prompt = one_sequence(ids, pixels, IMAGE_TOKEN)
    answers = []
    for position in (kept, MovingBaseRoPE(kept.head_dim, kept.base, kept.ntk_factor, kept.max_position_embeddings)):
        model.position = position
        answers += tiny.token_ids(Autoregressive(max_new_tokens=24), model, prompt, set())
    assert answers[1] == theirs
    assert answers[0] != theirs, "RoPE keeps the base of the prefill"


@pytest.mark.parametrize("layout", ["in memory", "on disk"])
def test_both_layouts_of_transformers_are_read(tmp_path: Path, layout: str) -> None:
    hf = hf_model(*STYLES[0])
    hf.save_pretrained(tmp_path)
    if layout == "in memory":
        save_file({name: value.contiguous() for name, value in hf.state_dict().items()}, tmp_path / "model.safetensors")
    names = load_file(tmp_path / "model.safetensors")
    assert ("model.vision_tower.embeddings.cls_token" in names) == (layout == "in memory")
    ids, pixels = ids_and_pixels(1)
    with torch.no_grad():
        expected = hf(input_ids=ids[None], pixel_values=pixels).logits[0]
        torch.testing.assert_close(mmcomponents.load(tmp_path).logits(ids, pixels), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def official_folder(tmp_path: Path) -> Path:
    """Tiny official model of figure g, as a folder without tokenizer."""
    folder = tmp_path / "official"
    folder.mkdir()
    given = GOLDEN / "g_tiny_official"
    (folder / "config.json").write_text((given / "vit300m_like_v2_config.json").read_text())
    (folder / "model.safetensors").write_bytes((given / "vit300m_like_v2.safetensors").read_bytes())
    return folder


def test_the_official_model_gives_the_official_figures(official_folder: Path) -> None:
    model = mmcomponents.load(official_folder, image_token_id=60)
    io = load_file(GOLDEN / "g_tiny_official" / "vit300m_like_v2_io.safetensors")
    pixels = io["pixel_values"]
    assert model.vision is not None
    with torch.no_grad():
        features = model.vision(ImageBatch(pixels, torch.zeros(3)))
        torch.testing.assert_close(features.primary.tokens, io["vision_last_hidden"][:, 1:], rtol=1e-5, atol=1e-5)
        rows = model.project(model.encode(ImageBatch(pixels, torch.zeros(3))))
        torch.testing.assert_close(rows, io["projected"].flatten(0, 1), rtol=1e-5, atol=1e-5)
        logits = torch.stack([model.logits(i, t) for i, t in zip(io["input_ids"], pixels.split([2, 1]), strict=True)])
    torch.testing.assert_close(logits, io["logits"], rtol=1e-5, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), io["labels"][:, 1:].flatten())
    torch.testing.assert_close(loss, io["loss"][0], rtol=1e-5, atol=1e-5)


def test_weights_of_order_v1_give_other_logits_as_v2(official_folder: Path) -> None:
    config = json.loads((official_folder / "config.json").read_text())
    ids, pixels = load_file(GOLDEN / "g_tiny_official" / "vit300m_like_v2_io.safetensors")["input_ids"][1], None
    pixels = torch.randn(1, 3, 56, 56)
    v2 = mmcomponents.load(official_folder, image_token_id=60)
    (official_folder / "config.json").write_text(json.dumps(config | {"ps_version": "v1"}))
    v1 = mmcomponents.load(official_folder, image_token_id=60)
    with torch.no_grad():
        assert (v1.logits(ids, pixels) - v2.logits(ids, pixels)).abs().max() > 0.01


def test_a_type_is_taken_and_modes_are_set(hf_folder: Path) -> None:
    model = mmcomponents.load(hf_folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(m.training for m in model.modules())
    assert model.device == torch.device("cpu")


def test_the_names_in_the_files_decide_whether_a_head_is_tied(tmp_path: Path) -> None:
    hf_model("300m", "qwen2", False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = True  # the default of recent versions if the key is missing
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = mmcomponents.load(tmp_path)
    assert model.embedder is not None
    assert not torch.equal(model.heads["lm"].weight, model.embedder.embedding_weight())


def test_an_image_token_is_found_by_its_name(official_folder: Path) -> None:
    (official_folder / "added_tokens.json").write_text(json.dumps({"<IMG_CONTEXT>": 60}))
    assert added_tokens(official_folder) == {"<IMG_CONTEXT>": 60}
    assert mmcomponents.load(official_folder).image_token_id == 60


def _config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_wrong_folders_are_refused_in_one_line(official_folder: Path, tmp_path: Path) -> None:
    def refused(folder: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            mmcomponents.load(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no checkpoint folder" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/recipe.yaml").write_text("")
    with pytest.raises(CheckpointError, match=r"run is the folder of a run, .*: give --config \S+ --ckpt_path"):
        read(tmp_path / "run")
    _config(official_folder, downsample_ratio=0.25)
    assert "projector.norm.weight is [128], the model has [512]" in refused(official_folder)
    _config(official_folder, downsample_ratio=0.5, pad2square=True)
    assert "pad2square" in refused(official_folder)
    _config(official_folder, pad2square=False, vision_config={})
    assert "its configuration is wrong: KeyError 'hidden_size'" in refused(official_folder)
    _config(official_folder, model_type="blip")
    assert "'blip', which is not of a known format" in refused(official_folder)
    (official_folder / "config.json").write_text("{")
    assert "is not JSON" in refused(official_folder)


def test_missing_and_surplus_weights_are_named(official_folder: Path) -> None:
    state = load_file(official_folder / "model.safetensors")
    whole = dict(state)
    del state["mlp1.3.bias"]
    save_file(state, official_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks projector.fc2.bias"):
        mmcomponents.load(official_folder)
    save_file(whole | {"mlp1.7.bias": torch.ones(1)}, official_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"unknown names: mlp1.7.bias"):
        mmcomponents.load(official_folder)


@pytest.mark.parametrize("level", [-2, 1])
def test_an_inner_level_of_the_encoder(tmp_path: Path, level: int) -> None:
    hf = hf_model(*STYLES[0])
    hf.config.vision_feature_layer = level
    hf.save_pretrained(tmp_path / "hf")
    ids, pixels = ids_and_pixels(1)
    convert(read(tmp_path / "hf"), tmp_path / "official", "official")
    convert(read(tmp_path / "official", image_token_id=IMAGE_TOKEN), tmp_path / "again", "transformers")
    from transformers import AutoModelForImageTextToText

    again, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        expected = hf(input_ids=ids[None], pixel_values=pixels).logits[0]
        for found in (mmcomponents.load(tmp_path / "hf"), mmcomponents.load(tmp_path / "official")):
            torch.testing.assert_close(found.logits(ids, pixels), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again(input_ids=ids[None], pixel_values=pixels).logits[0], expected)


def _ours(tmp_path: Path, **parts: Any) -> Path:
    hf_model(*STYLES[0]).save_pretrained(tmp_path / "hf")
    convert(read(tmp_path / "hf"), tmp_path / "ours", "mmcomponents")
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    config["model"] |= parts
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    return tmp_path / "ours"


def test_a_folder_runs_no_code_of_others(tmp_path: Path) -> None:
    attack = {"class_path": "pathlib.Path.touch", "init_args": {"self": str(tmp_path / "harm")}}
    folder = _ours(tmp_path, vision=attack)
    with pytest.raises(CheckpointError, match=r"names third-party code \(pathlib.Path.touch\)"):
        mmcomponents.load(folder)
    with pytest.raises(CheckpointError, match=r"cannot import|is not a vision"):
        read(folder, trust_remote_code=True).load()
    remote = {"class_path": "TransformersLM", "init_args": {"config": ".", "trust_remote_code": True}}
    with pytest.raises(CheckpointError, match="TransformersLM with trust_remote_code"):
        mmcomponents.load(_ours(tmp_path / "b", backbone=remote))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"class_path": "Nothing"}, "no backbone is called 'Nothing'"),
        ({"class_path": "DecoderLM", "init_args": {"hidden_size": "x"}}, "cannot be built"),
        ({"class_path": "DecoderLM", "init_args": {"foo": 1}}, "unexpected keyword argument 'foo'"),
        ("DecoderLM", "its configuration is wrong"),
    ],
)
def test_wrong_parts_of_our_own_folder_are_told_in_one_line(tmp_path: Path, part: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        mmcomponents.load(_ours(tmp_path, backbone=part))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"num_attention_heads": 0}, {"hidden_size": None}])
def test_nonsense_in_a_configuration_is_told_in_one_line(official_folder: Path, wrong: dict[str, Any]) -> None:
    text = json.loads((official_folder / "config.json").read_text())["llm_config"]
    _config(official_folder, llm_config=text | wrong)
    with pytest.raises(CheckpointError, match="its configuration is wrong"):
        mmcomponents.load(official_folder)


def test_broken_tokenizer_files_and_whole_numbers_are_told(official_folder: Path) -> None:
    state = load_file(official_folder / "model.safetensors")
    state["mlp1.1.weight"] = state["mlp1.1.weight"].to(torch.int8)
    save_file(state, official_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"projector.fc1.weight is of type int8; quantised weights"):
        mmcomponents.load(official_folder)
    (official_folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 3}]}))
    with pytest.raises(CheckpointError, match="its configuration is wrong"):
        mmcomponents.load(official_folder)


def test_weights_that_are_not_finite_are_loaded_only_when_asked_for(official_folder: Path) -> None:
    state = load_file(official_folder / "model.safetensors")
    state["mlp1.1.weight"][0, :3] = float("nan")
    state["mlp1.3.weight"][0, 0] = 1e30
    save_file(state, official_folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"official: projector\.fc1\.weight has 3 NaN in"):
        mmcomponents.load(official_folder)
    assert mmcomponents.load(official_folder, allow_nonfinite=True).projector.fc1.weight.isnan().sum() == 3
    state["mlp1.1.weight"][0, :3] = 0
    save_file(state, official_folder / "model.safetensors")
    mmcomponents.load(official_folder)
    with pytest.raises(CheckpointError, match=r"official as torch\.float16: projector\.fc2\.weight has 1 Inf"):
        mmcomponents.load(official_folder, dtype=torch.float16)


def test_code_of_others_is_imported_by_load_when_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"their_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("from mmcomponents.positions import RoPE\nclass Their(RoPE):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = _ours(tmp_path, position={"class_path": f"{name}.Their"})
    with pytest.raises(CheckpointError, match="names third-party code"):
        mmcomponents.load(folder)
    assert type(mmcomponents.load(folder, trust_remote_code=True).position).__name__ == "Their"


def _with(folder: Path, **entries: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))
    return folder


def test_a_folder_names_its_sampler(tmp_path: Path) -> None:
    folder = _ours(tmp_path)
    assert read(folder).make_sampler() is None
    sampler = {"class_path": "Autoregressive", "init_args": {"max_new_tokens": 7}}
    make = read(_with(folder, sampler=sampler)).make_sampler()
    assert make is not None
    assert (make().max_new_tokens, make(max_new_tokens=9).max_new_tokens) == (7, 9)
    wrong = {"class_path": "RoPE", "init_args": {}}
    with pytest.raises(CheckpointError, match=r"its sampler cannot be built: .*RoPE"):
        read(_with(folder, sampler=wrong)).make_sampler()
    attack = {"class_path": "pathlib.Path.touch", "init_args": {"self": str(tmp_path / "harm")}}
    attacked = read(_with(folder, sampler=attack))
    attacked.load()  # which needs no sampler
    with pytest.raises(CheckpointError, match=r"sampler is third-party code \(pathlib.Path.touch\)"):
        attacked.make_sampler()
    with pytest.raises(CheckpointError, match="its sampler cannot be built"):
        attacked.make_sampler(trust_remote_code=True)
    assert not (tmp_path / "harm").exists()


def test_images_of_a_folder_may_keep_their_aspect_ratio(tmp_path: Path) -> None:
    folder = _ours(tmp_path)
    processing = json.loads((folder / "config.json").read_text())["processing"]
    tiling = tiling_of(
        read(_with(folder, processing=processing | {"tile_size": 16, "longest_side": 40})).spec.processing
    )
    assert tiling == WholeImages(tile_size=16, longest=40)


ABSURD: list[tuple[str, tuple[str, ...], Any]] = [
    (form, path, value)
    for form, path in (
        ("official", ("llm_config", "num_hidden_layers")),
        ("official", ("vision_config", "num_attention_heads")),
        ("official", ("max_dynamic_patch",)),
        ("official", ("select_layer",)),
        ("transformers", ("text_config", "num_hidden_layers")),
        ("transformers", ("vision_config", "hidden_size")),
        ("transformers", ("vision_config", "patch_size")),
        ("mmcomponents", ("model", "backbone", "init_args", "num_layers")),
        ("mmcomponents", ("processing", "max_tiles")),
        ("mmcomponents", ("processing", "normalization")),
        ("mmcomponents", ("processing", "system")),
        ("mmcomponents", ("model_type",)),
    )
    for value in (10**7, 10**12, -7, 2.5, True, float("nan"), [[2]])  # of layers, heads, pixels, tiles and text alike
]


@pytest.mark.usefixtures("few_modules")
def test_configurations_out_of_range_cost_little(tmp_path: Path) -> None:
    hf_model(*STYLES[0]).save_pretrained(tmp_path / "transformers")
    for form in ("official", "mmcomponents"):
        convert(read(tmp_path / "transformers"), tmp_path / form, form)
    for form, path, value in ABSURD:
        file = tmp_path / form / "config.json"
        whole = file.read_text()
        changed = part = json.loads(whole)
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        file.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError) as caught:
            mmcomponents.load(tmp_path / form)
        assert "\n" not in str(caught.value), (path, value)
        file.write_text(whole)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"model_type": [], "architectures": 3}', "null"])
def test_a_broken_configuration_is_told_in_one_line(official_folder: Path, text: str) -> None:
    (official_folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is n|holds a") as caught:
        read(official_folder)
    assert "\n" not in str(caught.value)
    (official_folder / "config.json").unlink()
    os.mkfifo(official_folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is a pipe"):
        read(official_folder)
