from __future__ import annotations

import pytest

from mmcomponents.data.chat.critic_prompt import critique


def test_a_critics_chat() -> None:
    made = critique("<image>\nWhat?", ["It is <image>.", "7"], ["-", "+"], system="Judge.")
    assert made == [
        {"role": "system", "content": "Judge."},
        {"role": "user", "content": "### Question:\n<image>\nWhat?\n\n### Solution Process:\nIt is [image]."},
        {"role": "assistant", "content": "-"},
        {"role": "user", "content": "7"},
        {"role": "assistant", "content": "+"},
    ]
    assert [m["role"] for m in critique("What?", ["7"])] == ["system", "user", "assistant"]
    for steps, verdicts in (([], None), (["7"], ["+", "-"])):
        with pytest.raises(ValueError, match="a verdict for each step"):
            critique("What?", steps, verdicts)
