"""Shared vocabularies of model folders, with their embeddings, and the command that writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mmcomponents.checkpoints import CheckpointError
from mmcomponents.checkpoints.language_models.vocabulary_files import embedding_rows, write_vocabularies
from mmcomponents.cli.main import main
from mmcomponents.data.chat.tokenizer import train_tokenizer, vocabulary_fingerprint
from mmcomponents.shared_vocabulary import SharedVocabulary

TEXTS = ["the cat sat on the mat", "the dog sat", "a mat of the cat"] * 4
SIZES: dict[str, Any] = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
}


def language_model(folder: Path, width: int, kind: str = "qwen2", extra: str = "") -> Any:
    """Writes a small language model of transformers with a tokenizer."""
    tokenizer = train_tokenizer([text + extra for text in TEXTS], 340)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), hidden_size=width, **SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture
def texts(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


def test_each_model_gets_its_ids_and_embeddings_of_the_same_words(tmp_path: Path, texts: str) -> None:
    # OLMo is a model that only transformers reads.
    kinds = {"qwen": ("qwen2", 8, ""), "llama": ("llama", 12, " naive dogs"), "other": ("olmo", 16, "?")}
    models = {name: language_model(tmp_path / name, width, kind, extra) for name, (kind, width, extra) in kinds.items()}
    found = write_vocabularies([str(tmp_path / name) for name in kinds], [texts], 15, str(tmp_path / "out"))
    read = {name: SharedVocabulary.read(tmp_path / "out" / f"{name}.safetensors") for name in kinds}
    assert found.widths == [8, 12, 16]
    assert len({vocabulary.digest for vocabulary in read.values()}) == 1
    assert set(read["qwen"].words[:2]) == {"the", " the"}
    for name, vocabulary in read.items():
        model, tokenizer = models[name]
        assert [tokenizer.decode([number]) for number in vocabulary.ids.tolist()] == list(vocabulary.words)
        assert torch.equal(vocabulary.rows, model.get_input_embeddings().weight.detach()[vocabulary.ids])
        assert vocabulary.tokenizer == vocabulary_fingerprint(tokenizer)
    lines = (tmp_path / "out" / "words.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["word", "count", *kinds]
    assert lines[1].split("\t")[:2] == ["the", "24"]


def test_the_command_writes_and_tells(tmp_path: Path, texts: str, capsys: pytest.CaptureFixture[str]) -> None:
    language_model(tmp_path / "model", 8)
    train_tokenizer(TEXTS, 340).save_pretrained(tmp_path / "tokenizer")
    words = ["data", "vocabulary", "--models", f"{tmp_path}/model", f"{tmp_path}/tokenizer", "--texts", texts]
    words += ["--out", str(tmp_path / "out"), "--size"]
    assert main([*words, "300000"]) == 2
    assert "and 300,000 are asked for" in capsys.readouterr().err
    assert main([*words, "20"]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors: 20 words, embeddings of width 8" in shown
    assert "tokenizer.safetensors: 20 words, no embeddings, since the folder has no weights" in shown
    assert "the most frequent: 'the', ' the'" in shown
    assert main([*words, "20"]) == 2
    assert "model.safetensors exists; --overwrite replaces it" in capsys.readouterr().err
    assert main([*words, "20", "--overwrite"]) == 0


def test_two_models_of_one_name_are_refused(tmp_path: Path, texts: str) -> None:
    with pytest.raises(CheckpointError, match=r"two models have the name m: .*a/m and .*b/m"):
        write_vocabularies([str(tmp_path / "a" / "m"), str(tmp_path / "b" / "m")], [texts], 5, str(tmp_path / "out"))


def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    language_model(tmp_path / "m", 8)
    assert embedding_rows(tmp_path, torch.tensor([3])) is None
    with pytest.raises(CheckpointError, match=r"has embeddings of \d+ tokens, and its tokenizer has the id 5000"):
        embedding_rows(tmp_path / "m", torch.tensor([3, 5000]))
    weights = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    weights["model.embed_tokens.weight"][3] = torch.nan
    save_file({name: value.clone() for name, value in weights.items()}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"embedder\.embedding\.weight"):
        embedding_rows(tmp_path / "m", torch.tensor([3]))
    assert embedding_rows(tmp_path / "m", torch.tensor([2])).shape == (1, 8)
