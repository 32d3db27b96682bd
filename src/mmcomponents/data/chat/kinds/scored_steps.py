"""Solutions whose steps are scored, the training data of critics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmcomponents.batch import IGNORE, Steps
from mmcomponents.data.chat.kinds.base import RecordKind, Sample
from mmcomponents.data.chat.kinds.chat_record import Chat
from mmcomponents.data.chat.kinds.document_record import Document
from mmcomponents.data.chat.kinds.pair_record import Pair
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample
from mmcomponents.data.chat.special_tokens import ConversationError
from mmcomponents.data.chat.verdicts import Verdicts, check_words
from mmcomponents.extras import Extra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmcomponents.data.chat.sample_renderer import SampleRenderer


class ScoredSteps(RecordKind):
    """Conversations in which each answer of the assistant is a verdict on a step, see `data.chat.verdicts`.

    It takes the place of the other built-in kinds: a sample that is no such conversation cannot be used. The setting
    `data.verdicts` selects it.

    Args:
        words: The positive and the negative word, each a single token.

    Raises:
        ValueError: They are not two different words.
    """

    name: ClassVar[str] = "scored steps"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = check_words(words)
        self._verdicts: tuple[PreTrainedTokenizerBase, Verdicts] | None = None

    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether the record is of any built-in kind."""
        return "messages" in record or "text" in record

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks that the record is a conversation.

        Raises:
            SampleError: It is not.
        """
        for kind in (Document(), Pair()):
            if kind.matches(record):
                kind.check(record)
                text = f"a {kind.name} has no verdicts: with data.verdicts every sample must be a chat"
                raise ConversationError(text)
        Chat().check(record)

    def verdicts(self, tokenizer: PreTrainedTokenizerBase) -> Verdicts:
        """Returns the verdicts with their tokens.

        Raises:
            DataError: A word is not a single token.
        """
        if self._verdicts is None or self._verdicts[0] is not tokenizer:
            self._verdicts = tokenizer, Verdicts.of(self.words, tokenizer)
        return self._verdicts[1]

    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders the conversation with the positive word as every answer, and the true words as the only targets."""
        verdicts = self.verdicts(renderer.tokenizer)
        messages, truth = verdicts.hide(sample.record["messages"])
        (segment,) = Chat().render(Sample({"messages": messages}, sample.images, sample.videos), renderer)
        segment.extras["steps"] = scored_steps(segment.labels, truth)
        segment.labels = verdicts.supervise(segment.labels, truth)
        return [segment]

    def empty(self) -> dict[str, Extra]:
        """Returns zero steps, which differs from a pack whose samples have none."""
        return {"steps": Steps.of()}

    def turns(self, record: Mapping[str, Any]) -> int:
        """Counts the verdicts."""
        return Chat().turns(record)

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns each step as a question, whose answer is the verdict."""
        return Chat().prompts(sample, renderer)

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Whether the conversation has no system text of its own."""
        return Chat().takes_system(sample, renderer)


def scored_steps(targets: Sequence[int], truth: Sequence[int]) -> Steps:
    """Returns the steps of a rendered conversation whose answers are verdicts.

    Args:
        targets: Targets of the conversation, `IGNORE` where there is none: each verdict, and its end.
        truth: Label of each verdict.

    Raises:
        ValueError: They differ in number.
    """
    # A word is scored where it is predicted: at the position before it.
    places = [place - 1 for place, target in enumerate(targets) if target != IGNORE][::2]
    if len(places) != len(truth):
        raise ValueError(f"{len(truth)} verdicts are supervised at {len(places)} positions")
    return Steps.of(places, [0] * len(places), truth)
