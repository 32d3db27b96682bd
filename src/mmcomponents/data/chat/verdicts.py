"""Verdicts of critic samples: chats in which each assistant turn is one of two words, such as "+" and "-".

A critic scores all steps of a solution in one forward pass. The verdicts on earlier steps are unknown then, so the
input contains the positive word for each of them (as in VisualPRM, arXiv 2503.10291). Training with the true words in
the input would differ from scoring, so it uses the positive word as well; the true words are only in the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmcomponents.batch import IGNORE
from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.special_tokens import END, ConversationError, codec
from mmcomponents.data.chat.template import check_roles, render_chat, render_prompt
from mmcomponents.data.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

POSITIVE, NEGATIVE = 1, 0
"""Labels of a step."""


def check_words(words: Sequence[str]) -> tuple[str, str]:
    """Checks that a recipe has two different words.

    Args:
        words: The positive and the negative word.

    Raises:
        ValueError: They are not two words, one is empty or not a string, or they are equal.
    """
    if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"data.verdicts must be two words, the positive and the negative one, not {words!r}")
    positive, negative = words
    if positive == negative:
        raise ValueError(f"data.verdicts has {positive!r} twice: the positive and the negative word must differ")
    return positive, negative


@dataclass(frozen=True)
class Verdicts:
    """The two verdict words and their tokens.

    Attributes:
        words: The positive and the negative word.
        ids: Their token ids.
    """

    words: tuple[str, str]
    ids: tuple[int, int]

    @classmethod
    def of(cls, words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Verdicts:
        """Returns the verdicts of two words.

        Args:
            words: The positive and the negative word.
            tokenizer: Tokenizer with the tokens of the chat template.

        Raises:
            DataError: A word is not a single token in an assistant turn; the message shows its tokens.
            ValueError: They are not two different words.
        """
        positive, negative = check_words(words)
        ids = _token_id(positive, tokenizer), _token_id(negative, tokenizer)
        if ids[0] == ids[1]:
            raise DataError(
                f"data.verdicts: {positive!r} and {negative!r} are the same token {ids[0]} of the tokenizer"
            )
        return cls((positive, negative), ids)

    def hide(self, messages: Sequence[Message]) -> tuple[list[Message], list[int]]:
        """Replaces the verdicts of a conversation with the positive word.

        Args:
            messages: A conversation whose answers are verdicts.

        Returns:
            The conversation with the positive word in every assistant turn, and the labels: 1 for the positive word, 0
            for the negative word.

        Raises:
            ConversationError: The conversation is malformed, or an answer is neither of the words.
        """
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
        return hidden, labels

    def supervise(self, targets: Sequence[int], labels: Sequence[int]) -> list[int]:
        """Returns the targets of a conversation that was rendered after `hide`: only the true words.

        Args:
            targets: Targets of the rendered conversation, `IGNORE` where there is none.
            labels: Labels returned by `hide`.

        Raises:
            ValueError: The number of labels does not match the conversation.
        """
        positions = [i for i, target in enumerate(targets) if target != IGNORE][::2]  # each word, without its end
        if len(positions) != len(labels):
            raise ValueError(f"{len(labels)} verdicts are supervised at {len(positions)} positions")
        words = [IGNORE] * len(targets)
        for position, label in zip(positions, labels, strict=True):
            words[position] = self.ids[0] if label == POSITIVE else self.ids[1]
        return words


def _token_id(word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the id of a word as a complete assistant turn, where it may merge with the line break before it."""
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
            f"data.verdicts: {word!r} is not a single token of the tokenizer but {len(found)} ({tokens})"
            f"{'' if alone else ', together with the line break before it'}; use words that are one token each"
        )
    return found[0]
