"""Keys of annotations that describe a sample and do not change what is trained on.

Every other key that no reader uses makes `data convert` skip the sample, since it may mean something that training
would then ignore: a loss weight, a second answer, a region. `--keep_unknown_keys` lets such keys pass and counts them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = {
    "identity": "id ids idx index key uid uuid hash md5 sha1 sha256",
    "origin": "source sources origin dataset dataset_name dataset_source data_source ds_name subset config split shard"
    " dump corpus collection url urls uri link links host domain file files filename file_name file_path path"
    " original_file warc_record_id license copyright",
    "description": "meta metadata annotation task task_type task_name type category categories topic topics tag tags"
    " subject subjects skill skills level difficulty grade language lang languages title caption_type question_type"
    " answer_type answer_gt data_type sample_type format attributes quality_signals",
    "time": "date dates time timestamp created created_at created_date added updated updated_at modified crawl_date"
    " version year",
    "author": "author authors annotator annotators user user_id generator model model_name model_id chosen_model"
    " rejected_model chosen_source rejected_source",
    "size": "width height width_list height_list image_width image_height image_size image_sizes resolution size length"
    " duration fps num_frames token_count num_tokens n_tokens tokens_count token_num num_turns turn_count n_turns"
    " num_images n_images image_num num_chars char_count word_count",
    "measure": "score scores quality quality_score rating ratings confidence similarity clip_score perplexity ppl"
    " language_score lang_score language_probability chosen_score rejected_score score_chosen score_rejected"
    " chosen_rating rejected_rating int_score edu_score toxicity nsfw_score watermark_score aesthetic_score",
}
SAMPLE_KEYS = frozenset(name for names in _NAMES.values() for name in names.split())
"""Keys of a sample."""
_TURN = "id idx index turn turn_id message_id uid uuid parent_id name time timestamp created_at model"
_PART = (
    "id detail format mime_type media_type cache_control fps nframes min_frames max_frames min_pixels max_pixels"
    " total_pixels resized_height resized_width width height image_wh"
)
TURN_KEYS = frozenset(_TURN.split())
"""Keys of a turn."""
PART_KEYS = frozenset(_PART.split())
"""Keys of a part of a turn: identity, and settings of another model's preprocessing, which a recipe has here."""
_IDENTITY = re.compile(
    r"(?!(?:input|output|token|label)_ids?$|(?:prompt|completion|chosen|rejected)_ids$)"
    r"[a-z0-9_]+_(?:id|ids|idx|index|uid|uuid|hash|md5|sha1|sha256)"
)


def unknown_keys(given: Mapping[str, Any], harmless: frozenset[str], used: Iterable[str] = ()) -> list[str]:
    """Returns the keys with a value that are neither used nor harmless.

    Args:
        given: A sample, a turn or a part.
        harmless: The harmless keys of these.
        used: Keys that a reader uses or has checked.
    """
    known = {*used, *harmless}
    return [
        key
        for key, value in given.items()
        if key not in known and not _is_nothing(value) and not _IDENTITY.fullmatch(key.lower())
    ]


def _is_nothing(value: object) -> bool:
    """Whether a value is null or empty, or all that it holds is."""
    if isinstance(value, dict | list):
        return all(map(_is_nothing, value.values() if isinstance(value, dict) else value))
    return value is None or value == ""
