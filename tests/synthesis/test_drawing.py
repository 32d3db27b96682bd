from __future__ import annotations

from dataclasses import replace

import torch

import tiny
from drawn import write_questions
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.synthesis.drawing import DrawOptions, draw_settings, model_digest
from mmcomponents.synthesis.rollout import Sampling


def test_settings_tell_all_that_answers_depend_on(tmp_path, renderer, writer) -> None:
    model, questions = writer(), write_questions(tmp_path, 1)

    def settings(**changes) -> dict:
        return draw_settings(model, replace(renderer, **changes), Sampling(), questions, DrawOptions())

    base = settings()
    assert settings() == base
    other = train_tokenizer(["Other words make another vocabulary."] * 4, 300)
    for name, value in {
        "tokenizer": other,
        "tokens_per_tile": 2 * tiny.VISUAL_TOKENS,
        "tiling": Tiling(tile_size=tiny.TILE, max_tiles=3),
        "normalization": "siglip",
        "system": "Be kind.",
        "frame_template": "{number} <image>",
        "control_text": "refuse",
    }.items():
        changed = settings(**{name: value})
        assert [key for key in base if changed[key] != base[key]] == [name]


def test_a_digest_sees_the_begin_the_middle_and_the_end_of_a_weight(writer) -> None:
    model = writer()
    base = model_digest(model)
    weight = model.heads["lm"].weight
    with torch.no_grad():
        for rows in (slice(0, 1), slice(100, 101), slice(-1, None)):
            weight[rows] += 1
            assert model_digest(model) != base
            weight[rows] -= 1
    model.load_state_dict(writer().state_dict())
    assert model_digest(model) == base
    # a tensor of which only a part is hashed: changed rows and changed columns are both detected
    big = torch.nn.Linear(1024, 1024, bias=False)
    torch.nn.init.zeros_(big.weight)
    plain = model_digest(big)
    for place in ((slice(None), slice(512, 640)), (slice(700, 760), slice(None))):
        with torch.no_grad():
            big.weight.zero_()
            big.weight[place] = 1
        assert model_digest(big) != plain
