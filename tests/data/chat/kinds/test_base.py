"""The contract of record kinds, with kinds of another package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data.own_kinds import Broken, Height, Heights, Moves, Sketch, moves
from mmcomponents.batch import Steps, TokenType
from mmcomponents.data.chat.kinds import Chat, Kinds, RecordKind, Sample, ask, kind_name, render
from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.rendered_sample import RenderedSample, Span
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.media.images import TiledImage
from mmcomponents.extras import Extra


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> SampleRenderer:
    return SampleRenderer(tokenizer, tokens_per_tile=4)


def test_names_are_those_of_the_kind_or_of_its_class() -> None:
    assert [kind_name(kind) for kind in (Chat(), Moves(), Height())] == ["chat", "moves", "Height"]


def test_a_sample_is_measured_by_rendering_it(renderer: SampleRenderer) -> None:
    image = TiledImage.of_tiles(0)
    sample = Sample({"task": "Read the digits."}, [image], members={"moves.npy": moves(*range(6))})
    measured = Moves().measure(sample, renderer)
    (segment,) = render(Moves(), sample, renderer)
    assert measured.text_tokens == len(segment.input_ids)
    assert (measured.segments, measured.uses, measured.own_tiles, measured.turns) == (1, 1, 0, 1)
    assert not measured.own_system, "its prompt begins with the run's system text"
    assert Height().measure(Sample({"height": 1.0, "of": "a"}), renderer).own_system, "a document has none"


def test_tiles_that_a_kind_makes_itself_are_counted(renderer: SampleRenderer) -> None:
    measured = Sketch().measure(Sample({"sketch": 3}), renderer)
    (segment,) = Sketch().render(Sample({"sketch": 3}), renderer)
    assert measured.own_tiles == 3
    assert measured.text_tokens == len(segment.input_ids) > 6, "with its own visual tokens, which do not vary"


def test_a_placed_image_of_the_kind_has_a_number_of_tokens(renderer: SampleRenderer) -> None:
    class Drawn(RecordKind):
        placed = True

        def matches(self, record: Mapping[str, Any]) -> bool:
            return True

        def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
            image = TiledImage(torch.zeros(2, 3, 2, 2))
            count = image.count_tokens(renderer.tokens_per_tile) if self.placed else 0
            spans = [Span(0, count, TokenType.IMAGE, 0)] if self.placed else []
            return [RenderedSample([5] * (count + 1), [5] * (count + 1), spans, [image])]

    kind = Drawn()
    with pytest.raises(SampleError, match=r"the kind Drawn places an image of its own without visual_tokens"):
        kind.measure(Sample({}), renderer)
    kind.placed = False
    assert kind.measure(Sample({}), renderer).own_tiles == 2, "an image that is only encoded needs none"


class Placed(RecordKind):
    """Places the images of a sample as often as the test says."""

    def __init__(self, *places: int, segments: int = 1) -> None:
        self.places, self.segments = places, segments

    def matches(self, record: Mapping[str, Any]) -> bool:
        return True

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        images = sample.pictures
        lengths = renderer.visual_tokens(images)
        ids, spans = [5], []
        for place in self.places:
            spans.append(Span(len(ids), lengths[place], TokenType.IMAGE, place))
            ids += [0] * lengths[place]
        return [RenderedSample(ids, [5] * len(ids), spans, images) for _ in range(self.segments)]


@pytest.mark.parametrize(
    ("kind", "uses"),
    [(Placed(), 0), (Placed(0, 1), 1), (Placed(0, 1, 1, 0), 2), (Placed(0, 1, segments=3), 3)],
    ids=["never", "once", "twice", "three segments"],
)
def test_uses_of_the_images_are_counted(kind: RecordKind, uses: int, renderer: SampleRenderer) -> None:
    sample = Sample({}, [TiledImage.of_tiles(0)], [[TiledImage.of_tiles(0)]])
    assert kind.measure(sample, renderer).uses == uses


def test_images_must_be_placed_equally_often(renderer: SampleRenderer) -> None:
    sample = Sample({}, [TiledImage.of_tiles(0), TiledImage.of_tiles(0)])
    with pytest.raises(SampleError, match="the kind Placed places some images of the sample 1 times and others 2"):
        Placed(0, 0, 1).measure(sample, renderer)
    with pytest.raises(SampleError, match="0 times and others 1 times: all must be placed equally often"):
        Placed(1).measure(sample, renderer)


def test_a_failure_in_another_packages_kind_is_a_skipped_sample(renderer: SampleRenderer) -> None:
    sample = Sample({"broken": True})
    with pytest.raises(SampleError, match=r"^the kind Broken cannot render the sample: KeyError: 'boxes'$"):
        render(Broken("render"), sample, renderer)
    with pytest.raises(SampleError, match="the kind Broken renders the sample to no segment"):
        render(Broken("nothing"), sample, renderer)
    for method, task in (("matches", "recognise"), ("check", "check")):
        with pytest.raises(SampleError, match=f"the kind Broken cannot {task} the sample: KeyError: 'boxes'"):
            Kinds([Broken(method)]).of({"broken": True})


@pytest.mark.parametrize("error", [DataError("the data"), MemoryError()])
def test_failures_that_are_not_of_the_sample_end_the_run(error: Exception, renderer: SampleRenderer) -> None:
    class Stops(Broken):
        def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
            raise error

    with pytest.raises(type(error)):
        render(Stops(""), Sample({"broken": True}), renderer)


def test_a_kind_without_questions_says_so(renderer: SampleRenderer) -> None:
    assert Height().turns({}) == 0
    with pytest.raises(SampleError, match="a sample of the kind Height has no questions"):
        Height().prompts(Sample({"height": 1.0, "of": "a"}), renderer)


def test_draws_depend_on_the_sample_and_its_occurrence() -> None:
    def drawn(*key: int, word: str = "crop") -> list[float]:
        numbers: list[float] = Sample({}, key=key).generator(word).random(3).tolist()
        return numbers

    assert drawn(1, 0, 7, 0) == drawn(1, 0, 7, 0)
    others = [drawn(2, 0, 7, 0), drawn(1, 1, 7, 0), drawn(1, 0, 8, 0), drawn(1, 0, 7, 1), drawn(1, 0, 7, 0, word="b")]
    assert drawn(1, 0, 7, 0) not in others
    assert len({tuple(numbers) for numbers in others}) == 5


def test_all_pictures_are_the_images_and_the_frames() -> None:
    a, b, c = (TiledImage(torch.zeros(1, 3, 2, 2)) for _ in range(3))
    assert Sample({}, [a], [[b, c]]).pictures == [a, b, c]


class Segment(Broken):
    """A kind that returns one given segment, and whose empty pack has a field "height"."""

    def __init__(self, segment: RenderedSample) -> None:
        super().__init__("")
        self.segment = segment

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        return [self.segment]

    def empty(self) -> dict[str, Extra]:
        return {"height": Heights(torch.zeros(0))}


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (RenderedSample([1, 2], [-100]), "2 ids and 1 labels"),
        (RenderedSample([1.5, 2], [-100] * 2), "ids must be integers, not float64"),  # type: ignore[list-item]
        (RenderedSample([1, 10**6], [-100] * 2), "ids from 1 to 1000000, the tokenizer has"),
        (RenderedSample([1, 2], [-100, -5]), "labels from -5 to -5"),
        (RenderedSample([1, 2], [-100] * 2, [Span(1, 2, TokenType.ACTION)]), "a span from 1 to 3 in a segment of 2"),
        (RenderedSample([1, 2], [-100] * 2, [Span(0, 2, TokenType.IMAGE)]), "is of an image, and names none"),
        (RenderedSample([1, 2], [-100] * 2, extras={"a": None}), "the field a is NoneType"),  # type: ignore[dict-item]
        (RenderedSample([1], [-100], extras={"a": Steps.of([3], [0], [1])}), "steps at [3] in a segment of 1 tokens"),
        (
            RenderedSample([1], [-100], extras={"a": Heights(torch.ones(1))}),
            "the field a is not among those that",
        ),
        (RenderedSample([1], [-100], extras={"height": Steps.of()}), "the field height is Steps, and Heights in empty"),
    ],
)
def test_a_wrong_segment_is_a_skipped_sample(segment: RenderedSample, message: str, renderer: SampleRenderer) -> None:
    with pytest.raises(SampleError) as caught:
        render(Segment(segment), Sample({"broken": True}), renderer)
    assert message in str(caught.value)
    assert str(caught.value).startswith("the kind Segment cannot render the sample: ")


def test_the_fields_of_a_pack_itself_may_be_missing_in_empty(renderer: SampleRenderer) -> None:
    segment = RenderedSample([1], [-100], extras={"steps": Steps.of()})
    assert render(Segment(segment), Sample({"broken": True}), renderer) == [segment]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (None, "NoneType"),
        (RenderedSample([1] * 99, [-100] * 99), "RenderedSample"),
        ([[1], None], "list of NoneType, list"),
    ],
)
def test_what_is_no_list_of_segments_or_prompts_is_named_by_its_type(
    found: Any, name: str, renderer: SampleRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, sample = Broken(""), Sample({"broken": True})
    for method in ("render", "prompts"):
        monkeypatch.setattr(kind, method, lambda *_: found)
    with pytest.raises(SampleError) as caught:
        render(kind, sample, renderer)
    assert str(caught.value) == f"render of the kind Broken must return a list of RenderedSample, not {name}"
    with pytest.raises(SampleError) as caught:
        ask(kind, sample, renderer, 1)
    assert str(caught.value) == f"prompts of the kind Broken must return a list of Prompt, not {name}"


@pytest.mark.parametrize("values", [(0.5, 1), (0, "a"), (0, 1, 99), (0, 1, 2, -5)])
def test_a_span_has_integers_and_a_type(values: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"a span has integers|is not a valid TokenType"):
        Span(*values)


def test_the_system_text_is_in_all_segments_or_in_none(renderer: SampleRenderer) -> None:
    class Some(Broken):
        def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
            why: list[Message] = [{"role": "user", "content": "Why?"}]
            return [RenderedSample.of_chat(chat) for chat in (renderer.prompt(why, []), renderer.document("a", []))]

    with pytest.raises(SampleError, match="puts the run's system text into some segments of the sample only"):
        Some("").measure(Sample({"broken": True}), renderer)


@pytest.mark.parametrize("turns", [-3, 2**31, "one", 1.0])
def test_questions_are_counted_by_integers(turns: Any, renderer: SampleRenderer) -> None:
    class Counts(Segment):
        def turns(self, record: Mapping[str, Any]) -> int:
            return turns  # type: ignore[no-any-return]

    with pytest.raises(SampleError, match=r"counts .* questions"):
        Counts(RenderedSample([1], [-100])).measure(Sample({"broken": True}), renderer)


def test_fewer_questions_than_counted_are_an_error(renderer: SampleRenderer) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    kind, sample = Chat(), Sample({"messages": turns})
    assert len(ask(kind, sample, renderer, 1)) == 1
    with pytest.raises(SampleError, match="the kind chat counts 2 questions and returns 1"):
        ask(kind, sample, renderer, 2)
