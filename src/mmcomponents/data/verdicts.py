"""Critic samples: chats whose assistant says nothing but one of two words, such as "+" and "-", after each step.

A critic is asked for all steps of a solution in one forward. The verdicts on the earlier steps are not known then, so
each of them reads as the positive word (VisualPRM scores this way, arXiv 2503.10291). A model trained with the true
words in front of it would meet another kind of text when it scores, so training reads the positive word everywhere too;
the truth is in the targets alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat import (
    END,
    ConversationError,
    Message,
    RenderedChat,
    check_roles,
    render_chat,
    render_prompt,
)
from mmcomponents.data.control_text import codec
from mmcomponents.data.errors import DataError
from mmcomponents.data.records import conversation, record_kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITIVE, NEGATIVE = 1, 0
"""Labels of a step."""


def check_words(words: Sequence[str]) -> tuple[str, str]:
    """Makes sure that a recipe names two words that can be told apart.

    Args:
        words: The positive one, then the negative one.

    Raises:
        ValueError: They are not two, one is empty or no text, or they are equal.
    """
    if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"data.verdicts has to be two words, the positive and the negative one, not {words!r}")
    positive, negative = words
    if positive == negative:
        raise ValueError(f"data.verdicts has {positive!r} twice: the positive and the negative word must differ")
    return positive, negative


@dataclass(frozen=True)
class Verdicts:
    """The two words and their tokens.

    Attributes:
        words: The positive one, then the negative one.
        ids: Their token ids.
    """

    words: tuple[str, str]
    ids: tuple[int, int]

    @classmethod
    def of(cls, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Verdicts:
        """Finds the tokens of two words.

        Args:
            words: The positive one, then the negative one.
            tokenizer: Has the tokens of the chat template.

        Raises:
            DataError: One is no single token of its own where the assistant says it; with the tokens that it becomes.
            ValueError: They are not two different words.
        """
        positive, negative = check_words(words)
        ids = _token_id(positive, tokenizer), _token_id(negative, tokenizer)
        if ids[0] == ids[1]:
            raise DataError(
                f"data.verdicts: {positive!r} and {negative!r} are the same token {ids[0]} of the tokenizer"
            )
        return cls((positive, negative), ids)

    def hide(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """Takes the truth out of a critic sample.

        Args:
            record: See `mmcomponents.data.records`.

        Returns:
            The record with the positive word in every turn of the assistant, and what stood there: 1 for the positive
            word, 0 for the negative one.

        Raises:
            ConversationError: It is no chat, or an answer is neither of the words.
        """
        if (kind := record_kind(record)) != "chat":
            raise ConversationError(f"a {kind} has no verdicts: with data.verdicts every sample is a chat")
        messages = conversation(record)
        check_roles(messages, "assistant")
        hidden, labels = list[Message](), list[int]()
        for message in messages:
            if message["role"] == "assistant":
                if message["content"] not in self.words:
                    raise ConversationError(
                        f"answer {len(labels) + 1} of the assistant, {message['content'][:40]!r}, is neither"
                        f" {self.words[0]!r} nor {self.words[1]!r} (data.verdicts)"
                    )
                labels.append(POSITIVE if message["content"] == self.words[0] else NEGATIVE)
                hidden.append({**message, "content": self.words[0]})
            else:
                hidden.append(message)
        return {**record, "messages": hidden}, labels

    def supervise(self, chat: RenderedChat, labels: Sequence[int]) -> RenderedChat:
        """Makes the true words the only targets of a chat.

        Args:
            chat: As rendered from what `hide` has returned.
            labels: What `hide` has returned.
        """
        places = [place for place, target in enumerate(chat.labels) if target != IGNORE][::2]  # each word and its end
        if len(places) != len(labels):
            raise ValueError(f"{len(labels)} verdicts are supervised at {len(places)} places")
        targets = [IGNORE] * len(chat.labels)
        for place, label in zip(places, labels, strict=True):
            targets[place] = self.ids[0] if label == POSITIVE else self.ids[1]
        return RenderedChat(chat.input_ids, targets, chat.image_spans)


def _token_id(word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of a word as the assistant's whole turn: there it stands behind a line break, which it may merge with."""
    asked: list[Message] = [{"role": "user", "content": ""}]
    header = render_prompt(asked, tokenizer, []).input_ids
    ids = render_chat([*asked, {"role": "assistant", "content": word}], tokenizer, []).input_ids
    end = len(ids) - 1 - ids[::-1].index(codec(tokenizer).ids[END])
    begin = next(
        (place for place, pair in enumerate(zip(header, ids, strict=False)) if pair[0] != pair[1]), len(header)
    )
    found, alone = ids[begin:end], begin == len(header)
    if not alone or len(found) != 1:
        tokens = ", ".join(repr(tokenizer.decode([number])) for number in found[:8])
        raise DataError(
            f"data.verdicts: {word!r} is no single token of the tokenizer but {len(found)} ({tokens})"
            f"{'' if alone else ', together with the line break in front of it'}; take words that are one token each"
        )
    return found[0]
