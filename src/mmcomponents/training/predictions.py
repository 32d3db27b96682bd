"""What `predict` returns and writes: answers to prompts, or log-probabilities of preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from PIL.Image import Image

from mmcomponents.batch import PackedBatch, TokenType
from mmcomponents.component import WiringError
from mmcomponents.data.loading.prompts import PromptBatch
from mmcomponents.generation.answer_files import PictureFolder, Rows, check_finite
from mmcomponents.generation.base import Answer
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives.answers import answer_logps, pairs_of
from mmcomponents.training.answer_report import gather_lists, warn_of_other_answers
from mmcomponents.training.reference_logps import ReferenceLogps

_FILE, _PICTURES = "predictions.jsonl", "predictions"


class Predictions(Callback):
    """Writes the rows of `predict` to `predictions.jsonl` in the run's folder, one JSON line each.

    Rows of all ranks are written, in the order of the data. Pictures are written as PNG files into `predictions` beside
    the file, and their rows have the relative path in place of the picture. The ranks need a common file system.

    Attributes:
        written: Path of the file; None before it is written. `ReferenceLogps` that writes log-probabilities replaces
            it, and checks them.
        pictures: Number of pictures on this rank.
    """

    def __init__(self) -> None:
        self.written: Path | None = None
        self.pictures = 0
        self._batches: list[list[str]] = []
        self._refused: list[str] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clears the rows, and the pictures of an earlier run."""
        self.written, self.pictures, self._batches, self._refused = None, 0, [], []
        if trainer.is_global_zero:
            PictureFolder(Path(trainer.default_root_dir), _PICTURES).clear()
        if trainer.world_size > 1:
            trainer.strategy.barrier()  # before another rank writes

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the rows of a batch, and writes its pictures.

        Raises:
            NonFiniteError: A row of the only rank has a value that is NaN or infinite.
            WiringError: JSON cannot hold a value of a row.
        """
        if _is_replaced(trainer):
            return
        if not self._batches and isinstance(batch, PromptBatch):
            warn_of_other_answers(trainer, batch, getattr(pl_module, "sampler", None))
        folder = PictureFolder(Path(trainer.default_root_dir), _PICTURES)
        number = len(self._batches) * trainer.world_size + trainer.global_rank
        rows = Rows()
        for place, row in enumerate(_flat(outputs)):
            if isinstance(row, dict) and isinstance(row.get("answer"), Image):
                # In place, so that the Trainer does not keep all pictures in memory.
                text = row.get("reasoning")
                row["answer"] = folder.save(row["answer"], str(row.get("key", "")), number, place, text)
                self.pictures += 1
            rows.add(row)
        self._batches.append(rows.lines)
        self._refused += rows.refused
        if trainer.world_size == 1:
            check_finite(self._refused, _FILE)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the rows of all ranks and writes the file.

        Raises:
            NonFiniteError: A row has a value that is NaN or infinite; raised on all ranks.
        """
        if _is_replaced(trainer):
            return
        check_finite(gather_lists(self._refused), _FILE)
        own = [(number, trainer.global_rank, lines) for number, lines in enumerate(self._batches)]
        ordered = sorted(gather_lists(own), key=lambda item: item[:2])
        self.written = Path(trainer.default_root_dir) / _FILE
        if trainer.is_global_zero:
            self.written.parent.mkdir(parents=True, exist_ok=True)
            lines = [f"{line}\n" for _, _, batch in ordered for line in batch]
            self.written.write_text("".join(lines), encoding="utf-8")


def _is_replaced(trainer: Trainer) -> bool:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, ReferenceLogps) and callback.writes(trainer) for callback in callbacks)


def answer_rows(batch: PromptBatch, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Returns a row for each prompt: key, kind, question and answer (a text, nested lists of values, or a picture).

    A picture has the reasoning before it beside it, see `Answer.notes`.
    """
    fields = zip(batch.keys, batch.kinds, batch.questions, answers, strict=True)
    return [
        {"key": key, "kind": kind, "question": question, "answer": _plain(answer), **answer.notes()}
        for key, kind, question, answer in fields
    ]


def pair_rows(model: MultimodalModel, batch: PackedBatch, head: str) -> list[dict[str, Any]]:
    """Returns a row for each preference pair of a pack: key, sample and the log-probabilities of both answers.

    Args:
        model: Model in evaluation mode.
        batch: A pack of pairs, or the pack with a single padding token.
        head: Name of the language-model head.

    Raises:
        WiringError: The pack has no pairs, or the head computes no log-probabilities.
    """
    pairs = pairs_of(batch)
    if not len(pairs.chosen) and bool((batch.layout.token_type != int(TokenType.PAD)).any()):
        raise WiringError(
            f"predict computes the log-probabilities of preference pairs, and the pack with {batch.keys[0]} has none:"
            " set data.predict to shards of pairs, or leave it out to answer the prompts of data.test"
        )
    if head not in model.heads or not hasattr(model.heads[head], "nll"):
        found = f"is {type(model.heads[head]).__name__}" if head in model.heads else "does not exist"
        raise WiringError(
            f"predict computes log-probabilities with the method nll of a head such as LMHead, and the head {head!r}"
            f" {found}"
        )
    logps = answer_logps(model, batch, head).tolist()
    return [
        {"key": batch.keys[s], "sample": int(batch.segment_sample[s]), "chosen": chosen, "rejected": rejected}
        for s, (chosen, rejected) in zip(pairs.chosen.tolist(), logps, strict=True)
    ]


def _plain(answer: Answer) -> Any:
    if answer.values is not None:
        return answer.values.tolist()
    return answer.shown() if answer.picture is None else answer.picture


def _flat(result: Any) -> list[Any]:
    return [line for item in result for line in _flat(item)] if isinstance(result, list) else [result]
