"""Conversation format of critics for training and scoring (VisualPRM, arXiv 2503.10291, section 3).

The first user turn holds a question and the first step of a solution, each further one the next step. The assistant
answers each with one of two words.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmcomponents.data.chat.placeholders import Message

SYSTEM = (
    "You check solutions to questions about images. You are given a question and the steps of a solution, one in each"
    ' turn. After each step answer "+" if it is right, or "-" if it is wrong: it misreads the image, reasons or'
    " calculates falsely, or builds on an earlier mistake. Answer with this one sign."
)
"""Default system message of a critic."""

WORDS = ("+", "-")
"""Default positive and negative word."""

_PLACEHOLDERS = {"<image>": "[image]", "<video>": "[video]"}


def critique(
    question: str, steps: Sequence[str], verdicts: Sequence[str] | None = None, system: str | None = SYSTEM
) -> list[Message]:
    """Returns the conversation that a critic is trained on and scores with.

    Args:
        question: Text of the question, with `<image>` placeholders.
        steps: At least one step. Placeholders in a step become `[image]` or `[video]`, since steps have no media.
        verdicts: Word after each step; None: the positive word, as for scoring.
        system: System message; None: none.

    Raises:
        ValueError: There are no steps, or the number of verdicts differs.
    """
    verdicts = [WORDS[0]] * len(steps) if verdicts is None else verdicts
    if not steps or len(steps) != len(verdicts):
        raise ValueError(
            f"a critic's chat has a verdict for each step, got {len(steps)} steps, {len(verdicts)} verdicts"
        )
    shown = [_without_placeholders(step) for step in steps]
    shown[0] = f"### Question:\n{question}\n\n### Solution Process:\n{shown[0]}"
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for step, verdict in zip(shown, verdicts, strict=True):
        messages += [{"role": "user", "content": step}, {"role": "assistant", "content": verdict}]
    return messages


def question_text(messages: Sequence[Message]) -> str:
    """Returns a question as text for a critic: a single turn's text, or all turns with their roles."""
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) == 1:
        return turns[0]["content"]
    texts = (
        _without_placeholders(turn["content"]) if turn["role"] == "assistant" else turn["content"] for turn in turns
    )
    return "\n\n".join(f"{turn['role']}: {text}" for turn, text in zip(turns, texts, strict=True))


def _without_placeholders(text: str) -> str:
    for placeholder, words in _PLACEHOLDERS.items():
        text = text.replace(placeholder, words)
    return text
