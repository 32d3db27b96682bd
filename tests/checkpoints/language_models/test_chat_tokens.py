"""Tokens of the chat template are added to a language model that was trained without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import mmcomponents
from mmcomponents.checkpoints import CheckpointError, read
from mmcomponents.checkpoints.language_models import gguf_files as gguf
from mmcomponents.checkpoints.language_models.chat_tokens import add_chat_tokens, missing_tokens
from mmcomponents.checkpoints.language_models.gguf_files import convert_gguf, gguf_file
from mmcomponents.cli.main import main
from mmcomponents.data import load_tokenizer
from mmcomponents.data.chat.special_tokens import CONTROL_TOKENS, GROUNDING_TOKENS, IMAGE_CONTEXT

WORDS = ["<|endoftext|>", "<|im_start|>", "what", "is", "it"]


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="it"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.add_special_tokens(WORDS[:2])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def llama(vocab_size: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=vocab_size, num_key_value_heads=1, tie_word_embeddings=tied, **sizes)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vocab_size", [5, 8, 40])
def test_rows_of_new_tokens_are_means_and_the_others_are_unchanged(tmp_path: Path, tied: bool, vocab_size: int) -> None:
    theirs = llama(vocab_size, tied)
    theirs.save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    assert main(["import", str(tmp_path / "lm"), "--out", str(tmp_path / "out"), "--chat_tokens"]) == 0
    ours, made = mmcomponents.load(tmp_path / "out"), load_tokenizer(tmp_path / "out")
    assert missing_tokens(made) == []
    assert [made.convert_tokens_to_ids(word) for word in WORDS] == [*range(5)]
    assert len(made) == 5 + len(CONTROL_TOKENS) + len(GROUNDING_TOKENS) - 2
    assert made.tokenize("what <box> is") == ["what", "<box>", "is"]
    spec = read(tmp_path / "out").spec
    assert (spec.vocab_size, spec.image_token_id) == (max(vocab_size, len(made)), made.get_vocab()[IMAGE_CONTEXT])
    known = min(5, vocab_size)
    for found, old in ((ours.embedder, theirs.model.embed_tokens), (ours.heads["lm"], theirs.lm_head)):
        weight: Any = found.embedding_weight() if found is ours.embedder else found.weight  # type: ignore[union-attr]
        torch.testing.assert_close(weight[:known], old.weight[:known], rtol=0, atol=0)
        mean = old.weight[:known].mean(dim=0).expand(weight.shape[0] - known, -1)
        torch.testing.assert_close(weight[known:], mean)
    ids = torch.tensor([2, 3, 4])
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ids)[:, :known], theirs(ids[None]).logits[0, :, :known])


def test_a_model_that_has_the_tokens_is_unchanged(tmp_path: Path) -> None:
    llama(5, True).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = read(tmp_path)
    made = tokenizer()
    spec, weights = add_chat_tokens(found.spec, found.weights, made)
    again, same = add_chat_tokens(spec, weights, made)
    assert again == spec
    assert same == weights


def test_a_model_without_an_embedding_is_refused(tmp_path: Path) -> None:
    llama(5, True).save_pretrained(tmp_path)
    found = read(tmp_path)
    with pytest.raises(CheckpointError, match="only to a model with a token embedding"):
        add_chat_tokens(found.spec, {}, tokenizer())


def test_gguf_files_are_found(tmp_path: Path) -> None:
    one, two = tmp_path / "a.gguf", tmp_path / "b.gguf"
    assert gguf_file(tmp_path) is gguf_file(tmp_path / "none") is None
    one.touch()
    assert gguf_file(tmp_path) == gguf_file(one) == one
    two.touch()
    with pytest.raises(CheckpointError, match=r"has several GGUF files, name one of them: \S+a.gguf, \S+b.gguf"):
        gguf_file(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(tmp_path) is None


def test_a_gguf_file_becomes_a_folder_with_the_same_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dequantised model of transformers, which the longer test of real weights reads from a file, is made here."""
    theirs = llama(5, True)
    theirs.config.quantization_config = {"quant_method": "gguf"}  # type: ignore[assignment]
    asked: list[str] = []

    def loaded(made: Any) -> Any:
        return lambda folder, gguf_file, **_: (asked.append(f"{folder}/{gguf_file}"), made)[1]

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded(theirs))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loaded(tokenizer()))
    convert_gguf(tmp_path / "m.gguf", tmp_path / "out")
    assert asked == [f"{tmp_path}/m.gguf"] * 2
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    ids = torch.tensor([2, 3, 4])
    with torch.no_grad():
        torch.testing.assert_close(mmcomponents.load(tmp_path / "out").logits(ids), theirs(ids[None]).logits[0])


def test_unreadable_gguf_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"no model")
    assert main(["import", str(file), "--out", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mmcomponents:")]
    assert f"import: {file}: transformers cannot read it: " in line

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("gguf")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", missing)
    with pytest.raises(CheckpointError, match="needs the package gguf: pip install gguf"):
        gguf.convert_gguf(file, tmp_path)
