"""Shared vocabularies of several language models, with the embeddings of each."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmcomponents.checkpoints.checkpoint import read
from mmcomponents.checkpoints.checkpoint_error import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.transformers_folder import ForeignFolder
from mmcomponents.data.chat.tokenizer import load_tokenizer, vocabulary_fingerprint
from mmcomponents.data.storage.hub import HubError, is_hub_name, local_folder
from mmcomponents.data.vocabulary import Word, shared_words, texts_of
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.shared_vocabulary import SharedVocabulary

_EMBEDDING = "embedder.embedding.weight"
LIST = "words.tsv"


@dataclass(frozen=True)
class VocabularyFiles:
    """What `write_vocabularies` has written.

    Attributes:
        words: The words, most frequent first.
        files: File of each model.
        widths: Width of the embeddings in each file; None for a folder without weights.
    """

    words: list[Word]
    files: list[Path]
    widths: list[int | None]


def write_vocabularies(
    models: Sequence[str],
    texts: Sequence[str],
    size: int,
    out: str,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> VocabularyFiles:
    """Writes the words that the tokenizers of models share, a file for each model, and a list of them.

    Args:
        models: Folders of models, models of the hub, or folders of tokenizers alone, whose files have no embeddings.
        texts: Shards, `.jsonl` or `.txt` files whose tokens are counted, see `texts_of`.
        size: Number of words; the paper takes 19,200.
        out: Folder of `NAME.safetensors`, by the names of the folders of models, and `words.tsv`.
        overwrite: Whether existing files are replaced.
        progress: Called with the number of texts that were counted.

    Raises:
        CheckpointError: Two folders have one name, a file exists, or weights cannot be read.
        DataError: A tokenizer or a text cannot be read, or the tokenizers share fewer words.
    """
    files: list[Path] = []
    for model in models:
        file = Path(out) / f"{_name(model)}.safetensors"
        if file in files:
            raise CheckpointError(f"two models have the name {file.stem}: {models[files.index(file)]} and {model}")
        files.append(file)
    existing = next((file for file in (*files, Path(out) / LIST) if file.exists()), None)
    if existing is not None and not overwrite:
        raise CheckpointError(f"{existing} exists; --overwrite replaces it")
    try:
        folders = [local_folder(model) for model in models]
    except HubError as error:
        raise CheckpointError(str(error)) from error
    tokenizers = {str(folder): load_tokenizer(folder) for folder in folders}
    found = shared_words(tokenizers, texts_of(texts), size, progress)
    made = []
    for place, (folder, tokenizer) in enumerate(zip(folders, tokenizers.values(), strict=True)):
        ids = torch.tensor([word.ids[place] for word in found])
        words = tuple(word.text for word in found)
        made.append(SharedVocabulary(words, ids, vocabulary_fingerprint(tokenizer), embedding_rows(folder, ids)))
    Path(out).mkdir(parents=True, exist_ok=True)
    for file, vocabulary in zip(files, made, strict=True):
        vocabulary.save(file)
    with (Path(out) / LIST).open("w", encoding="utf-8", errors="surrogatepass", newline="") as file_of_words:
        rows = csv.writer(file_of_words, delimiter="\t")
        rows.writerow(("word", "count", *(file.stem for file in files)))
        rows.writerows((word.text, word.count, *word.ids) for word in found)
    return VocabularyFiles(found, files, [None if v.rows is None else v.rows.shape[1] for v in made])


def _name(model: str | Path) -> str:
    """Returns the name of a model: that of its folder, or of a model of the hub without its organisation."""
    return str(model).partition("@")[0].rpartition("/")[2] if is_hub_name(model) else Path(model).resolve().name


def embedding_rows(folder: Path, ids: Tensor) -> Tensor | None:
    """Reads the embeddings of tokens from a model folder.

    Args:
        folder: Folder of any format that `read` or transformers supports.
        ids: `[V]` token ids.

    Returns:
        `[V, d]`; None if the folder has no weights.

    Raises:
        CheckpointError: The weights cannot be read, or have fewer rows.
    """
    if not any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin")):
        return None
    try:
        stored = read(folder).weights.get(_EMBEDDING)
    except UnknownFormatError:
        part = TokenEmbedder(1, 1)
        stored = ForeignFolder(folder).weights("embedder", part).get(_EMBEDDING.removeprefix("embedder."))
    if stored is None:
        raise CheckpointError(f"{folder} has weights, but no embedding weight")
    highest, count = int(ids.max()), stored.meta.shape[0]
    if count <= highest:
        raise CheckpointError(f"{folder} has embeddings of {count} tokens, and its tokenizer has the id {highest}")
    found = stored.load()[ids]
    check_finite(str(folder), _EMBEDDING, found)
    return found.clone()
