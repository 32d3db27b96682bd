"""Error for a sample of an annotation file that cannot be used, with a code and a reason."""

from __future__ import annotations

from mmcomponents.data.errors import SampleError

CODES = {
    "bad_json": "not a JSON object, a duplicate key, or too long a line",
    "bad_text": "control characters, or invalid UTF-8",
    "unknown_form": "the keys belong to no supported form of annotations",
    "bad_field": "a known key with a value of the wrong type",
    "unknown_media": "an unknown key that seems to give media",
    "unknown_key": "a key that is neither used nor known to be harmless",
    "unsupported": "a key for an unsupported feature, such as tools or turns without loss",
    "empty": "no turn, or no text",
    "roles": "turns that do not alternate, or unknown roles",
    "no_answer": "an answer that is missing or empty",
    "equal_answers": "the chosen and the rejected answer are equal",
    "placeholders": "placeholders and media differ in number",
    "missing_file": "a media file that is missing or cannot be read",
    "outside_root": "a media path outside the root",
    "web_address": "media at a URL, which are not fetched",
    "bad_data_url": "a data: URL that cannot be decoded",
    "broken_image": "an image that is broken, truncated, too large or of an unknown format",
    "broken_video": "a video that is broken, too large, of an unknown format, or without frames in its clip",
    "media_size": "a media file that is empty or too large for memory",
    "over_budget": "more tokens than a sample may have",
    "unexpected": "an unexpected error; the reason has its type and message",
}
"""Code -> description."""


class Refused(SampleError):
    """One sample of an annotation file cannot be used.

    Attributes:
        code: One of `CODES`.
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in CODES:
            raise ValueError(f"unknown code {code!r}")
        super().__init__(message)
        self.code = code
