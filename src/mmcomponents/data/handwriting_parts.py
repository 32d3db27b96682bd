"""What the ladder's shards hold: scenes with the conversations or documents of a part, each drawn by its own number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from mmcomponents.data.handwriting_questions import conversation
from mmcomponents.data.handwriting_scenes import Scans, SceneStyle, draw_scene
from mmcomponents.data.handwriting_verdicts import adding_question, judged_solution, judged_statements, step

LOOKING = ("read", "count", "largest", "describe")
"""Kinds of question that take no reasoning; `add` is what the ladder is climbed with."""

STATEMENTS = 8
"""In a document about one digit, or in a conversation about sums."""


@dataclass(frozen=True)
class Part:
    """Scenes of one rung.

    Attributes:
        name: Of the shards and of the source.
        size: Scenes.
        style: How they look.
        kinds: Fewest and most questions of `LOOKING`; None: what `asks` says.
        asks: What is given: the "steps" of the sum, the final "answer" alone, "verdicts" on a solution with mistakes,
            "corrections" of it, which have the truth behind each verdict, or "transcripts", the same without roles;
            documents of "statements" about the digits with verdicts and truth, each once, or a single one again and
            again; or "names" of the digits, which is the least text that takes a look at each.
        scans: Which of `SHARES` the digits come from.
        words: Whether the tokenizer is made from its texts too, where they are learnt from. Those that say again what
            another part says would only add weight to it.
    """

    name: str
    size: int
    style: SceneStyle
    kinds: tuple[int, int] | None = None
    asks: Literal["steps", "answer", "verdicts", "corrections", "transcripts", "statements", "names"] = "steps"
    scans: tuple[str, ...] = ("learnt",)
    words: bool = True


class Drawn(Dataset[tuple[dict[str, Any], bytes]]):
    """The samples of a part: record, and picture as PNG. Whichever process draws one, it is the same.

    Args:
        part: What is drawn.
        scans: All scans, `[n, 8, 8]`.
        digits: Of each scan, `[n]`.
        similar: What each scan looks like most, beside what it is, `[n]`.
        allowed: Numbers of the scans that the part shows.
        seed: Of all parts, and the number of this one.
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
            # a single one comes up again and again, so that comparing in the text stays in practice
            places = generator.permutation(among).tolist() if among > 1 else [0] * STATEMENTS
            record = {"text": judged_statements(scene.digits, places, generator)}
        elif part.asks == "names":
            named = (f"Digit {place} is {digit}." for place, digit in enumerate(scene.digits, start=1))
            record = {"text": "\n".join(["<image>", *named])}
        elif part.asks in ("transcripts", "corrections", "verdicts"):
            alike = self.similar[list(scene.scans)].tolist()
            judged = judged_solution(scene.digits, alike, generator)
            record = {"messages": judged.conversation(told=part.asks == "corrections"), "kinds": ["judge"]}
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
    """The sum, a step for each digit, which it names and adds: blank lines between the steps, the answer last."""
    totals = np.cumsum([0, *digits]).tolist()
    together = zip(digits, totals, totals[1:], strict=False)
    steps = [step(place, *numbers) for place, numbers in enumerate(together, start=1)]
    return "\n\n".join([*steps, f"Answer: {totals[-1]}"])
