"""The ladder's data: what each rung of training learns from, out of the same handwriting as the quickstart's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mmcomponents.data.handwriting_folder import begin, finish
from mmcomponents.data.handwriting_parts import STATEMENTS, Drawn, Part, solution
from mmcomponents.data.handwriting_scenes import SceneStyle, load_scans, lookalikes, split_scans
from mmcomponents.data.handwriting_verdicts import judged_sums
from mmcomponents.data.indexing import build_index
from mmcomponents.data.loaders import as_it_is, quiet_worker
from mmcomponents.data.shards import ShardWriter
from mmcomponents.data.tokenizer import check_vocab_size, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", covariant=True)

NAME = "handwriting ladder"
SHARES = {"learnt": 0.1, "preferences": 0.4, "critic": 0.25, "validation": 0.05, "test": 0.2}
"""Shares of the scans, none in two: the policy is told the digits of the first, critics those of their own, too."""


def make_handwriting_ladder(
    out: str,
    documents: int = 12_000,
    names: int = 12_000,
    single: int = 10_000,
    single_statements: int = 5_000,
    scenes: int = 14_000,
    statements: int = 7_000,
    sums: int = 3_000,
    solutions: int = 2_000,
    refresher: int = 2_000,
    preference_questions: int = 4_000,
    claims: int = 10_000,
    transcripts: int = 8_000,
    corrections: int = 8_000,
    mistakes: int = 12_000,
    critic_questions: int = 1_600,
    validation: int = 500,
    held_out: int = 1_200,
    seed: int = 0,
    unit: int = 28,
    digit_size: tuple[int, int] = (20, 26),
    counts: tuple[float, ...] = (3, 1, 1, 1, 1, 1, 1, 1),
    summands: tuple[float, ...] = (0, 0, 0, 1, 1, 1, 1, 1),
    judged: tuple[float, ...] = (3, 2, 2, 2, 1, 1, 1, 1),
    orders: tuple[float, float, float] = (2, 1, 0),
    vocab_size: int = 768,
    samples_per_shard: int = 10_000,
    num_workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Writes the shards of all rungs with their indices, `tokenizer/` and `dataset.json`.

    | shards | what they hold | which recipe of `ladder/` |
    |---|---|---|
    | `documents` | sums as plain text | `text`, `digits`, `statements`, `pretrain` |
    | `sums` | statements about sums without an image, half of them false, with verdicts | the same but `digits` |
    | `names` | scenes of one digit, and its name, as documents | `digits` |
    | `digits` | scenes of one digit: conversations that read, count, compare and describe | `digits`, `statements` |
    | `statements_one` | scenes of one digit: statements, half of them false, with verdicts and truth | `statements` |
    | `scenes` | as `digits`, of up to eight digits | `pretrain` |
    | `statements` | as `statements_one`, of up to eight digits; one about each, where there are several | `pretrain` |
    | `solutions` | sums of scenes with their steps written out | `sft` |
    | `refresher` | conversations as in `scenes` | `sft` |
    | `preferences` | sums of other handwriting, final answers alone | `mpo`, through `data preferences` |
    | `claims` | as `statements`, of what is learnt from and of `critic` | `claims` |
    | `transcripts` | solutions with mistakes, verdicts and truth, as documents, of the same scans | `corrections` |
    | `corrections` | the same as conversations | `corrections` |
    | `mistakes` | the same with verdicts alone | `judge` |
    | `critic` | sums of other handwriting again, final answers alone | `prm` and `orm`, through `data steps` |
    | `validation` | sums of other handwriting again, with their steps | none: to choose settings on |
    | `test` | sums of other handwriting again, with their steps | none: evaluation |

    All digits are turned, slanted, and thickened or thinned a little. The same arguments give the same bytes.

    Args:
        out: Folder; shards of an earlier call are replaced.
        documents: Plain texts with sums.
        names: Scenes of one digit, to name.
        single: Scenes of one digit, to look at.
        single_statements: Of one digit, with statements.
        scenes: Of up to eight digits, to look at.
        statements: Of up to eight digits, with statements.
        sums: Conversations of statements about sums.
        solutions: With the steps written out: few, since steps are dear.
        refresher: Conversations as in pre-training, so that fine-tuning does not forget them.
        preference_questions: With final answers alone.
        claims: Scenes with statements, for critics to begin with.
        transcripts: Documents of solutions with mistakes, verdicts and truth.
        corrections: Conversations about such solutions, with verdicts and truth.
        mistakes: Conversations about such solutions, with verdicts alone.
        critic_questions: With final answers alone.
        validation: To choose settings on.
        held_out: To test on.
        seed: Of everything.
        unit: Side in pixels of the cell that holds one digit.
        digit_size: Least and largest side of a digit in pixels.
        counts: Weights of scenes with one digit, two and so on, among those to look at.
        summands: The same among those to add up.
        judged: The same among those with statements or mistakes: place after place is learnt, short ones first. With
            as many digits as in `summands` alone, critics had learnt nothing after 3,000 steps of conversations.
        orders: Weights of rows, columns and two-by-two grids; a grid holds no more than four digits.
        vocab_size: Of the tokenizer, which is made from the texts that are learnt from, but for transcripts and
            corrections.
        samples_per_shard: Most samples of a shard.
        num_workers: Processes that draw; 0: this one.
        progress: Called with (samples done, samples in all).

    Returns:
        The folder.

    Raises:
        DataError: The folder holds another data set, or shards or a note that nothing is known of.
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
    if orders[2] and max(map(_most, (counts, summands, judged))) > 4:
        told = f"counts {counts}, summands {summands} or judged {judged}"
        raise ValueError(f"grids hold four digits at most, and {told} have more")
    one = SceneStyle(unit, digit_size, (1,), orders)
    parts = [
        Part("names", names, one, asks="names"),
        Part("digits", single, one, kinds=(1, 2)),
        Part("statements_one", single_statements, one, asks="statements"),
        Part("scenes", scenes, look, kinds=(1, 2)),
        Part("statements", statements, judge, asks="statements"),
        Part("solutions", solutions, add),
        Part("refresher", refresher, look, kinds=(1, 2)),
        Part("preferences", preference_questions, add, asks="answer", scans=("preferences",)),
        Part("claims", claims, judge, asks="statements", scans=("learnt", "critic")),
        Part("mistakes", mistakes, judge, asks="verdicts", scans=("learnt", "critic")),
        Part("critic", critic_questions, add, asks="answer", scans=("critic",)),
        Part("validation", validation, add, scans=("validation",)),
        Part("test", held_out, add, scans=("test",)),
        Part("transcripts", transcripts, judge, asks="transcripts", scans=("learnt", "critic"), words=False),
        Part("corrections", corrections, judge, asks="corrections", scans=("learnt", "critic"), words=False),
    ]
    sizes = {"documents": documents, "sums": sums, **{part.name: part.size for part in parts}}
    if empty := [name for name, size in sizes.items() if size < 1]:
        raise ValueError(f"no part of the data may be empty: {', '.join(empty)}")
    if (most := _most(summands)) < 2:
        raise ValueError(f"summands {summands} has scenes of one digit alone, which make no sum")
    for what, value, least in (
        ("seed", seed, 0),
        ("samples_per_shard", samples_per_shard, 1),
        ("num_workers", num_workers, 0),
    ):
        if value < least:
            raise ValueError(f"{what} must be at least {least}, got {value}")
    check_vocab_size(vocab_size)
    scans, digits = load_scans()
    scans_of = dict(zip(SHARES, split_scans(digits, tuple(SHARES.values()), seed), strict=True))
    folder = Path(out)
    begin(folder, NAME, list(sizes))  # once nothing of the arguments can be wrong any more
    total, done = sum(sizes.values()), 0
    texts: list[str] = []
    shards: list[Path] = []

    def tell() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

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
            texts += _words(messages)
            tell()
    shards += writer.paths
    for place, part in enumerate(parts, start=2):
        allowed = np.concatenate([scans_of[name] for name in part.scans])
        drawn = Drawn(part, scans, digits, lookalikes(scans, digits, allowed), allowed, (seed, place))
        with ShardWriter(folder, part.name, samples_per_shard) as writer:
            number = 0
            for batch in _in_order(drawn, 64, num_workers):
                for record, png in batch:
                    writer.write(f"{number:06d}", record, [("png", png)])
                    if part.words and "learnt" in part.scans:
                        texts += _words(record.get("messages", [])) or [record["text"]]
                    number += 1
                    tell()
        shards += writer.paths
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save_pretrained(str(folder / "tokenizer"))
    for _ in _in_order(_Indexed(shards, tokenizer), 1, num_workers):
        pass
    settings: dict[str, Any] = {
        "name": NAME,
        "samples": sizes,
        "scans": {name: len(numbers) for name, numbers in scans_of.items()},
        "seed": seed,
        "looking": asdict(look),
        "adding": asdict(add),
        "judged": asdict(judge),
        "vocab_size": len(tokenizer),
        "shards": [shard.name for shard in shards],
    }
    finish(folder, settings)
    return str(folder)


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


def _most(weights: Sequence[float]) -> int:
    """Most digits of a scene."""
    return max(count for count, weight in enumerate(weights, start=1) if weight)


def _words(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a tokenizer is made from: who speaks, too, since the chat template names him each time."""
    return [text for message in messages for text in (message["role"], message["content"])]


class _Indexed(Dataset[Path]):
    """The indices of shards, each made when it is asked for."""

    def __init__(self, shards: Sequence[Path], tokenizer: PreTrainedTokenizerBase) -> None:
        self.shards, self.tokenizer = shards, tokenizer

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Path:
        return build_index(self.shards[number], self.tokenizer)


def _in_order(items: Dataset[T], several: int, num_workers: int) -> Iterable[list[T]]:
    """All items by their numbers, several at a time; processes make them ahead."""
    loader: DataLoader[Any] = DataLoader(
        items, batch_size=several, collate_fn=as_it_is, num_workers=num_workers, worker_init_fn=quiet_worker
    )
    return loader
