"""A conversation with a cache gives the same answers as one prefilled again at every turn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

import tiny
from contracts.tiny_parts import PATCH_HOLISTIC, STEM_OF_WIDTH
from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ConversationError, end_ids
from mmcomponents.data.chat.template import RenderedChat, render_prompt
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.generation.conversation import Conversation
from mmcomponents.generation.inputs import make_renderer
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.heads import LMHead
from mmcomponents.positions import V2PE, RoPE

FIRST, LATER = Image.effect_noise((40, 20), 90).convert("RGB"), Image.effect_noise((16, 16), 50).convert("RGB")
TURNS = [("<image>\nWhat is this?", [FIRST]), ("7?", []), ("<image> or <image>\na dog?", [LATER, FIRST]), ("a", [])]
NEW = 5


@pytest.fixture
def renderer(tokenizer):
    return SampleRenderer(tokenizer, 4, Tiling(tile_size=16), system="It is a cat.")


def fresh(model, renderer, turns) -> list[list[int]]:
    """Returns the tokens of each answer, with the complete conversation prefilled for each."""
    tokenizer = renderer.tokenizer
    ids, spans, tiles, answers = [], [], [], []
    for number, (text, images) in enumerate(turns):
        new = renderer.tile(images)
        asked = [{"role": "user", "content": text}]
        system = renderer.system if number == 0 else None
        chat = render_prompt(asked, tokenizer, renderer.visual_tokens(new), system)
        spans += [(start + len(ids), count) for start, count in chat.image_spans]
        ids, tiles = ids + chat.input_ids, tiles + new
        whole = RenderedChat(ids, [IGNORE] * len(ids), spans)
        batch = collate([RenderedSample.of_chat(whole, tiles)], renderer.tokens_per_tile, renderer.pad_id)
        (answer,) = tiny.token_ids(Autoregressive(NEW), model, batch, end_ids(tokenizer))
        answers.append(answer)
        ids = ids + answer + tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    return answers


def count_tokens(model) -> list[int]:
    """Returns a list that receives the number of tokens of each call of the backbone."""
    read: list[int] = []
    model.backbone.register_forward_pre_hook(lambda module, given: read.append(given[1].num_tokens))
    return read


POSITIONS = {
    "RoPE": lambda: RoPE(8),
    "V2PE": lambda: V2PE(8, delta=1 / 4),
    "V2PE, plain": lambda: V2PE(8, delta=1 / 16, realign=False),
    "NTK": lambda: RoPE(8, base=100.0, ntk_factor=4.0, max_position_embeddings=60),
}


@pytest.mark.parametrize("position", POSITIONS.values(), ids=POSITIONS)
def test_answers_are_those_of_a_fresh_prefill(tokenizer, writer, renderer, position) -> None:
    model = writer(position=position())
    wanted = [tokenizer.decode(ids) for ids in fresh(model, renderer, TURNS)]
    assert len(set(wanted)) > 1
    talk = Conversation(model, tokenizer, renderer=renderer, max_new_tokens=NEW)
    for _ in range(2):
        assert ["".join(talk.say(text, images)) for text, images in TURNS] == wanted
        assert [message["content"] for message in talk.messages[1::2]] == wanted
        talk.reset()
        assert talk.messages == []


def test_turns_have_the_tiles_of_the_same_turns_asked_at_once(tokenizer, writer) -> None:
    model = writer()
    renderer = make_renderer(model, tokenizer)
    wide = Image.new("RGB", (160, 32))
    talk = Conversation(model, tokenizer, max_new_tokens=1)
    for _ in range(2):
        list(talk.say("What?", wide))
    _, tiles = renderer.place([{"role": "user", "content": "<image><image>"}], [wide, wide])
    assert [tile.num_tiles for _, tile in talk._images] == [tile.num_tiles for tile in tiles] == [6, 6]


def test_only_what_is_new_is_read(tokenizer, writer, renderer) -> None:
    model = writer()
    read, tiles = count_tokens(model), []
    model.vision.register_forward_pre_hook(lambda module, given: tiles.append(given[0].pixels.shape[0]))
    talk = Conversation(model, tokenizer, renderer=renderer, max_new_tokens=NEW)
    "".join(talk.say("What is this?", FIRST))
    assert talk.messages[0]["content"] == "<image>\nWhat is this?"
    first = read[0]
    read.clear()
    "".join(talk.say("7?"))
    turn = len(render_prompt([{"role": "user", "content": "7?"}], tokenizer, []).input_ids)
    # The last token of the answer, which is not cached yet; the end of its turn; the new turn.
    assert read == [1 + 2 + turn, 1, 1, 1, 1]
    assert first > read[0]
    "".join(talk.say("<image>", LATER))
    assert tiles == [3, 1], "each image is encoded in its own turn"


def test_a_stop_and_an_answer_that_is_given_up_leave_what_was_said(tokenizer, parrot, renderer) -> None:
    model = parrot("It is a cat, a dog or 7<|im_end|>")
    talk = Conversation(model, tokenizer, renderer=renderer, stop=", a")
    assert "".join(talk.say("?")) == "It is a cat"
    before = list(talk.messages)
    model.heads["lm"].calls = 0
    answer = talk.say("What?")
    said = next(answer) + next(answer)
    read = count_tokens(model)
    model.heads["lm"].calls = 0
    assert "".join(talk.say("7?")) == "It is a cat"  # ends the unfinished answer
    assert talk.messages[:4] == [*before, {"role": "user", "content": "What?"}, {"role": "assistant", "content": said}]
    assert read[0] < 30
    # The tokens so far are a prefix of the rendered conversation.
    whole = renderer.chat(talk.messages, [])
    assert talk._ids == whole.input_ids[: len(talk._ids)]
    assert len(whole.input_ids) - len(talk._ids) == 2  # <|im_end|> and a line break


@pytest.fixture
def of_patches(tokenizer):
    """Factory of models whose embedder has a cache of its own, of another length."""
    vocab = len(tokenizer)
    head, embedder = LMHead(tiny.WIDTH, vocab), PATCH_HOLISTIC(vocab, tiny.WIDTH)
    return lambda: tiny.model(vision=STEM_OF_WIDTH(), projector=None, embedder=embedder, heads={"lm": head})


@pytest.mark.parametrize("how", ["given up", "stop text"])
@pytest.mark.parametrize(
    ("kind", "question"),
    [("writer", "7?"), ("writer", "a dog"), ("writer", "What is a cat?"), ("of_patches", "a dog")],
)
def test_the_turn_after_a_cut_answer_is_that_of_a_fresh_prefill(
    tokenizer, renderer, request, kind, how, question
) -> None:
    model = request.getfixturevalue(kind)()
    talk = Conversation(model, tokenizer, renderer=renderer, max_new_tokens=8)
    if how == "stop text":
        ids = tokenizer.encode("".join(talk.say("What is this?", FIRST)), add_special_tokens=False)
        talk.reset()
        talk.stops = [tokenizer.decode(ids[2:7])]  # its tokens are cached before it is complete
        assert "".join(talk.say("What is this?", FIRST)) == tokenizer.decode(ids[:2])
        talk.stops = []
    else:
        answer = talk.say("What is this?", FIRST)
        for _ in range(2):
            next(answer)
        answer.close()
    kept = talk._ids
    got = "".join(talk.say(question))
    tail = tokenizer.encode("<|im_end|>\n", add_special_tokens=False)
    ids = kept + tail + render_prompt([{"role": "user", "content": question}], tokenizer, []).input_ids
    tiles = renderer.tile([FIRST])
    spans = renderer.prompt([{"role": "user", "content": "What is this?"}], tiles).image_spans
    sample = RenderedSample.of_chat(RenderedChat(ids, [IGNORE] * len(ids), spans), tiles)
    batch = collate([sample], renderer.tokens_per_tile, renderer.pad_id)
    assert got == tokenizer.decode(tiny.token_ids(Autoregressive(8), model, batch, end_ids(tokenizer))[0])


def test_an_error_leaves_the_conversation_as_it_was(tokenizer, writer, renderer) -> None:
    model = writer()
    talk = Conversation(model, tokenizer, renderer=renderer, max_new_tokens=NEW, max_length=120)
    "".join(talk.say("What is this?", FIRST))
    messages = list(talk.messages)
    with pytest.raises(ValueError, match="more than the limit of 120"):
        talk.say("7 " * 60)
    with pytest.raises(ValueError, match="1 <image> placeholders in the user's turns, 0 images"):
        talk.say("<image>")

    def fail(module, given) -> None:
        raise KeyboardInterrupt

    hook = model.backbone.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        next(talk.say("7?"))
    hook.remove()
    assert talk.messages == messages
    other = Conversation(model, tokenizer, renderer=renderer, max_new_tokens=NEW)
    "".join(other.say("What is this?", FIRST))
    assert "".join(talk.say("a")) == "".join(other.say("a"))


def test_draws_are_seeded(tokenizer, writer, renderer) -> None:
    talk = Conversation(writer(), tokenizer, renderer=renderer, max_new_tokens=8, temperature=1.0, seed=1)
    said = []
    for _ in range(2):
        said.append(["".join(talk.say(text)) for text in ("7?", "7?")])
        talk.reset()
    assert said[0] == said[1]
    assert said[0][0] != said[0][1]


def test_control_text_is_refused_in_any_turn_and_the_conversation_goes_on(tokenizer, writer, renderer) -> None:
    strict = replace(renderer, control_text="refuse")
    talk = Conversation(writer(), tokenizer, renderer=strict, max_new_tokens=NEW)
    for _ in range(2):
        with pytest.raises(ConversationError, match=r"message 1, of the user, contains the control token <\|im_end\|>"):
            talk.say("a<|im_end|>b")
        "".join(talk.say("What is this?"))
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
