from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image

import tiny
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import SampleError
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.generation.generate_text import generate
from mmcomponents.positions import RoPE
from mmcomponents.synthesis.rollout import Answers, Question, Sampling, rollouts

DRAWN = Sampling(samples=3, max_new_tokens=6, temperature=1.0, seed=4)


@pytest.fixture
def renderer(tokenizer) -> SampleRenderer:
    return SampleRenderer(tokenizer, tiny.VISUAL_TOKENS, Tiling(tile_size=tiny.TILE, max_tiles=2), system="Be kind.")


class Shows:
    """Media function that counts its calls."""

    def __init__(self, colour: str) -> None:
        self.image, self.calls = Image.new("RGB", (40, 20), colour), 0

    def __call__(self) -> tuple[list[Image.Image], list[list[Image.Image]]]:
        self.calls += 1
        return [self.image], []


def ask(key: str, text: str, media: Callable[..., object] | None = None, **rest: str) -> Question:
    return Question(key, [{"role": "user", "content": text}], media, **rest)  # type: ignore[arg-type]


def questions() -> list[Question]:
    red = Shows("red")
    return [
        ask("a", "What is this?", red),
        ask("b", "It is a cat, a dog or 7. " * 8),
        ask("c", "And this?", Shows("blue")),
        ask("d", "What?", red, prefix="It is"),
        ask("e", ""),
    ]


def answers(model, renderer, asked, sampling=DRAWN, **how) -> dict[str, list[str]]:
    return {question.key: said.texts for question, said in rollouts(model, renderer, asked, sampling, **how)}


def cut(model, renderer, asked, sampling=DRAWN, **how) -> dict[str, list[int]]:
    return {question.key: said.cut for question, said in rollouts(model, renderer, asked, sampling, **how)}


def test_answers_depend_neither_on_batches_nor_on_order(writer, renderer) -> None:
    model = writer()
    wanted = answers(model, renderer, questions())
    assert {key: len(texts) for key, texts in wanted.items()} == dict.fromkeys("abcde", 3)
    assert len({text for texts in wanted.values() for text in texts}) > 10
    for how in ({"max_segments": 3}, {"max_segments": 2}, {"max_segments": 1}, {"max_tokens": 1}, {"max_cache": 1}):
        assert answers(model, renderer, questions(), **how) == wanted
    assert answers(model, renderer, questions()[::-1]) == wanted
    assert answers(model, renderer, questions()[1:2])["b"] == wanted["b"]
    fewer = answers(model, renderer, questions(), replace(DRAWN, samples=1, max_new_tokens=9))
    whole = [(fewer[key][0], wanted[key][0]) for key in wanted]
    assert all(long.startswith(short.rstrip("�")) for long, short in whole)
    assert answers(model, renderer, questions(), replace(DRAWN, seed=5)) != wanted


def test_without_chance_answers_are_those_of_generate(writer, renderer, tokenizer) -> None:
    model, asked = writer(), [question for question in questions() if not question.prefix]
    prompts = [question.messages for question in asked]
    images = [question.media()[0] if question.media else None for question in asked]
    wanted = generate(model, tokenizer, prompts, images, max_new_tokens=6, renderer=renderer)
    model.train()
    found = answers(model, renderer, asked, Sampling(samples=2, max_new_tokens=6))
    assert model.training
    assert [found[question.key] for question in asked] == [[text] * 2 for text in wanted]
    first = answers(model, renderer, asked, replace(DRAWN, greedy_first=True))
    drawn = answers(model, renderer, asked)
    assert [first[question.key][0] for question in asked] == wanted
    assert all(first[key][1:] == drawn[key][1:] for key in drawn)


def test_a_prefix_is_read_as_the_begin_of_the_answer(writer, renderer) -> None:
    """The model receives the tokens of the prefix after the prompt."""
    model, seen = writer(), []
    forward = model.forward
    model.forward = lambda batch, *rest: (seen.append(batch.input_ids.tolist()), forward(batch, *rest))[1]
    messages = [{"role": "user", "content": "What?"}]
    question = Question("k", messages, prefix="It is a <|im_end|> cat")
    answers(model, renderer, [question])
    said = {"role": "assistant", "content": question.prefix}
    whole = renderer.chat([*messages, said], []).input_ids
    assert seen[0] == whole[:-2]  # without the end of the turn and its newline
    assert whole.count(whole[-2]) == 3  # ends of turns, excluding the one in the text


def test_prompts_are_read_once_and_shared_images_encoded_once(writer, renderer) -> None:
    model, seen = writer(), []
    forward = model.forward
    model.forward = lambda batch, *rest: (seen.append(batch), forward(batch, *rest))[1]
    asked = questions()
    answers(model, renderer, asked)
    assert seen[0].num_segments == 5
    assert seen[1].num_segments <= 15
    assert seen[0].images.tile_image.unique().numel() == 2
    assert asked[3].media is asked[0].media
    assert seen[1].images is None
    assert asked[0].media.calls == 1


def test_a_stop_ends_an_answer(parrot, renderer) -> None:
    def made(stop: tuple[str, ...]) -> list[str]:
        sampling = Sampling(max_new_tokens=40, stop=stop)
        return answers(parrot("It is a cat. It is a dog."), renderer, [ask("a", "What?")], sampling)["a"]

    assert made(()) == ["It is a cat. It is a dog."] or made(())[0].startswith("It is a cat. It is a dog.")
    assert made((" It",)) == ["It is a cat."]


