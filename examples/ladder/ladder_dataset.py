"""Data of the ladder's training stages, from the same handwriting as the quickstart's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jsonargparse import ArgumentParser
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from ladder_judged import judged_sums
from ladder_parts import STATEMENTS, Drawn, Part, solution
from mmcomponents.cli.terminal.progress_bar import progress_bar
from mmcomponents.data.chat.tokenizer import check_vocab_size, train_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.indexing import build_index
from mmcomponents.data.format.shards import ShardWriter
from mmcomponents.data.loading.worker_batches import as_it_is, quiet_worker
from mmcomponents.demos.handwriting.data_folder import begin, finish
from mmcomponents.demos.handwriting.scenes import SceneStyle, load_scans, lookalikes, split_scans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T", covariant=True)

NAME = "handwriting ladder"
SHARES = {"learnt": 0.1, "preferences": 0.4, "critic": 0.25, "validation": 0.05, "test": 0.2}
"""Disjoint shares of the scans. Targets of the policy have the digits of "learnt", those of critics also "critic"."""


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
    """Writes the shards of all stages with their indices, `tokenizer/` and `dataset.json`.

    | shards | content | recipes of `ladder/` |
    |---|---|---|
    | `documents` | sums as plain text | `text`, `digits`, `statements`, `pretrain` |
    | `sums` | statements about sums without an image, half of them false, with verdicts | the same but `digits` |
    | `names` | scenes of one digit with its name, as documents | `digits` |
    | `digits` | scenes of one digit: conversations that read, count, compare and describe | `digits`, `statements` |
    | `statements_one` | scenes of one digit: statements, half of them false, with verdict and truth | `statements` |
    | `scenes` | as `digits`, with up to eight digits | `pretrain` |
    | `statements` | as `statements_one`, with up to eight digits; if several, one statement per digit | `pretrain` |
    | `solutions` | sums of scenes with their steps | `sft` |
    | `refresher` | conversations as in `scenes` | `sft` |
    | `preferences` | sums of other handwriting, final answers only | `mpo`, through `data preferences` |
    | `claims` | as `statements`, with the scans of "learnt" and "critic" | `claims` |
    | `transcripts` | solutions with mistakes, verdicts and truth, as documents, with the same scans | `corrections` |
    | `corrections` | the same as conversations | `corrections` |
    | `mistakes` | the same with verdicts only | `judge` |
    | `critic` | sums of other handwriting, final answers only | `prm` and `orm`, through `data steps` |
    | `validation` | sums of other handwriting, with their steps | none: for the choice of settings |
    | `test` | sums of other handwriting, with their steps | none: for the evaluation |

    All digits are slightly rotated, slanted, and thickened or thinned. The same arguments give the same bytes.

    Args:
        out: Output folder; shards of an earlier call are replaced.
        documents: Number of plain texts with sums.
        names: Number of scenes of one digit with its name.
        single: Number of scenes of one digit with questions of `LOOKING`.
        single_statements: Number of scenes of one digit with statements.
        scenes: Number of scenes of up to eight digits with questions of `LOOKING`.
        statements: Number of scenes of up to eight digits with statements.
        sums: Number of conversations of statements about sums.
        solutions: Number of sums with steps; few, since steps are expensive.
        refresher: Number of conversations as in pre-training, so that fine-tuning does not forget them.
        preference_questions: Number of sums with final answers only, for preferences.
        claims: Number of scenes with statements, for the first training of critics.
        transcripts: Number of documents of solutions with mistakes, verdicts and truth.
        corrections: Number of conversations about such solutions, with verdicts and truth.
        mistakes: Number of conversations about such solutions, with verdicts only.
        critic_questions: Number of sums with final answers only, for critics.
        validation: Number of sums for the choice of settings.
        held_out: Number of sums for the evaluation.
        seed: Random seed.
        unit: Side in pixels of the cell of one digit.
        digit_size: Smallest and largest side of a digit in pixels.
        counts: Weights of scenes with one digit, two and so on, for questions of `LOOKING`.
        summands: The same weights for sums.
        judged: The same weights for statements and mistakes. Positions are learnt one after the other, in short scenes
            first: with the weights of `summands`, critics had learnt nothing after 3,000 steps of conversations.
        orders: Weights of rows, columns and two-by-two grids; a grid has at most four digits.
        vocab_size: Vocabulary size of the tokenizer, which is trained on the texts of parts with "learnt" scans, except
            transcripts and corrections.
        samples_per_shard: Largest number of samples in a shard.
        num_workers: Number of worker processes; 0: none.
        progress: Called with (samples done, samples in total).

    Returns:
        The folder.

    Raises:
        DataError: The folder has another data set, or shards or a note of unknown origin.
        ValueError: Arguments are out of range.
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
        given = f"counts {counts}, summands {summands} or judged {judged}"
        raise ValueError(f"grids have at most four digits, and {given} have more")
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
        raise ValueError(f"summands {summands} has only scenes of one digit, which give no sum")
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
    begin(folder, NAME, list(sizes))  # after all arguments are checked
    total, done = sum(sizes.values()), 0
    texts: list[str] = []
    shards: list[Path] = []

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with ShardWriter(folder, "documents", samples_per_shard) as writer:
        for number in range(documents):
            text = sums_in_words(np.random.default_rng((seed, 1, number)), most)
            writer.write(f"{number:06d}", {"text": text, "source": "documents"})
            texts.append(text)
            report()
    shards += writer.paths
    with ShardWriter(folder, "sums", samples_per_shard) as writer:
        for number in range(sums):
            messages = judged_sums(most, STATEMENTS, np.random.default_rng((seed, 0, number)))
            writer.write(f"{number:06d}", {"messages": messages, "source": "sums"})
            texts += _words(messages)
            report()
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
                    report()
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
    """Writes a short text with sums of up to `most` digits."""
    count = int(generator.integers(2, max(2, most), endpoint=True))
    digits = generator.integers(0, 10, count).tolist()
    steps = solution(digits).split("\n\n")[:-1]
    form = int(generator.integers(3))
    if form == 0:  # the sum with its steps
        return "\n".join([" + ".join(map(str, digits)), *steps])
    if form == 1:  # the result first
        return "\n".join([f"The sum of {', '.join(map(str, digits[:-1]))} and {digits[-1]} is {sum(digits)}.", *steps])
    total = int(generator.integers(0, 9 * most - 8))  # a line of a table
    return "\n".join(f"{total} + {digit} = {total + digit}" for digit in digits)


