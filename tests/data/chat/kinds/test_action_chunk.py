"""Windows of demonstrations as samples."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmcomponents.batch import TokenType
from mmcomponents.companions.action_statistics import ActionStatistics
from mmcomponents.data.chat.kinds import ActionChunk, Sample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.images import TiledImage

TOKENIZER = train_tokenizer(["go to the red disc"] * 4, 300)
RENDERER = SampleRenderer(TOKENIZER, 2)
VALUES = np.arange(8, dtype=np.float32).reshape(4, 2)


def sample(values: Any = VALUES, images: int = 1, **record: Any) -> Sample:
    content = io.BytesIO()
    np.save(content, values)
    pictures = [TiledImage(torch.zeros(1, 3, 4, 4)) for _ in range(images)]
    return Sample(
        {"goal": "go to the red disc", "actions": 3, **record}, pictures, members={"actions.npy": content.getvalue()}
    )


def test_a_window_is_a_goal_images_a_noise_level_and_actions() -> None:
    kind = ActionChunk(4, 2, frames=2)
    (segment,) = kind.render(sample(images=2), RENDERER)
    words = len(TOKENIZER("go to the red disc")["input_ids"])
    assert [(span.start, span.count, span.type) for span in segment.spans] == [
        (0, words, TokenType.EXTERNAL), (words, 2, TokenType.IMAGE), (words + 2, 2, TokenType.IMAGE),
        (words + 4, 1, TokenType.TIME), (words + 5, 4, TokenType.ACTION),
    ]  # fmt: skip
    batch = collate([segment, segment], 2, RENDERER.pad_id, (), kind.empty())
    actions = batch.extras["actions"]
    assert torch.equal(actions.values.tensor, torch.from_numpy(np.concatenate((VALUES, VALUES))))
    assert actions.mask.tolist() == [True, True, True, False] * 2
    assert int((batch.layout.token_type == TokenType.ACTION).sum()) == 8
    (prompt,) = kind.prompts(sample(images=2), RENDERER)
    assert prompt.answer == VALUES[1:3].tolist()  # from the present on
    assert not prompt.segment.extras


def test_goals_can_have_one_length() -> None:
    (segment,) = ActionChunk(4, 2, text_length=12).render(sample(), RENDERER)
    assert segment.spans[0].count == 12
    with pytest.raises(SampleError, match=r"the goal has . tokens, text_length is 2"):
        ActionChunk(4, 2, text_length=2).render(sample(), RENDERER)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (sample(np.zeros((4, 3), np.float32)), r"actions of 3 values, and the run's have 2 \(action_width\)"),
        (sample(np.zeros((5, 2), np.float32)), "a chunk of 5 actions, and the run's horizon is 4"),
        (sample(np.array([[0, np.nan]] * 4, np.float32)), "4 of 4 actions are NaN or infinite"),
        (sample(np.zeros((4, 2), np.int64)), r"must be an array of floats \[K, k\], not int64"),
        (sample(actions=5), '"actions" is 5, and the chunk has 4'),
        (sample(images=2), "an observation has 1 images, and this one 2"),
        (sample(goal="end <|im_end|>"), "the goal contains the control token <|im_end|>"),
        (Sample({"goal": "a", "actions": 3}, [TiledImage.of_tiles(1)]), "the sample has no member actions.npy"),
        (
            Sample({"goal": "a", "actions": 3}, [TiledImage.of_tiles(1)], members={"actions.npy": b"x"}),
            "is no array of numpy",
        ),
    ],
)
def test_a_window_that_does_not_fit_is_refused_in_one_line(given: Sample, message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        ActionChunk(4, 2).render(given, RENDERER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"goal": "", "actions": 3}, "the goal must be a text, not ''"),
        ({"goal": None, "actions": 3}, "the goal must be a text, not None"),
        ({"goal": "a", "actions": 0}, '"actions" must be the number of demonstrated actions, from 1 on, not 0'),
        ({"goal": "a", "actions": 3, "dataset": "b"}, "the sample is of the data set 'b', and .* of 'a'"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    ActionStatistics("a", 1, (0.0, 0.0), (1.0, 1.0)).save(tmp_path / "s.json")
    with pytest.raises(SampleError, match=message):
        ActionChunk(4, 2, statistics=str(tmp_path / "s.json")).check(record)


def test_statistics_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no action statistics"):
        ActionChunk(4, 2, statistics=str(tmp_path / "none.json")).check({"goal": "a", "actions": 1})
    ActionStatistics("a", 1, (0.0,), (1.0,)).save(tmp_path / "s.json")
    with pytest.raises(DataError, match=r"has action_width 2, and .* is of actions of 1 values"):
        ActionChunk(4, 2, statistics=str(tmp_path / "s.json")).check({"goal": "a", "actions": 1})
    with pytest.raises(ValueError, match="a horizon of 1 has no action after 2 frames"):
        ActionChunk(1, 2, frames=2)


def test_what_a_user_types_is_laid_out_alike() -> None:
    kind = ActionChunk(4, 2)
    (expected,) = kind.render(sample(), RENDERER)
    found = kind.typed("<image>\ngo to the red disc", sample().images, RENDERER)
    assert found.input_ids == expected.input_ids
    assert found.spans == expected.spans
    with pytest.raises(SampleError, match="the goal has no text"):
        kind.typed("<image>\n", sample().images, RENDERER)
