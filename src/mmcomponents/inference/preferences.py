"""Preference data from a model's own answers (MMPR, arXiv 2411.10442, section 3).

Where the right answer is known, right answers are paired with wrong ones. Where it is not, the model's answer is the
chosen one, and the rejected one is its first half, which the model has continued without seeing the image (DropoutNTP).
Answers that were cut at the limit of new tokens are never chosen: a model would learn to stop in the midst.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmcomponents.data import SampleRenderer
from mmcomponents.data.annotations.state import write_whole
from mmcomponents.data.chat import Message
from mmcomponents.inference.checking import Checker
from mmcomponents.inference.drawing import (
    TOGETHER,
    Drawer,
    Progress,
    draw_settings,
    model_digest,
    open_refusals,
    write_recipe,
    write_shards,
)
from mmcomponents.inference.journal import Journal
from mmcomponents.inference.pairs import Paired, first_half, pair_by_correctness
from mmcomponents.inference.questions import Asked, Questions
from mmcomponents.inference.rollouts import MAX_CACHE, Question, Sampling
from mmcomponents.model import MultimodalModel

PREFIX = "pairs"
"""Of the names of the shards."""


@dataclass
class PreferenceReport:
    """What came of the questions.

    Attributes:
        out: The folder.
        questions: All of them, those that could not be asked included.
        refused: Those that could not be asked.
        samples: Answers that were drawn.
        correct: Of these; as the next two, only where right answers are known.
        wrong: Of these.
        unparseable: Answers in which no answer was found, those that were cut among them.
        odd: The first of these.
        cut: Of all answers, those that the limit of new tokens has ended.
        pairs: Pairs that were written.
        contained: Pairs left out because the right answer is part of the wrong one.
        equal: Pairs left out because the answer is the same without the image.
        without: Questions without a pair, by the reason.
        shards: Names of the shards.
    """

    out: Path
    questions: int = 0
    refused: int = 0
    samples: int = 0
    correct: int = 0
    wrong: int = 0
    unparseable: int = 0
    odd: str = ""
    cut: int = 0
    pairs: int = 0
    contained: int = 0
    equal: int = 0
    without: dict[str, int] = field(default_factory=dict)
    shards: list[str] = field(default_factory=list)

    def add(self, found: Paired, samples: int) -> None:
        """Counts a question."""
        self.samples += samples
        self.correct += found.correct
        self.wrong += found.wrong
        self.unparseable += found.unparseable
        self.odd = self.odd or found.odd
        self.cut += found.cut
        self.contained += found.contained
        self.equal += found.equal
        self.pairs += len(found.pairs)
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
    max_refused: float = 0.01,
    samples_per_shard: int = 10_000,
    max_tokens: int = 16384,
    max_segments: int = 256,
    max_cache: int = MAX_CACHE,
    progress: Progress | None = None,
) -> PreferenceReport:
    """Draws answers, makes pairs of them and writes these as shards with their indices.

    What was drawn is kept in `journal.jsonl`: a call that was stopped goes on from there, and ends with the same bytes.

    Args:
        model: Answers.
        renderer: Its tokenizer, tiling and so on.
        questions: With their references, unless `checker` is None.
        out: Folder; made if it is missing.
        sampling: How answers are drawn; MMPR takes 32 at a temperature of 0.7.
        checker: Judges the answers; None: no right answer is known, see above.
        max_pairs: Pairs of a question at most.
        format_negatives: Whether answers in which no answer is found count as wrong ones.
        max_refused: Largest share of questions that may be unusable.
        samples_per_shard: Pairs of a shard at most.
        max_tokens: See `rollouts`.
        max_segments: See `rollouts`.
        max_cache: See `rollouts`.
        progress: Is told of each batch.

    Raises:
        DataError: Too many questions cannot be used, or the folder holds the answers of other settings.
        ValueError: A number is out of its range.
    """
    if checker is not None and sampling.samples < 2:
        raise ValueError(f"a pair takes at least 2 samples of a question, got {sampling.samples}")
    if max_pairs < 1 or samples_per_shard < 1:
        raise ValueError(f"max_pairs and samples_per_shard must be at least 1, got {max_pairs} and {samples_per_shard}")
    out, batching = Path(out), (max_tokens, max_segments, max_cache)
    refusals = open_refusals(questions, max_refused)
    settings = {"makes": "preferences", "checked": checker is not None}
    if checker is None:
        settings["max_pairs"] = max_pairs  # decides which answers are gone on from
    settings |= draw_settings(model, renderer, sampling, questions, batching)
    with Journal(out / "journal.jsonl", settings) as journal:
        drawer = Drawer(model, renderer, journal, refusals, batching, progress)
        alone = replace(sampling, samples=1, greedy_first=False)
        for first in range(0, len(questions.asked), TOGETHER):
            some = questions.asked[first : first + TOGETHER]
            drawer.draw("answers", [one.question for one in some], sampling)
            if checker is None:
                halves = [half for one in some for half in _halves(one, drawer, sampling, max_pairs)]
                drawer.draw("answers without the image", halves, alone)
    report = PreferenceReport(out, len(questions.asked) + len(questions.problems), len(questions.problems))

    def samples() -> Iterator[tuple[str, dict[str, Any], Asked]]:
        for number, one in enumerate(questions.asked):
            if drawer.error(one.question.key) is not None:
                report.refused += 1
                continue
            answers = drawer.answers(one.question.key)
            if checker is None:
                found = _without_image(one, drawer, max_pairs)
            else:
                found = pair_by_correctness(
                    answers.texts,
                    one.reference or "",
                    checker,
                    cut=answers.cut,
                    max_pairs=max_pairs,
                    format_negatives=format_negatives,
                    seed=sampling.seed,
                    key=one.question.key,
                )
            report.add(found, len(answers.texts))
            for place, pair in enumerate(found.pairs):
                yield f"{number:07d}-{place:02d}", _record(one, pair), one

    paths = write_shards(out, PREFIX, samples(), renderer, samples_per_shard)
    report.shards = [path.name for path in paths]
    told = {"model": model_digest(model), "sampling": asdict(sampling), "max_pairs": max_pairs}
    counts = {name: value for name, value in asdict(report).items() if name != "out"}
    counts["without"] = dict(sorted(report.without.items()))
    write_whole(out / "preferences.json", json.dumps({"settings": told, **counts}, indent=2) + "\n")
    write_recipe(out, PREFIX)
    return report


def _record(one: Asked, pair: tuple[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "messages": [dict(message) for message in one.question.messages],
        "chosen": pair[0],
        "rejected": pair[1],
        "source": one.source or "preferences",
        "question_key": one.question.key,
    }
    if one.reference is not None:
        record["answer"] = one.reference
    if one.clips is not None:
        record["clips"] = one.clips
    return record


def _halves(one: Asked, drawer: Drawer, sampling: Sampling, most: int) -> Iterator[Question]:
    """The first halves of some answers, to be continued without the image, no longer than the answers may be."""
    blind = [_blind(message) for message in one.question.messages]
    for number, _, half in _choosable(one, drawer)[:most]:
        used = len(drawer.renderer.tokenizer(half, add_special_tokens=False, verbose=False)["input_ids"])
        left = max(1, sampling.max_new_tokens - used)
        yield Question(_half_key(one, number), blind, prefix=half, new_tokens=left)


def _choosable(one: Asked, drawer: Drawer) -> list[tuple[int, str, str]]:
    """The answers that may be chosen, each text once: its number, the text and its first half."""
    if one.files is None:
        return []
    answers = drawer.answers(one.question.key)
    whole = dict.fromkeys(text for number, text in enumerate(answers.texts) if number not in answers.cut)
    halves = ((number, text, first_half(text)) for number, text in enumerate(whole))
    return [(number, text, half) for number, text, half in halves if half is not None]


def _half_key(one: Asked, number: int) -> str:
    return f"{one.question.key}/half/{number}"


def _blind(message: Message) -> Message:
    """A turn whose text is the same, without the places of images."""
    if message["role"] != "user":
        return message
    text = message["content"]
    for mark in ("<image>", "<video>"):
        text = text.replace(f"{mark}\n", "").replace(mark, "")
    return {**message, "content": text}


def _without_image(one: Asked, drawer: Drawer, max_pairs: int) -> Paired:
    """Pairs of answers with what became of their first halves."""
    answers = drawer.answers(one.question.key)
    found = Paired(cut=len(answers.cut))
    if one.files is None:
        found.why_none = "the question has no image to leave out"
        return found
    reasons = set[str]()
    for number, text, half in _choosable(one, drawer)[:max_pairs]:
        rest = drawer.answers(_half_key(one, number)).texts
        if not rest:
            reasons.add("its half was refused")
        elif half + rest[0] == text:
            found.equal += 1
            reasons.add("the answer is the same without the image")
        else:
            found.pairs.append((text, half + rest[0]))
    if not found.pairs:
        cut = len(answers.cut) == len(answers.texts)
        reasons = reasons or {"every answer was cut" if cut else "the answer has fewer than two words"}
        found.why_none = min(reasons)
    return found
