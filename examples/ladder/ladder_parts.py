"""Parts of the ladder's data: scenes with conversations or documents, each sample seeded by its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from ladder_judged import adding_question, judged_solution, judged_statements, step
from mmcomponents.demos.handwriting.digit_questions import conversation
from mmcomponents.demos.handwriting.scenes import Scans, SceneStyle, draw_scene

LOOKING = ("read", "count", "largest", "describe")
"""Kinds of questions without reasoning. The ladder is evaluated on the remaining kind, `add`."""

STATEMENTS = 8
"""Number of statements in a document about one digit, or in a conversation about sums."""


@dataclass(frozen=True)
class Part:
    """Settings of one part of the data.

    Attributes:
        name: Name of the shards and of the source.
        size: Number of scenes.
        style: Style of the scenes.
        kinds: Smallest and largest number of questions of `LOOKING`; None: `asks` applies.
        asks: Content of the samples: the "steps" of the sum, the final "answer" only, "verdicts" on a solution with
            mistakes, "corrections" of it, which have the true value after each verdict, or "transcripts", the same
            without roles; documents of "statements" with verdicts and true values, one about each digit, or several
            about a single digit; or "names" of the digits, the shortest text that needs each of them.
        scans: Keys of `SHARES` of the digits' scans.
        words: Whether the tokenizer is also trained on its texts, if its scans are in "learnt". Texts that repeat those
            of another part would only increase the weight of that part.
    """

    name: str
    size: int
    style: SceneStyle
    kinds: tuple[int, int] | None = None
    asks: Literal["steps", "answer", "verdicts", "corrections", "transcripts", "statements", "names"] = "steps"
    scans: tuple[str, ...] = ("learnt",)
    words: bool = True


class Drawn(Dataset[tuple[dict[str, Any], bytes]]):
    """Dataset of the samples of a part: record, and image as PNG. A sample does not depend on the process.

    Args:
        part: Settings of the part.
        scans: All scans, `[n, 8, 8]`.
        digits: Digit of each scan, `[n]`.
        similar: The other digit that each scan is most similar to, `[n]`.
        allowed: Numbers of the part's scans.
        seed: Seed of all parts, and the number of this one.
    """

    def __init__(
        self,
        part: Part,
        scans: Scans,
        digits: npt.NDArray[np.int64],
        similar: npt.NDArray[np.int64],
        allowed: npt.NDArray[np.int64],
        seed: tuple[int, int],
    ) -> None:
        self.part, self.seed = part, seed
        self.scans, self.digits, self.similar, self.allowed = scans, digits, similar, allowed

    def __len__(self) -> int:
        return self.part.size

    def __getitem__(self, number: int) -> tuple[dict[str, Any], bytes]:
        part, generator = self.part, np.random.default_rng((*self.seed, number))
        scene = draw_scene(self.scans, self.digits, self.allowed, part.style, generator, vary=True)
        record: dict[str, Any]
        if part.kinds is not None:
            kinds = generator.permutation(LOOKING)[: int(generator.integers(*part.kinds, endpoint=True))].tolist()
            record = {"messages": conversation(scene.digits, scene.order, kinds, generator), "kinds": kinds}
        elif part.asks == "statements":
            among = len(scene.digits)
            # several statements about a single digit, so that comparing within the text remains trained
            places = generator.permutation(among).tolist() if among > 1 else [0] * STATEMENTS
            record = {"text": judged_statements(scene.digits, places, generator)}
        elif part.asks == "names":
            named = (f"Digit {place} is {digit}." for place, digit in enumerate(scene.digits, start=1))
            record = {"text": "\n".join(["<image>", *named])}
        elif part.asks in ("transcripts", "corrections", "verdicts"):
            alike = self.similar[list(scene.scans)].tolist()
            judged = judged_solution(scene.digits, alike, generator)
            record = {"messages": judged.conversation(with_truth=part.asks == "corrections"), "kinds": ["judge"]}
            if part.asks == "transcripts":
                record = {"text": judged.transcript()}
        else:
            question = adding_question(generator)
            final = solution(scene.digits) if part.asks == "steps" else str(sum(scene.digits))
            asked = [{"role": "user", "content": question}, {"role": "assistant", "content": final}]
            record = {"messages": asked, "kinds": ["add"]}
        record |= {"source": part.name, "digits": scene.digits, "scans": scene.scans, "order": scene.order}
        return record, scene.png()


def solution(digits: Sequence[int]) -> str:
    """Writes the solution of a sum: a step per digit, which names and adds it, then the answer, with blank lines."""
    totals = np.cumsum([0, *digits]).tolist()
    together = zip(digits, totals, totals[1:], strict=False)
    steps = [step(place, *numbers) for place, numbers in enumerate(together, start=1)]
    return "\n\n".join([*steps, f"Answer: {totals[-1]}"])
