"""Preference data from a model's own answers (MMPR, arXiv 2411.10442, section 3).

With reference answers, correct answers are paired with wrong ones. Without, the model's answer is chosen, and the
rejected one is its first half as continued by the model without the image (DropoutNTP). Answers that were truncated at
the limit of new tokens are never chosen, as a model would learn to stop too early.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmcomponents.data.chat.placeholders import Message
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.model import MultimodalModel
from mmcomponents.synthesis.checker import Checker
from mmcomponents.synthesis.drawing import (
    Drawer,
    DrawOptions,
    DrawReport,
    groups,
    make_record,
    model_digest,
    open_drawer,
    write_recipe,
    write_shards,
)
from mmcomponents.synthesis.pairs import PairCounts, Paired, first_half, pair_by_correctness
from mmcomponents.synthesis.questions import Item, Questions
from mmcomponents.synthesis.rollout import Question, Sampling

PREFIX = "pairs"
"""Prefix of the shards' names."""


@dataclass
class PreferenceReport(PairCounts, DrawReport):
    """Counts of a run; correct and wrong answers are counted only with reference answers.

    Attributes:
        samples: Number of drawn answers.
        pairs: Number of written pairs.
        without: Number of questions without a pair, by reason.
    """

    samples: int = 0
    pairs: int = 0
    without: dict[str, int] = field(default_factory=dict)

    def count(self, found: Paired, samples: int) -> None:
        """Adds the counts of a question."""
        self.samples += samples
        self.pairs += len(found.pairs)
        self.add(found)
        if found.why_none:
            self.without[found.why_none] = self.without.get(found.why_none, 0) + 1


def make_preferences(
    model: MultimodalModel,
    renderer: SampleRenderer,
    questions: Questions,
    out: str | Path,
    sampling: Sampling,
    checker: Checker | None,
    *,
    max_pairs: int = 15,
    format_negatives: bool = True,
    options: DrawOptions | None = None,
) -> PreferenceReport:
    """Draws answers, pairs them and writes the pairs as indexed shards.

    Draws are stored in `journal.jsonl`: an interrupted call resumes from there and produces the same bytes.

    Args:
        model: Model that answers.
        renderer: Renders its prompts and images.
        questions: Questions, with reference answers unless `checker` is None.
        out: Output folder; created if missing.
        sampling: Sampling settings; MMPR uses 32 samples at temperature 0.7.
        checker: Checks the answers; None: without reference answers, see above.
        max_pairs: Maximum number of pairs per question.
        format_negatives: Whether responses without a parseable answer count as wrong.
        options: Limits; None: defaults.

    Raises:
        DataError: Too many questions are skipped, or the folder contains answers of other settings.
        ValueError: A number is out of its range.
    """
    if checker is not None and sampling.samples < 2:
        raise ValueError(f"pairs require at least 2 samples per question, got {sampling.samples}")
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")
    out, options = Path(out), options or DrawOptions()
    makes: dict[str, Any] = {"makes": "preferences", "checked": checker is not None}
    if checker is None:
        makes["max_pairs"] = max_pairs  # determines which answers are continued
    with open_drawer(model, renderer, questions, out, sampling, makes, options) as drawer:
        single = replace(sampling, samples=1, greedy_first=False)
        for some in groups(questions):
            drawer.draw("answers", [item.question() for item in some], sampling)
            if checker is None:
                halves = [half for item in some for half in _halves(item, drawer, sampling, max_pairs)]
                drawer.draw("answers without the image", halves, single)
    report = PreferenceReport(out, len(questions.items) + len(questions.refused), len(questions.refused))

    def samples() -> Iterator[tuple[str, dict[str, Any], Item]]:
        for number, item in enumerate(questions.items):
            if drawer.error(item.key) is not None:
                report.refused += 1
                continue
            answers = drawer.answers(item.key)
            if checker is None:
                found = _without_image(item, drawer, max_pairs)
            else:
                found = pair_by_correctness(
                    answers.texts,
                    item.target.references,
                    checker,
                    cut=answers.cut,
                    max_pairs=max_pairs,
                    format_negatives=format_negatives,
                    seed=sampling.seed,
                    key=item.key,
                )
            report.count(found, len(answers.texts))
            for place, (chosen, rejected) in enumerate(found.pairs):
                columns = {"chosen": chosen, "rejected": rejected, "answer": item.answer}
                yield f"{number:07d}-{place:02d}", make_record(item, item.prompt(), "preferences", **columns), item

    report.shards = write_shards(out, PREFIX, samples(), renderer, options.samples_per_shard)
    settings = {"model": model_digest(model), "sampling": asdict(sampling), "max_pairs": max_pairs}
    replace(report, without=dict(sorted(report.without.items()))).write("preferences.json", settings)
    write_recipe(out, PREFIX)
    return report


def _halves(item: Item, drawer: Drawer, sampling: Sampling, most: int) -> Iterator[Question]:
    """Yields the first halves of answers, to be continued without the image up to the length limit of an answer."""
    blind = [_blind(message) for message in item.prompt()]
    for number, _, half in _choosable(item, drawer)[:most]:
        used = len(drawer.renderer.tokenizer(half, add_special_tokens=False, verbose=False)["input_ids"])
        left = max(1, sampling.max_new_tokens - used)
        yield Question(_half_key(item, number), blind, prefix=half, new_tokens=left)


def _choosable(item: Item, drawer: Drawer) -> list[tuple[int, str, str]]:
    """Returns (number, text, first half) of the answers that may be chosen, each distinct text once."""
    if item.files is None:
        return []
    whole = dict.fromkeys(drawer.answers(item.key).whole)
    halves = ((number, text, first_half(text)) for number, text in enumerate(whole))
    return [(number, text, half) for number, text, half in halves if half is not None]


def _half_key(item: Item, number: int) -> str:
    return f"{item.key}/half/{number}"


def _blind(message: Message) -> Message:
    """Returns the message without media placeholders."""
    if message["role"] != "user":
        return message
    text = message["content"]
    for mark in ("<image>", "<video>"):
        text = text.replace(f"{mark}\n", "").replace(mark, "")
    return {**message, "content": text}


def _without_image(item: Item, drawer: Drawer, max_pairs: int) -> Paired:
    """Pairs answers with the continuations of their first halves."""
    answers = drawer.answers(item.key)
    found = Paired(cut=len(answers.cut))
    if item.files is None:
        found.why_none = "the question has no image to leave out"
        return found
    reasons = set[str]()
    for number, text, half in _choosable(item, drawer)[:max_pairs]:
        rest = drawer.answers(_half_key(item, number)).texts
        if not rest:
            reasons.add("its half was refused")
        elif half + rest[0] == text:
            found.equal += 1
            reasons.add("the answer is the same without the image")
        else:
            found.pairs.append((text, half + rest[0]))
    if not found.pairs:
        cut = not answers.whole
        reasons = reasons or {"every answer was cut" if cut else "the answer has fewer than two words"}
        found.why_none = min(reasons)
    return found
