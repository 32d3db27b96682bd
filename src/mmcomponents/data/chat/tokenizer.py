"""Training of small tokenizers, loading from a folder, and fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcomponents.data.chat.special_tokens import CONTROL_TOKENS, END, GROUNDING_TOKENS, PAD, TEMPLATE
from mmcomponents.data.errors import DataError, demo_kind
from mmcomponents.data.storage.hub import HubError, local_folder
from mmcomponents.model_files import ModelFileError, check_model_files, read_json_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2.5's pre-tokenization pattern: words with the preceding space, and single digits."""

_PROBE = "It's 3 plus 1024,\n\n  naïve ÀÉ 你好 <ref>a b</ref>!\t..."


_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
"""Flags of an added token, which determine where it is recognised in a text."""

BYTE_LEVEL = "byte-level"
"""Name of a tokenizer that needs no folder, see `load_tokenizer`."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with Qwen2.5's pre-tokenization and InternVL's special tokens.

    Args:
        texts: Training texts.
        vocab_size: Vocabulary size, including the 256 bytes and the special tokens. The result is smaller if the texts
            do not contain enough pairs.

    Raises:
        ValueError: The vocabulary size is smaller than the number of bytes and special tokens.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    check_vocab_size(vocab_size)
    special = [*CONTROL_TOKENS, *GROUNDING_TOKENS]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def check_vocab_size(vocab_size: int) -> None:
    """Checks that a tokenizer of a vocabulary size can be trained.

    Args:
        vocab_size: See `train_tokenizer`.

    Raises:
        ValueError: The vocabulary size is smaller than the number of bytes and special tokens.
    """
    special = len(CONTROL_TOKENS) + len(GROUNDING_TOKENS)
    if vocab_size < 256 + special:
        raise ValueError(f"vocab_size {vocab_size} is less than 256 bytes and {special} special tokens")


def load_tokenizer(path: str | Path, allowed_tokens: Sequence[str] | None = None) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a folder, without code of the folder.

    Args:
        path: The folder, a model of the hub (`org/name`, `org/name@revision`), or "byte-level" for a tokenizer of bytes
            and special tokens alone, for data without text.
        allowed_tokens: Special tokens of the tokenizer that texts may contain, such as `<loc>`: they are single tokens
            there, and no longer special.

    Raises:
        DataError: The folder is missing, contains no tokenizer, or one that needs Python code of the folder, or an
            allowed token is none of its added tokens or belongs to the chat template.
    """
    tokenizer = _load_tokenizer(path)
    if allowed_tokens:
        _allow(tokenizer, allowed_tokens, path)
    return tokenizer


def _allow(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str], path: str | Path) -> None:
    """Makes special tokens ordinary added tokens, in place."""
    from tokenizers import AddedToken

    added = {token.content: (number, token) for number, token in tokenizer.added_tokens_decoder.items()}
    for name in dict.fromkeys(tokens):
        if name in CONTROL_TOKENS:
            raise DataError(f"allowed_tokens: {name} belongs to the chat template; no text may contain it")
        if name not in added:
            known = ", ".join(token for token in added if token not in (*CONTROL_TOKENS, *GROUNDING_TOKENS)) or "none"
            raise DataError(f"allowed_tokens: {name!r} is no added token of {path}; its others are {known}")
        number, old = added[name]
        flags = {flag: getattr(old, flag) for flag in _FLAGS} | {"special": False}
        tokenizer.add_tokens([AddedToken(name, **flags)])
        if tokenizer.added_tokens_decoder[number].special:
            raise DataError(f"allowed_tokens: {name} cannot be allowed in {path}, whose tokenizer keeps it special")


def _load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedConfig

    try:
        folder = local_folder(path, weights=False)
    except HubError as error:
        raise DataError(f"tokenizer: {error}") from error
    if str(path) == BYTE_LEVEL and not folder.is_dir():
        return train_tokenizer([], 256 + len(CONTROL_TOKENS) + len(GROUNDING_TOKENS))
    if not folder.is_dir():
        raise DataError(
            f"there is no tokenizer folder {folder}; `mmcomponents data {demo_kind(folder)}` makes one beside its"
            " shards, and folders of released models contain one"
        )
    # A tokenizer that names its class needs no model configuration, and ours would cause a warning.
    settings = _settings(folder)
    named = "tokenizer_class" in settings
    given = {"config": PreTrainedConfig()} if named else {}
    try:
        # Without trust_remote_code=False, transformers asks on standard input whether to run the folder's code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **given
        )
    except Exception as error:  # tokenizers raises no narrower type for inconsistent files
        if "auto_map" in settings:
            raise DataError(
                f"the tokenizer of {folder} needs Python code of its own, which is not run; save it as tokenizer.json"
            ) from error
        reason = " ".join(str(error).split())
        raise DataError(f"the folder {folder} contains no tokenizer that transformers can load: {reason}") from error
    return tokenizer


def _settings(folder: Path) -> dict[str, object]:
    """Returns the `tokenizer_config.json` of a folder, after a check of all files that transformers may open."""
    try:
        check_model_files(folder)
        found = read_json_file(folder / "tokenizer_config.json")
    except FileNotFoundError:
        return {}
    except (OSError, ModelFileError) as error:
        raise DataError(str(error)) from error
    return found if isinstance(found, dict) else {}


def vocabulary_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a short hash of the tokens and their ids; added tokens, which models of one family differ in, apart."""
    digest, added = hashlib.sha256(), tokenizer.added_tokens_decoder
    for token, number in sorted(tokenizer.get_vocab().items()):
        if number not in added:
            digest.update(f"{number}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a short hash of what determines the length of a conversation: vocabulary, splitting and chat template.

    It does not depend on how the tokenizer is stored, and is unchanged by saving and loading. The flags of added tokens
    are part of it, unless they are those of `train_tokenizer`: earlier versions left them out.
    """
    digest = hashlib.sha256(TEMPLATE.encode())
    for token, number in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{number}\t{token}\n".encode("utf-8", "surrogatepass"))
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):
        flags = [name for name in _FLAGS if getattr(token, name)]
        if flags != ["special"]:
            digest.update(f"{number}\t{' '.join(flags)}\n".encode())
    probe = tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    digest.update(repr(list(probe)).encode())
    return digest.hexdigest()[:16]
