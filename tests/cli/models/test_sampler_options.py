"""The sampler of commands that draw rollouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from drawn import write_questions
from mmcomponents.cli.main import main
from mmcomponents.cli.models import synthesis_options
from mmcomponents.cli.models.sampler_options import rollout_sampler
from mmcomponents.cli.runs import evaluate_run
from mmcomponents.cli.user_error import UserError
from mmcomponents.generation import Answer, Autoregressive, Context, Sampler


class Points(Sampler):
    answers = "values"

    def forward(self, model: Any, prompts: Any, context: Context) -> list[Answer]:
        return []


class Other(Autoregressive):
    """Decodes in another way, which rollouts would not."""


def test_rollouts_need_texts_of_autoregressive_decoding() -> None:
    choose = rollout_sampler("data steps")
    assert type(choose(None)) is type(choose(partial(Autoregressive, max_new_tokens=5))) is Autoregressive
    for make, kind in ((Points, "values"), (Other, "text")):
        with pytest.raises(UserError) as caught:
            choose(make)
        assert str(caught.value) == (
            "data steps decodes texts with Autoregressive and its own options, and the recipe's sampler"
            f" {make.__name__} answers with {kind}; if the model writes texts too, give the recipe and its"
            " checkpoint, and add --model.sampler Autoregressive"
        )


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        (synthesis_options, ["data", "preferences", "m", "q.jsonl", "--out", "o"]),
        (synthesis_options, ["data", "steps", "m", "q.jsonl", "--out", "o"]),
        (evaluate_run, ["evaluate", "m", "--benchmark", "missing.jsonl", "--metric", "exact"]),  # and before it is read
    ],
)
def test_verbs_refuse_other_samplers_before_a_model_is_loaded(
    write: Callable[[str, str], Path], capsys, monkeypatch, module: Any, argv: list[str]
) -> None:
    write("m/config.json", "{}")
    write_questions(Path(), 3, answer="a")

    def load(*args: Any, choose: Callable[..., Any], **rest: Any) -> None:
        choose(Points)

    monkeypatch.setattr(module, "load_model", load)
    assert main(argv) == 2
    told = capsys.readouterr().err
    name = "evaluate" if argv[0] == "evaluate" else " ".join(argv[:2])
    assert told.startswith(f"mmcomponents: {name} decodes texts with Autoregressive")
    assert told.count("\n") == 1
