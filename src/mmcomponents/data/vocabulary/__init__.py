"""Words that several tokenizers share, ordered by how often texts have them.

tokenizers ── word_ids ──┐
shards, texts ── texts_of ── shared_words ──► words with their counts, and their ids in each tokenizer
"""

from mmcomponents.data.vocabulary.shared_words import Word, shared_words, word_ids
from mmcomponents.data.vocabulary.texts import texts_of

__all__ = ["Word", "shared_words", "texts_of", "word_ids"]