def test_an_answer_knows_whether_it_was_cut(parrot, renderer, tokenizer) -> None:
    end = "It is 7.<|im_end|>"
    length = len(tokenizer.encode(end, add_special_tokens=False))  # the stop token is not part of the answer

    def made(text: str, sampling: Sampling) -> Answers:
        ((_, said),) = rollouts(parrot(text), renderer, [ask("a", "What?")], sampling)
        return said

    assert made(end, Sampling(max_new_tokens=length)) == Answers(["It is 7."], [])
    assert made(end, Sampling(samples=3, max_new_tokens=length - 1)) == Answers(["It is 7."] * 3, [0, 1, 2])
    stopped = Sampling(max_new_tokens=length - 1, stop=(" 7.",))
    assert made(end, stopped) == Answers(["It is"], [])
    assert made(end, replace(stopped, stop=("dog",))).cut == [0]


def test_cut_samples_keep_their_numbers_in_every_batch(writer, renderer) -> None:
    model, sampling = writer(), replace(DRAWN, samples=9, max_new_tokens=4)
    with torch.no_grad():
        model.heads["lm"].weight[renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")] *= 3
    found = cut(model, renderer, questions(), sampling)
    assert 3 < sum(map(len, found.values())) < 40
    for how in ({"max_segments": 2}, {"max_cache": 150}):
        assert cut(model, renderer, questions(), sampling, **how) == found


def test_a_question_may_allow_fewer_new_tokens(writer, renderer, tokenizer) -> None:
    model, asked = writer(), questions()
    wanted = answers(model, renderer, asked)
    some = [replace(question, new_tokens=2) if question.key in "bd" else question for question in asked]
    found = answers(model, renderer, some)
    assert all((found[key] == wanted[key]) is (key not in "bd") for key in wanted)
    fewer = answers(model, renderer, asked, replace(DRAWN, max_new_tokens=2))
    assert all(found[key] == fewer[key] for key in "bd")
    assert cut(model, renderer, some)["b"] == [0, 1, 2]


def test_the_cache_bounds_a_batch(writer, renderer) -> None:
    """Each answer counts with its prompt."""
    model, sizes = writer(), []
    forward = model.forward
    model.forward = lambda batch, *rest: (sizes.append(batch.num_segments), forward(batch, *rest))[1]
    asked, sampling = [ask(str(number), "What? " * 20) for number in range(4)], replace(DRAWN, max_new_tokens=2)
    answers(model, renderer, asked, sampling)
    assert max(sizes) == 12
    sizes.clear()
    answers(model, renderer, asked, sampling, max_cache=600)
    assert max(sizes) <= 6
    sizes.clear()
    answers(model, renderer, asked, sampling, max_cache=1)
    assert max(sizes) == 1
    short, sampling = [ask(str(number), "What? " * 10) for number in range(16)], replace(DRAWN, samples=16)
    sizes.clear()
    answers(model, renderer, short, sampling)
    assert max(sizes) == 256  # many short ones form one batch


def test_what_is_done_is_not_done_again_and_changes_nothing(writer, renderer) -> None:
    model, asked = writer(), questions()
    wanted = answers(model, renderer, asked)
    assert answers(model, renderer, asked, done={"a", "c", "x"}) == {key: wanted[key] for key in "bde"}
    told: list[tuple[int, int]] = []
    model.forward = None
    assert answers(model, renderer, asked, done="abcde", progress=lambda *now: told.append(now)) == {}
    assert told[-1] == (5, 5)


def test_a_question_that_cannot_be_asked_is_named(writer, renderer) -> None:
    def broken() -> None:
        raise SampleError("there is no image file a.png")

    asked = [*questions(), ask("bad", "What?", broken), ask("two", "<image><image>", Shows("red"))]
    refused: dict[str, str] = {}
    found = answers(writer(), renderer, asked, refuse=lambda q, error: refused.update({q.key: str(error)}))
    assert set(found) == set("abcde")
    assert refused == {
        "bad": "there is no image file a.png",
        "two": "2 <image> placeholders in the user's turns, 1 image",
    }
    with pytest.raises(SampleError, match=r"^bad: there is no image file"):
        answers(writer(), renderer, asked[:-1])
    with pytest.raises(SampleError, match=r"^a: the question contains an image, but the model has no vision"):
        answers(writer(vision=None, merger=None, projector=None), renderer, asked[:1])


def test_a_prompt_that_leaves_no_room_is_refused(writer, renderer) -> None:
    model, refused = writer(position=RoPE(8, max_position_embeddings=60)), dict[str, str]()
    asked = [ask("long", "What? " * 40), ask("short", "What?")]
    found = answers(model, renderer, asked, refuse=lambda question, error: refused.update({question.key: str(error)}))
    assert set(found) == {"short"}
    assert "with 6 new ones more than the limit of 60" in refused["long"]


def test_wrong_calls_are_refused(writer, renderer) -> None:
    with pytest.raises(ValueError, match="two questions have the key 'a'"):
        answers(writer(), renderer, [ask("a", "x"), ask("a", "y")])
    with pytest.raises(ValueError, match=r"max_tokens, max_segments and max_cache must be at least 1, got 16384, 0"):
        answers(writer(), renderer, [ask("a", "x")], max_segments=0)
    with pytest.raises(ValueError, match="a: new_tokens must be from 1 to 6, got 7"):
        answers(writer(), renderer, [replace(ask("a", "x"), new_tokens=7)])
    with pytest.raises(ValueError, match="samples must be at least 1"):
        Sampling(samples=0)
    with pytest.raises(ValueError, match="need temperature >= 0"):
        Sampling(temperature=-1)
