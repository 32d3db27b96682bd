"""Initial values of the tensors of a wrapped model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmcomponents.nn import wrapped
from mmcomponents.nn.wrapped import PassThrough, Starts, check_attention, matrix_flops, read_config


class Norm(nn.Module):
    """Module with vectors and a buffer."""

    def __init__(self, persistent: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        self.drawn = nn.Parameter(torch.empty(4))
        self.bias = nn.Parameter(torch.empty(4))
        self.register_buffer("steps", torch.arange(3.0), persistent=persistent)


def initialise(module: nn.Module) -> None:
    if isinstance(module, Norm):
        module.weight.zero_()
        module.drawn.uniform_(3, 4)
        module.steps.copy_(torch.arange(3.0))


def drawn(starts: Starts, name: str, seed: int, shape: tuple[int, ...] = (4,)) -> Tensor:
    value = torch.full(shape, 7.0)
    starts.draw(name, value, torch.Generator().manual_seed(seed))
    return value


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_vectors_begin_as_the_library_says(device) -> None:
    with torch.device(device):
        body = nn.Sequential(Norm(), nn.LayerNorm(4))
    starts = Starts(body, initialise)
    assert drawn(starts, "0.weight", 0).tolist() == [0, 0, 0, 0]
    assert torch.equal(drawn(starts, "0.drawn", 1), drawn(starts, "0.drawn", 1))
    assert not torch.equal(drawn(starts, "0.drawn", 1), drawn(starts, "0.drawn", 2))
    assert 3 <= drawn(starts, "0.drawn", 1).min() <= 4
    for name in ("0.bias", "1.weight", "1.bias"):  # the default initialisation of components
        assert not starts.draw(name, torch.empty(4), torch.Generator())


def test_matrices_of_other_shapes_are_drawn_by_their_own_width() -> None:
    starts = Starts(nn.Sequential(), initialise)
    assert abs(drawn(starts, "experts", 0, (8, 50, 100)).std() - 0.1) < 1e-3


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_buffers_come_back(device) -> None:
    with torch.device(device):
        body = nn.Sequential(Norm())
    starts = Starts(body, initialise)
    body.to_empty(device="cpu").to(torch.bfloat16)
    body[0].steps.fill_(9)
    starts.restore(body)
    assert body[0].steps.tolist() == [0, 1, 2]
    assert body[0].steps.dtype == torch.float32
    assert "0.steps" not in body.state_dict()


def test_a_buffer_that_nobody_can_make_anew_is_refused() -> None:
    with torch.device("meta"):
        body = nn.Sequential(Norm())
        kept = nn.Sequential(Norm(persistent=True))
    with pytest.raises(ValueError, match=r"the buffer 0.steps cannot be recomputed: build this model on a real device"):
        Starts(body, lambda module: None)
    with pytest.raises(ValueError, match=r"the buffer 0.steps"):
        Starts(kept, initialise)


def test_flops_count_matrices_and_no_tables() -> None:
    body = nn.Sequential(nn.Linear(3, 5), nn.Embedding(100, 3), nn.LayerNorm(5), PassThrough())
    assert matrix_flops(body, 2) == 2 * 2 * 15


class Auto:
    """Stand-in for `AutoConfig`, which reads what it is given."""

    def for_model(self, **fields: Any) -> dict[str, Any]:
        if "wrong" in fields:
            raise TypeError("several\nlines")
        return fields

    def from_pretrained(self, path: str, *, local_files_only: bool, trust_remote_code: bool) -> str:
        assert local_files_only
        assert not trust_remote_code
        return path


def test_a_configuration_is_read_from_fields_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "their"}))
    for config in ({"model_type": "qwen2"}, str(tmp_path), str(tmp_path / "config.json")):
        assert read_config(Auto(), ["qwen2"], config, False) == config
    with pytest.raises(ValueError, match="'nowhere' does not exist"):
        read_config(Auto(), ["qwen2"], "nowhere", False)
    with pytest.raises(ValueError, match=r"config is a list: it must be a folder, a config.json or its fields"):
        read_config(Auto(), ["qwen2"], [1], False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^the configuration: transformers cannot read it: several lines$"):
        read_config(Auto(), ["qwen2"], {"model_type": "qwen2", "wrong": 1}, False)
    os.mkfifo(tmp_path / "vocab.json")
    with pytest.raises(ValueError, match=r"vocab\.json is a pipe or a device"):
        read_config(Auto(), ["qwen2"], str(tmp_path), False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "qwen2", "num_hidden_layer": 3}, "has no field 'num_hidden_layer'; did you mean 'num_hid"),
        ({"model_type": "siglip", "hidden_size": 8}, "has no field 'hidden_size'; text_config and vision_config h"),
        ({"model_type": "siglip", "vision_config": {"patchsize": 4}}, "vision_config has no field 'patchsize'; did"),
        ({"model_type": "qwen2", "rope_theta": 3.0, "dtype": "bfloat16", "attn_implementation": "eager"}, ""),
        ({"model_type": "gpt2", "num_hidden_layers": 2, "n_embd": 8}, ""),  # a name of all models, and its own
    ],
)
def test_fields_that_transformers_would_not_use_are_refused(fields: dict[str, Any], message: str) -> None:
    from transformers import CONFIG_MAPPING, AutoConfig

    if not message:
        assert read_config(AutoConfig, CONFIG_MAPPING.keys(), fields, False).model_type == fields["model_type"]
        return
    with pytest.raises(ValueError, match=message):
        read_config(AutoConfig, CONFIG_MAPPING.keys(), fields, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers must be from 1 to 1,000"),
        ({"n_layer": 10**7}, "n_layer must be a number of at most 1,000"),
        ({"depths": [2, 10**7]}, "depths must be a number of at most 1,000"),
        ({"num_attention_heads": -1}, "num_attention_heads must be from 1"),
        ({"hidden_size": 2.5}, "hidden_size must be a whole number"),
        ({"vocab_size": 10**12}, "vocab_size must be from 1"),
        ({"hidden_size": 10**9}, "hidden_size must be from 1 to 1,000,000"),
        ({"n_embd": 10**9}, "n_embd must be a number of at most 1,000,000"),
        ({"initializer_range": float("nan")}, "initializer_range must be a number"),
        ({"attn_implementation": "org/name"}, "attn_implementation 'org/name' is not one of eager"),
        ({"_attn_implementation": {"": "org/name"}}, "attn_implementation .* is not one of eager"),
        ({"_attn_implementation_internal": "org/name"}, "attn_implementation 'org/name' is not one of eager"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config, which is not supported"),
        ({"transformers_weights": "other.bin"}, "transformers_weights, which is not supported"),
        ({"architecture": "hf-hub:org/name"}, "is in a hub: nothing is downloaded"),
    ],
)
@pytest.mark.parametrize("depth", [0, 2])
def test_fields_that_are_out_of_range_or_reach_outside_are_refused(
    fields: dict[str, Any], message: str, depth: int, tmp_path: Path
) -> None:
    whole = {"model_type": "qwen2", **fields} if not depth else {"model_type": "qwen2", "text_config": {"a": [fields]}}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    for config in (whole, str(tmp_path)):
        with pytest.raises(ValueError, match=message):
            read_config(Auto(), ["qwen2"], config, False)


def test_attention_is_known_installed_and_not_replaced_by_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    body = type("Body", (), {"_compatible_flash_implementations": ["org/kernel"]})
    for name in ("org/kernel", "kernels-community/flash-attn", "paged|sdpa", ["sdpa"]):
        with pytest.raises(ValueError, match="is not one of eager, sdpa, flex_attention, flash_attention_2"):
            check_attention(body, name)
    installed: set[str] = set()
    monkeypatch.setattr(wrapped, "find_spec", lambda package: package if package in installed else None)
    with pytest.raises(ValueError, match="the package flash_attn is not installed"):
        check_attention(None, "flash_attention_2")
    installed.add("flash_attn")
    check_attention(None, "flash_attention_2")
    with pytest.raises(ValueError, match="the model needs another"):
        check_attention(body, "flash_attention_2")
    check_attention(body, "sdpa")
