"""Words that tokenizers share, and their order."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mmcomponents.data.chat.tokenizer import train_tokenizer, vocabulary_fingerprint
from mmcomponents.data.errors import DataError
from mmcomponents.data.vocabulary import shared_words, word_ids

TEXTS = ["the cat sat on the mat", "the dog sat", "a mat of the cat"] * 4


@pytest.fixture(scope="module")
def two() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "one": train_tokenizer(TEXTS, 340),
        "other": train_tokenizer([t.replace("mat", "log") + "! naïve" for t in TEXTS], 340),
    }


def test_words_are_what_tokens_add_to_a_text(two: dict[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = two["one"]
    found = word_ids(tokenizer)
    assert found[" the"] == tokenizer.encode(" the", add_special_tokens=False)[0]
    assert found["a"] == tokenizer.encode("a", add_special_tokens=False)[0]
    assert not {"<img>", "<|im_end|>"} & found.keys()  # added tokens
    assert not any("\N{REPLACEMENT CHARACTER}" in word for word in found)  # bytes of longer characters


def test_the_most_frequent_words_come_first_with_the_ids_of_each(two: dict[str, PreTrainedTokenizerFast]) -> None:
    done: list[int] = []
    found = shared_words(two, iter(TEXTS), 12, done.append)
    assert done == [len(TEXTS)]
    assert {word.text for word in found[:2]} == {"the", " the"}
    assert [word.count for word in found] == sorted((word.count for word in found), reverse=True)
    for word in found:
        for number, tokenizer in zip(word.ids, two.values(), strict=True):
            assert tokenizer.decode([number]) == word.text
    whole = [ids for tokenizer in two.values() for ids in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]]
    assert found[0].count == sum(ids.count(found[0].ids[n // len(TEXTS)]) for n, ids in enumerate(whole))


def test_a_word_of_one_tokenizer_is_not_shared(two: dict[str, PreTrainedTokenizerFast]) -> None:
    only = word_ids(two["one"]).keys() - word_ids(two["other"]).keys()
    assert only
    everything = len(word_ids(two["one"]).keys() & word_ids(two["other"]).keys())
    assert not only & {word.text for word in shared_words(two, TEXTS, everything)}
    with pytest.raises(DataError, match=rf"{everything:,} words are in one and in other, and {everything + 1:,} are"):
        shared_words(two, TEXTS, everything + 1)


def test_the_fingerprint_of_a_vocabulary_ignores_added_tokens(two: dict[str, PreTrainedTokenizerFast]) -> None:
    fresh = train_tokenizer(TEXTS, 340)
    assert vocabulary_fingerprint(fresh) == vocabulary_fingerprint(two["one"]) != vocabulary_fingerprint(two["other"])
    fresh.add_tokens(["<loc>"])
    assert vocabulary_fingerprint(fresh) == vocabulary_fingerprint(two["one"])


def test_tokens_of_single_bytes_are_no_words() -> None:
    model = models.BPE(
        vocab={"<unk>": 0, "<0x41>": 1, "A": 2, "\u2581": 3}, merges=[], byte_fallback=True, unk_token="<unk>"
    )
    backend = Tokenizer(model)
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    found = word_ids(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    assert found["A"] == 2
