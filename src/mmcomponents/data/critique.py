"""The conversation that a critic is trained on and scores with (VisualPRM, arXiv 2503.10291, section 3).

The user shows a question with the first step of a solution, then one step after the other; the assistant says one of
two words after each.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmcomponents.data.chat import Message

SYSTEM = (
    "You check solutions to questions about images. You are given a question and the steps of a solution, one in each"
    ' turn. After each step answer "+" if it is right, or "-" if it is wrong: it misreads the image, reasons or'
    " calculates falsely, or builds on an earlier mistake. Answer with this one sign."
)
"""What a critic is told, unless something else is given."""

WORDS = ("+", "-")
"""The positive and the negative word, unless others are given."""

_PLACEHOLDERS = {"<image>": "[image]", "<video>": "[video]"}


def critique(
    question: str, steps: Sequence[str], verdicts: Sequence[str] | None = None, system: str | None = SYSTEM
) -> list[Message]:
    """Makes the conversation that a critic is trained on and scores with.

    Args:
        question: Text of the question, with `<image>` where its images go.
        steps: At least one. Placeholders of images that a step spells out become `[image]`: they show nothing.
        verdicts: The word after each step; None: the positive one, which is how a critic scores.
        system: What the critic is told; None: no system message.

    Raises:
        ValueError: There are no steps, or not as many verdicts.
    """
    verdicts = [WORDS[0]] * len(steps) if verdicts is None else verdicts
    if not steps or len(steps) != len(verdicts):
        raise ValueError(
            f"a critic's chat has a verdict for each step, got {len(steps)} steps, {len(verdicts)} verdicts"
        )
    shown = [_defused(step) for step in steps]
    shown[0] = f"### Question:\n{question}\n\n### Solution Process:\n{shown[0]}"
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for step, verdict in zip(shown, verdicts, strict=True):
        messages += [{"role": "user", "content": step}, {"role": "assistant", "content": verdict}]
    return messages


def question_text(messages: Sequence[Message]) -> str:
    """What a critic is shown of a question: its text, or, of a whole conversation, the turns with their roles."""
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) == 1:
        return turns[0]["content"]
    said = (_defused(turn["content"]) if turn["role"] == "assistant" else turn["content"] for turn in turns)
    return "\n\n".join(f"{turn['role']}: {text}" for turn, text in zip(turns, said, strict=True))


def _defused(text: str) -> str:
    for placeholder, words in _PLACEHOLDERS.items():
        text = text.replace(placeholder, words)
    return text