def _most(weights: Sequence[float]) -> int:
    """Returns the largest number of digits with a positive weight."""
    return max(count for count, weight in enumerate(weights, start=1) if weight)


def _words(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the texts for the tokenizer's training, with the roles, since the chat template repeats them."""
    return [text for message in messages for text in (message["role"], message["content"])]


class _Indexed(Dataset[Path]):
    """Dataset whose items are the indices of shards, built on access."""

    def __init__(self, shards: Sequence[Path], tokenizer: PreTrainedTokenizerBase) -> None:
        self.shards, self.tokenizer = shards, tokenizer

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, number: int) -> Path:
        return build_index(self.shards[number], self.tokenizer)


def _in_order(items: Dataset[T], several: int, num_workers: int) -> Iterable[list[T]]:
    """Iterates over all items in order, several at a time, with worker processes."""
    loader: DataLoader[Any] = DataLoader(
        items, batch_size=several, collate_fn=as_it_is, num_workers=num_workers, worker_init_fn=quiet_worker
    )
    return loader


def main() -> int:
    """Runs the script; returns the exit code."""
    parser = ArgumentParser(description="Write the data of the ladder.", exit_on_error=True, allow_abbrev=False)
    names = parser.add_function_arguments(make_handwriting_ladder, as_positional=False, skip={"progress"})
    options = parser.parse_args()
    arguments = {name: options[name] for name in names}
    with progress_bar() as bar:
        task = bar.add_task("ladder", total=None)
        try:
            out = make_handwriting_ladder(
                **arguments, progress=lambda done, total: bar.update(task, completed=done, total=total)
            )
        except (ValueError, OSError, DataError, ModuleNotFoundError) as error:
            raise SystemExit(f"ladder: {' '.join(str(error).split())}") from error
    Console().print(out, markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
