"""The ladder's data: what each rung of training learns from, out of the same handwriting as the quickstart's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mmcomponents.data.errors import DataError
from mmcomponents.data.handwriting_questions import conversation
from mmcomponents.data.handwriting_scenes import (
    Scans,
    Scene,
    SceneStyle,
    draw_scene,
    load_scans,
    lookalikes,
    split_scans,
)
from mmcomponents.data.handwriting_verdicts import (
    adding_question,
    judged_solution,
    judged_statements,
    judged_sums,
    step,
)
from mmcomponents.data.index_file import index_path
from mmcomponents.data.indexing import build_index
from mmcomponents.data.shards import ShardWriter
from mmcomponents.data.tokenizer import train_tokenizer

LOOKING = ("read", "count", "largest", "describe")
"""Kinds of question that take no reasoning; `add` is what the ladder is climbed with."""
SHARES = {"learnt": 0.15, "preferences": 0.2, "critic": 0.45, "validation": 0.05, "test": 0.15}
"""Shares of the scans: what is written out in full is learnt from the first, and no scan is in two of them."""

STATEMENTS = 8
"""In a conversation of repeated ones, or about sums."""


@dataclass(frozen=True)
class _Part:
    """Scenes of one rung.

    Attributes:
        name: Of the shards and of the source.
        size: Scenes.
        style: How they look.
        kinds: Fewest and most questions of `LOOKING`; None: what `asks` says.
        asks: What is given: the "steps" of the sum, the final "answer" alone, "verdicts" on a solution with mistakes,
            or on "statements" about each digit, or "repeated" ones about the same digits.
        scans: Which of `SHARES` the digits come from.
    """

    name: str
    size: int
    style: SceneStyle
    kinds: tuple[int, int] | None = None
    asks: Literal["steps", "answer", "verdicts", "statements", "repeated"] = "steps"
    scans: tuple[str, ...] = ("learnt",)


def make_handwriting_ladder(
    out: str,
    documents: int = 12_000,
    single: int = 10_000,
    single_statements: int = 5_000,
    scenes: int = 20_000,
    statements: int = 10_000,
    sums: int = 3_000,
    solutions: int = 2_000,
    refresher: int = 2_000,
    preference_questions: int = 3_000,
    claims: int = 12_000,
    mistakes: int = 12_000,
    critic_questions: int = 1_600,
    validation: int = 500,
    held_out: int = 800,
    seed: int = 0,
    unit: int = 28,
    digit_size: tuple[int, int] = (20, 26),
    counts: tuple[float, ...] = (3, 1, 1, 1, 1, 1, 1, 1),
    summands: tuple[float, ...] = (0, 0, 0, 1, 1, 1, 1, 1),
    judged: tuple[float, ...] = (3, 2, 2, 2, 1, 1, 1, 1),
    orders: tuple[float, float, float] = (2, 1, 0),
    vocab_size: int = 768,
    samples_per_shard: int = 10_000,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes the shards of all rungs with their indices, `tokenizer/` and `dataset.json`.

    | shards | what they hold | which rung |
    |---|---|---|
    | `documents` | sums as plain text | pre-training |
    | `digits` | scenes of one digit: conversations that read, count, compare and describe | pre-training, begin |
    | `statements_one` | scenes of one digit: repeated statements, half of them false, and the truth | pre-training |
    | `scenes` | as `digits`, of up to eight digits | pre-training |
    | `statements` | as `statements_one`, of up to eight digits, one about each | pre-training |
    | `sums` | statements about sums without an image, half of them false, with verdicts | pre-training |
    | `solutions` | sums of scenes with their steps written out | fine-tuning |
    | `refresher` | conversations as in `scenes` | fine-tuning |
    | `preferences` | sums of other handwriting, final answers alone | questions for preference pairs |
    | `claims` | as `statements`, of what is learnt from and of `critic` | critics, begin |
    | `mistakes` | solutions with mistakes and their verdicts, of what is learnt from and of `critic` | critics, then |
    | `critic` | sums of other handwriting again, final answers alone | questions for solutions that critics judge |
    | `validation` | sums of other handwriting again, with their steps | choice of settings |
    | `test` | sums of other handwriting again, with their steps | evaluation |

    All digits are turned, slanted, and thickened or thinned a little. The same arguments give the same bytes.

    Args:
        out: Folder; shards of an earlier call are replaced.
        documents: Plain texts with sums.
        single: Scenes of one digit, to look at.
        single_statements: Of one digit, with statements.
        scenes: Of up to eight digits, to look at.
        statements: Of up to eight digits, with statements.
        sums: Conversations of statements about sums.
        solutions: With the steps written out: few, since steps are dear.
        refresher: Conversations as in pre-training, so that fine-tuning does not forget them.
        preference_questions: With final answers alone.
        claims: Scenes with statements, for critics to begin with.
        mistakes: Solutions with mistakes.
        critic_questions: With final answers alone.
        validation: To choose settings on.
        held_out: To test on.
        seed: Of everything.
        unit: Side in pixels of the cell that holds one digit.
        digit_size: Least and largest side of a digit in pixels.
        counts: Weights of scenes with one digit, two and so on, among those to look at.
        summands: The same among those to add up.
        judged: The same among those with statements or mistakes: place after place is learnt, short ones first. With
            as many digits as in `summands` alone, critics had learnt nothing after 3,000 steps.
        orders: Weights of rows, columns and two-by-two grids; a grid holds no more than four digits.
        vocab_size: Of the tokenizer, which is made from the texts that are learnt from.
        samples_per_shard: Most samples of a shard.
        progress: Called with (samples done, samples in all).

    Returns:
        The folder.

    Raises:
        DataError: The folder holds shards that are not of this function.
        ValueError: Arguments that make no scenes.
        ModuleNotFoundError: scikit-learn is missing.
    """
    styles = list[SceneStyle]()
    for name, weights in {"counts": counts, "summands": summands, "judged": judged}.items():
        try:
            styles.append(SceneStyle(unit, digit_size, weights, orders))
        except ValueError as error:
            raise ValueError(f"scenes of {name}: {error}") from error
    look, add, judge = styles
    if orders[2] and max(len(counts), len(summands), len(judged)) > 4:
        told = f"counts {counts}, summands {summands} or judged {judged}"
        raise ValueError(f"grids hold four digits at most, and {told} have more")
    one = SceneStyle(unit, digit_size, (1,), orders)
    parts = [
        _Part("digits", single, one, kinds=(1, 2)),
        _Part("statements_one", single_statements, one, asks="repeated"),
        _Part("scenes", scenes, look, kinds=(1, 2)),
        _Part("statements", statements, judge, asks="statements"),
        _Part("solutions", solutions, add),
        _Part("refresher", refresher, look, kinds=(1, 2)),
        _Part("preferences", preference_questions, add, asks="answer", scans=("preferences",)),
        _Part("claims", claims, judge, asks="statements", scans=("learnt", "critic")),
        _Part("mistakes", mistakes, judge, asks="verdicts", scans=("learnt", "critic")),
        _Part("critic", critic_questions, add, asks="answer", scans=("critic",)),
        _Part("validation", validation, add, scans=("validation",)),
        _Part("test", held_out, add, scans=("test",)),
    ]
    sizes = {"documents": documents, "sums": sums, **{part.name: part.size for part in parts}}
    if empty := [name for name, size in sizes.items() if size < 1]:
        raise ValueError(f"no part of the data may be empty: {', '.join(empty)}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    scans, digits = load_scans()
    similar = lookalikes(scans, digits)
    scans_of = dict(zip(SHARES, split_scans(digits, tuple(SHARES.values()), seed), strict=True))
    folder = Path(out)
    _clear(folder, list(sizes))  # once nothing of the arguments can be wrong any more
    total, done = sum(sizes.values()), 0
    texts: list[str] = []
    shards: list[Path] = []

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    most = len(summands)
    with ShardWriter(folder, "documents", samples_per_shard) as writer:
        for number in range(documents):
            text = sums_in_words(np.random.default_rng((seed, 1, number)), most)
            writer.write(f"{number:06d}", {"text": text, "source": "documents"})
            texts.append(text)
            tell()
    shards += writer.paths
    with ShardWriter(folder, "sums", samples_per_shard) as writer:
        for number in range(sums):
            messages = judged_sums(most, STATEMENTS, np.random.default_rng((seed, 0, number)))
            writer.write(f"{number:06d}", {"messages": messages, "source": "sums"})
            texts += [message["content"] for message in messages]
            tell()
    shards += writer.paths
    for place, part in enumerate(parts, start=2):
        allowed = np.concatenate([scans_of[name] for name in part.scans])
        with ShardWriter(folder, part.name, samples_per_shard) as writer:
            for number in range(part.size):
                generator = np.random.default_rng((seed, place, number))
                record, scene = _scene(part, scans, digits, similar, allowed, generator)
                writer.write(f"{number:06d}", record, [("png", scene.png())])
                if part.scans == ("learnt",):
                    texts += [message["content"] for message in record["messages"]]
                tell()
        shards += writer.paths
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for shard in shards:
        build_index(shard, tokenizer)
    settings: dict[str, Any] = {
        "name": "handwriting ladder",
        "samples": sizes,
        "scans": {name: len(numbers) for name, numbers in scans_of.items()},
        "seed": seed,
        "looking": asdict(look),
        "adding": asdict(add),
        "judged": asdict(judge),
        "vocab_size": len(tokenizer),
        "shards": [shard.name for shard in shards],
    }
    # written last: where it is, the rest is whole
    (folder / "dataset.json").write_text(json.dumps(settings, indent=2) + "\n")
    return str(folder)


def solution(digits: Sequence[int]) -> str:
    """The sum, a step for each digit, which it names and adds: blank lines between the steps, the answer last."""
    totals = np.cumsum([0, *digits]).tolist()
    together = zip(digits, totals, totals[1:], strict=False)
    steps = [step(place, *numbers) for place, numbers in enumerate(together, start=1)]
    return "\n\n".join([*steps, f"Answer: {totals[-1]}"])


def sums_in_words(generator: np.random.Generator, most: int) -> str:
    """A short text with sums in it, of up to `most` digits."""
    count = int(generator.integers(2, max(2, most), endpoint=True))
    digits = generator.integers(0, 10, count).tolist()
    steps = solution(digits).split("\n\n")[:-1]
    form = int(generator.integers(3))
    if form == 0:  # a sum, worked out
        return "\n".join([" + ".join(map(str, digits)), *steps])
    if form == 1:  # the result first
        return "\n".join([f"The sum of {', '.join(map(str, digits[:-1]))} and {digits[-1]} is {sum(digits)}.", *steps])
    total = int(generator.integers(0, 9 * most - 8))  # a line of a table
    return "\n".join(f"{total} + {digit} = {total + digit}" for digit in digits)


def _scene(
    part: _Part,
    scans: Scans,
    digits: npt.NDArray[np.int64],
    similar: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.int64],
    generator: np.random.Generator,
) -> tuple[dict[str, Any], Scene]:
    """One sample: its record and its picture."""
    messages: list[Any]
    scene = draw_scene(scans, digits, allowed, part.style, generator, vary=True)
    if part.kinds is not None:
        kinds = generator.permutation(LOOKING)[: int(generator.integers(*part.kinds, endpoint=True))].tolist()
        messages = conversation(scene.digits, scene.order, kinds, generator)
    elif part.asks in ("statements", "repeated"):
        among = len(scene.digits)
        once = part.asks == "statements"
        places = generator.permutation(among) if once else generator.integers(among, size=STATEMENTS)
        kinds, messages = ["judge"], judged_statements(scene.digits, places.tolist(), generator)
    elif part.asks == "verdicts":
        alike = similar[list(scene.scans)].tolist()
        kinds, messages = ["judge"], judged_solution(scene.digits, alike, generator)
    else:
        kinds = ["add"]
        question = adding_question(generator)
        final = solution(scene.digits) if part.asks == "steps" else str(sum(scene.digits))
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": final}]
    record = {"messages": messages, "kinds": kinds, "source": part.name, "digits": scene.digits}
    return {**record, "scans": scene.scans, "order": scene.order}, scene


def _clear(folder: Path, names: Sequence[str]) -> None:
    """Removes the shards of an earlier call, which a smaller data set would leave among its own."""
    note = folder / "dataset.json"
    shards = sorted(folder.glob("*.tar"))
    if shards and not note.is_file() and {shard.name.rpartition("-")[0] for shard in shards} - set(names):
        raise DataError(f"{folder} holds {len(shards)} shards that are not of the ladder, such as {shards[0]}")
    for shard in shards:
        if shard.name.rpartition("-")[0] in names:
            shard.unlink()
            index_path(shard).unlink(missing_ok=True)
    for name in names:  # of a call that was killed
        for part in folder.glob(f".{name}-*.tar.*.tmp"):
            part.unlink()
    note.unlink(missing_ok=True)
