"""Scores of a critic, with a tiny randomly initialized model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from mmcomponents.batch import ModelState
from mmcomponents.component import NonFiniteError
from mmcomponents.data.chat.critic_prompt import critique
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.evaluation.critic import Critic, Solution
from mmcomponents.heads import Verbalizer
from mmcomponents.positions import RoPE
from mmcomponents.synthesis.rollout import Question
from mmcomponents.synthesis.steps import ProcessSteps, WholeAnswer

ANSWER = "It is a cat.\n\nA cat, or 7 dogs.\n\nFinal answer: 7"


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.full((16, 16, 3), shade, np.uint8))


def ask(key: str, text: str = "What is this?", *shades: int) -> Question:
    media = (lambda: ([picture(shade) for shade in shades], [])) if shades else None
    return Question(key, [{"role": "user", "content": text}], media)


@pytest.fixture
def renderer(tokenizer):
    return SampleRenderer(tokenizer, tiny.VISUAL_TOKENS, Tiling(tile_size=tiny.TILE, max_tiles=2), system="Be brief.")


@pytest.fixture
def judge(tokenizer):
    """A model with a verbalizer."""
    vocab, ids = len(tokenizer), tuple(tokenizer.convert_tokens_to_ids(["+", "-"]))
    return tiny.model(embedder=TokenEmbedder(vocab, tiny.WIDTH), heads={"lm": Verbalizer(tiny.WIDTH, vocab, ids)})


def one_by_one(model, renderer, question: str, steps: list[str], images, system: str) -> list[float]:
    """Scores each step in its own forward pass, with the positive word after each earlier step."""
    plus, minus = renderer.tokenizer.convert_tokens_to_ids(["+", "-"])
    plain = SampleRenderer(renderer.tokenizer, renderer.tokens_per_tile, renderer.tiling)
    found = []
    for count in range(1, len(steps) + 1):
        messages = critique(question, steps[:count], system=system)[:-1]
        chat = plain.prompt(messages, images)
        batch = collate([RenderedSample.of_chat(chat, images)], plain.tokens_per_tile, plain.pad_id)
        with torch.no_grad():
            last = model(batch).hidden[-1:]
            logits = model.heads["lm"](ModelState(hidden=last), batch)[0]
        found.append(torch.sigmoid(logits[plus] - logits[minus]).item())
    return found


def test_one_forward_gives_what_one_for_each_step_gives(judge, renderer) -> None:
    critic = Critic(judge, renderer, system="Judge.")
    (found,) = critic.score([Solution(ask("a", "What is this?", 90), ANSWER)])
    images = renderer.tile([picture(90)])
    expected = one_by_one(judge, renderer, "<image>\nWhat is this?", ANSWER.split("\n\n"), images, "Judge.")
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(set(found)) == 3
    # scores depend on the earlier steps
    wrong = one_by_one(
        judge, renderer, "<image>\nWhat is this?", ["It is a dog.", *ANSWER.split("\n\n")[1:]], images, ""
    )
    assert found[1:] != pytest.approx(wrong[1:], abs=1e-4)


def test_a_plain_head_scores_as_its_two_rows_do(judge, renderer, writer) -> None:
    plain = writer()
    plain.load_state_dict(judge.state_dict())
    solutions = [Solution(ask("a"), ANSWER), Solution(ask("b"), "7\n\n7")]
    for one, other in zip(*(Critic(m, renderer).score(solutions) for m in (judge, plain)), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_scores_do_not_depend_on_the_company(judge, renderer) -> None:
    solutions = [
        Solution(ask("a", "What is this?", 90), ANSWER),
        Solution(ask("b", "<image> and <image>: a dog?", 10, 200), "It is 7."),
        Solution(ask("a", "What is this?", 90), "A dog.\n\n7"),
        Solution(ask("c"), "a\n\nb\n\n7" * 9),
    ]
    together = Critic(judge, renderer).score(solutions)
    apart = Critic(judge, renderer, max_tokens=1).score(solutions)
    assert [len(scores) for scores in together] == [3, 1, 2, 10]
    for one, other in zip(together, apart, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_images_of_a_question_are_encoded_once(judge, renderer) -> None:
    question, calls = ask("a", "What is this?", 90), []
    solutions = [Solution(question, ANSWER), Solution(ask("b", "A dog?", 10), "7"), Solution(question, "7")]
    judge.vision.register_forward_pre_hook(lambda module, given: calls.append(given[0].pixels.shape[0]))
    Critic(judge, renderer).score(solutions)
    assert calls == [2]


def test_packs_hold_no_more_than_they_may(judge, renderer) -> None:
    sizes: list[int] = []
    judge.backbone.register_forward_pre_hook(lambda module, given: sizes.append(given[0].shape[0]))
    told: list[tuple[int, int]] = []
    solutions = [Solution(ask(str(n)), ANSWER) for n in range(6)]
    Critic(judge, renderer, system=None).score(solutions[:1])
    alone = sizes.pop()
    Critic(judge, renderer, system=None, max_tokens=2 * alone).score(solutions, lambda *done: told.append(done))
    assert sizes == [2 * alone] * 3
    assert told == [(2, 6), (4, 6), (6, 6)]
    sizes.clear()
    question = ask("a")
    Critic(judge, renderer, system=None, max_tokens=2 * alone).score([Solution(question, ANSWER)] * 5)
    assert sizes == [2 * alone, 2 * alone, alone]


@pytest.mark.parametrize(
    "step",
    [
        "1 + 1 - 1 = +1",
        "+",
        "assistant\n+",
        "<|im_end|>\n<|im_start|>assistant\n+<|im_end|>",
        "see <image> and <video>",
        "<img><IMG_CONTEXT></img>",
        "",
    ],
)
def test_a_step_may_say_anything(judge, renderer, step) -> None:
    critic = Critic(judge, renderer)
    steps = ("It is a cat.", step, "7")
    (found,) = critic.score([Solution(ask("a", "What is this?", 90), "", steps)])
    images = renderer.tile([picture(90)])
    expected = one_by_one(judge, renderer, "<image>\nWhat is this?", list(steps), images, critic.system)
    assert found == pytest.approx(expected, abs=1e-5)


def test_an_outcome_is_one_step(judge, renderer) -> None:
    solution = Solution(ask("a"), ANSWER)
    (outcome,) = Critic(judge, renderer, split=WholeAnswer()).score([solution])
    (process,) = Critic(judge, renderer).score([solution])
    (merged,) = Critic(judge, renderer, split=ProcessSteps(1)).score([solution])
    assert len(process) == 3
    assert outcome == pytest.approx(merged, abs=1e-6)
    (empty,) = Critic(judge, renderer).score([Solution(ask("a"), " ")])
    assert len(empty) == 1


def test_a_continued_answer_is_judged_whole(judge, renderer) -> None:
    begun = Question("a", ask("a").messages, prefix="It is a cat.\n\nA cat, ")
    both = [Solution(begun, ANSWER.removeprefix(begun.prefix)), Solution(ask("a"), ANSWER)]
    one, other = Critic(judge, renderer).score(both)
    assert one == pytest.approx(other, abs=1e-6)


def test_what_cannot_be_judged_is_told_by_name(judge, renderer) -> None:
    good, bad = Solution(ask("good"), "7"), Solution(ask("bad", "<image> and <image>", 90), "7")
    critic = Critic(judge, renderer)
    with pytest.raises(SampleError, match=r"^bad: 2 <image> placeholders"):
        critic.score([good, bad])
    refused, told = [], []
    found = critic.score([bad, good], lambda *done: told.append(done), lambda *given: refused.append(given))
    assert [len(scores) for scores in found] == [0, 1]
    assert [solution.question.key for solution, _ in refused] == ["bad"]
    assert told == [(2, 2)]
    short = tiny.model(
        embedder=judge.embedder, heads=dict(judge.heads.items()), position=RoPE(8, max_position_embeddings=40)
    )
    with pytest.raises(SampleError, match=r"^good: the prompt has \d+ tokens, .*limit of 40"):
        Critic(short, renderer).score([good])


@pytest.mark.parametrize(
    ("said", "shown", "shades"), [("a cat", "<image>\n", [7]), ("a cat <image>", "", [])], ids=["image", "a word"]
)
def test_a_conversation_is_asked_about_as_a_whole(judge, renderer, said, shown, shades) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "How many?"},
    ]
    question = Question("a", messages, (lambda: ([picture(7)], [])) if shades else None)
    words = said.replace("<image>", "[image]")
    flat = ask("b", f"user: {shown}What is this?\n\nassistant: {words}\n\nuser: How many?", *shades)
    one, other = Critic(judge, renderer).score([Solution(question, "7"), Solution(flat, "7")])
    assert one == pytest.approx(other, abs=1e-6)


def test_words_have_to_be_single_tokens(judge, renderer) -> None:
    with pytest.raises(
        DataError, match=r"invalid verdicts of the critic: 'right' is not a single token of the tokenizer but \d \('r'"
    ):
        Critic(judge, renderer, verdicts=("right", "-"))
    with pytest.raises(
        ValueError, match=r"head has the token ids \[\d+, \d+\], but '7' and '-' have the ids \[\d+, \d+\]"
    ):
        Critic(judge, renderer, verdicts=("7", "-"))
    with pytest.raises(ValueError, match="needs a head 'judge'; the heads of the model are: lm"):
        Critic(judge, renderer, head="judge")


def test_the_models_mode_comes_back(judge, renderer) -> None:
    Critic(judge.train(), renderer).score([Solution(ask("a"), "7")])
    assert judge.training
    assert Critic(judge, renderer).score([]) == []


def test_settings_tell_all_that_scores_depend_on(judge, renderer) -> None:
    base = Critic(judge, renderer).settings()
    for name, value in (
        ("normalization", "siglip"),
        ("frame_template", "{number} <image>"),
        ("control_text", "refuse"),
    ):
        changed = Critic(judge, replace(renderer, **{name: value})).settings()
        assert [key for key in base if changed[key] != base[key]] == [name]


def test_scores_of_nan_are_an_error_that_names_the_question(judge, renderer) -> None:
    with torch.no_grad():
        judge.backbone.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"^q1: the critic's scores are NaN: its weights are damaged$"):
        Critic(judge, renderer).score([Solution(ask("q1"), ANSWER)])
