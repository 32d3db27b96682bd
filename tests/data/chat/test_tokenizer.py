from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.special_tokens import CONTROL_TOKENS, GROUNDING_TOKENS, check_template
from mmcomponents.data.chat.template import render_chat
from mmcomponents.data.chat.tokenizer import fingerprint, load_tokenizer, train_tokenizer
from mmcomponents.data.errors import DataError

TEXTS = ["Add up the digits, step by step.", "3 + 17 = 20\nAnswer: 20", "naïve café 你好"] * 4


def test_a_small_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert len(tokenizer) <= 300
    assert len(train_tokenizer(TEXTS * 3, 280)) == 280
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    for token in (*CONTROL_TOKENS, *GROUNDING_TOKENS):
        assert tokenizer.encode(token) == [tokenizer.convert_tokens_to_ids(token)]
    for text in (*TEXTS, "  ünseen  \n\n text 日本\t!", "1024"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("1024")) == 4


def test_making_one_is_deterministic_and_saving_keeps_it(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    assert fingerprint(tokenizer) == fingerprint(train_tokenizer(TEXTS, 300))
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert fingerprint(loaded) == fingerprint(tokenizer)
    chat = [{"role": "user", "content": "<image>\n3 + 4?"}, {"role": "assistant", "content": "7"}]
    assert render_chat(chat, loaded, [2]) == render_chat(chat, tokenizer, [2])


def test_other_tokenizers_have_other_fingerprints(qwen: PreTrainedTokenizerFast) -> None:
    marks = {fingerprint(t) for t in (train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS, 290), qwen)}
    assert len(marks) == 3


def test_a_call_that_truncates_leaves_no_trace() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    before = fingerprint(tokenizer)
    chat = [{"role": "user", "content": "step " * 50}, {"role": "assistant", "content": "7"}]
    length = len(render_chat(chat, tokenizer, []).input_ids)
    tokenizer("step " * 50, truncation=True, max_length=5)
    assert len(render_chat(chat, tokenizer, []).input_ids) == length
    assert fingerprint(tokenizer) == before


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size 200 is less than 256 bytes and 12 special tokens"):
        train_tokenizer(TEXTS, 200)
    with pytest.raises(DataError, match="no tokenizer folder"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(DataError, match="contains no tokenizer"):
        load_tokenizer(tmp_path)
    train_tokenizer(TEXTS, 300).save_pretrained(str(tmp_path))
    file = tmp_path / "tokenizer.json"
    made = json.loads(file.read_text())
    made["model"]["vocab"].pop(made["model"]["merges"][0][0])  # which a merge still names
    file.write_text(json.dumps(made))
    with pytest.raises(DataError, match="contains no tokenizer that transformers can load: "):
        load_tokenizer(tmp_path)


def test_code_of_a_folder_is_not_run_and_not_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path)
    (tmp_path / "their.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')\nclass Their: pass\n")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    settings = tmp_path / "tokenizer_config.json"
    given = json.loads(settings.read_text()) | {"auto_map": {"AutoTokenizer": ["their.Their", None]}}
    settings.write_text(json.dumps(given | {"tokenizer_class": "Their"}))
    with pytest.raises(DataError, match=r"needs Python code of its own, which is not run") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    settings.write_text(json.dumps(given))
    assert load_tokenizer(tmp_path).eos_token == "<|im_end|>"
    assert not asked
    assert not (tmp_path / "harm").exists()


def test_files_that_are_no_files_are_not_opened(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300).save_pretrained(tmp_path)
    os.mkfifo(tmp_path / "vocab.json")
    with pytest.raises(DataError, match=r"vocab\.json is a pipe or a device"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").unlink()
    half = (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(half[: len(half) // 2])
    with pytest.raises(DataError, match="contains no tokenizer that transformers can load"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"tokenizer_config\.json is nested more than 100 deep"):
        load_tokenizer(tmp_path)


def test_data_without_text_needs_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = load_tokenizer("byte-level")
    assert tokenizer.decode(tokenizer("née 7").input_ids) == "née 7"
    assert fingerprint(load_tokenizer("byte-level")) == fingerprint(tokenizer)
    check_template(tokenizer, images=True)
    with pytest.raises(DataError, match="no tokenizer folder"):
        load_tokenizer("byte-levels")


def test_tokenizers_whose_added_tokens_differ_in_flags_have_different_fingerprints() -> None:
    found = set()
    for flags in (
        {},
        {"special": True},
        {"lstrip": True},
        {"rstrip": True},
        {"single_word": True},
        {"normalized": True},
    ):
        tokenizer = train_tokenizer(TEXTS, 300)
        tokenizer.add_tokens([AddedToken("<loc>", **{"normalized": False, **flags})])
        found.add(fingerprint(tokenizer))
    assert len(found) == 6
