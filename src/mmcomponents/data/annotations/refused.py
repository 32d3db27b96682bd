"""Why a sample of an annotation file cannot be used: a code that programs can count, and a sentence for people."""

from __future__ import annotations

from mmcomponents.data.errors import SampleError

CODES = {
    "bad_json": "no JSON object, a key twice, or too large a line",
    "bad_text": "control characters, or bytes that are no UTF-8",
    "unknown_form": "the keys belong to no known form of annotations",
    "bad_field": "a known key with a value of the wrong type",
    "unknown_media": "a key that is not known and seems to name media",
    "unsupported": "a key that asks for what training here does not do, such as tools or turns without loss",
    "empty": "no turn, or no text at all",
    "roles": "turns that do not alternate, or roles that are not known",
    "no_answer": "an answer that is missing or empty",
    "equal_answers": "the chosen and the rejected answer are equal",
    "placeholders": "placeholders and media differ in number",
    "missing_file": "a file of media that is not there or cannot be read",
    "outside_root": "a path of media that leaves the root",
    "web_address": "media at an address on the web, which are not fetched",
    "bad_data_url": "a data: address that cannot be decoded",
    "broken_image": "an image that is broken, truncated, too large or of an unknown format",
    "broken_video": "a video that is broken, too large, of an unknown format, or without frames in its clip",
    "media_size": "a file of media that is empty or too large for memory",
    "over_budget": "more tokens than a sample may have",
    "unexpected": "a fault that nobody foresaw; the reason has its kind and its message",
}
"""Code -> what it stands for."""


class Refused(SampleError):
    """One sample of an annotation file cannot be used.

    Attributes:
        code: One of `CODES`.
    """

    def __init__(self, code: str, message: str) -> None:
        if code not in CODES:
            raise ValueError(f"no code {code!r} for a refusal")
        super().__init__(message)
        self.code = code
