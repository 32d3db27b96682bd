"""Chart of the annotations of other programs in docs/annotations.md, from conversions of an example of each.

`WRITE_DOCS=1 pytest tests/data/convert/test_format_chart.py` writes it anew.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[3] / "docs/annotations.md"
BEGIN, END = "<!-- chart: tests/data/convert/test_format_chart.py -->", "<!-- end of the chart -->"

ASK, SAY = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}
TEXT = {"from": "human", "value": "What?"}
USER, ANSWER = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}
NO = {"role": "assistant", "content": "No."}
IMAGE = {"type": "image_url", "image_url": {"url": "one.png"}}
WORDS = {"type": "text", "text": "What?"}


def parts(*given: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(given)}


Example = tuple[str, dict[str, Any], dict[str, Any]]
CHART: dict[str, list[Example]] = {
    "InternVL": [
        ("conversation with an image", {"image": "one.png", "conversations": [ASK, SAY]}, {}),
        (
            "several images",
            {"image": ["one.png", "two.jpg"], "conversations": [{**ASK, "value": "<image><image>?"}, SAY]},
            {},
        ),
        ("video", {"video": "film.mp4", "conversations": [{**ASK, "value": "<video>\nWhat?"}, SAY]}, {}),
        (
            "boxes as text",
            {"image": "one.png", "conversations": [ASK, {**SAY, "value": "<ref>it</ref><box>[[1, 2, 3, 4]]</box>"}]},
            {},
        ),
        ("pair of MMPR", {"image": "one.png", "question": "What?", "chosen": "That.", "rejected": "No."}, {}),
        ("plain document", {"text": "A page.", "url": "https://here"}, {}),
    ],
    "LLaVA": [
        ("conversation with an image", {"id": "1", "image": "one.png", "conversations": [ASK, SAY]}, {}),
        ("conversation without one", {"id": "1", "conversations": [TEXT, SAY]}, {}),
    ],
    "ms-swift": [
        ("`messages` with `images`", {"messages": [USER, ANSWER], "images": ["one.png"]}, {}),
        ("`<img>PATH</img>` in a text", {"messages": [{**USER, "content": "<img>one.png</img>What?"}, ANSWER]}, {}),
        ("`videos`", {"messages": [{**USER, "content": "<video>What?"}, ANSWER], "videos": ["film.mp4"]}, {}),
        (
            "`objects`, `<bbox>`",
            {
                "messages": [USER, {**ANSWER, "content": "<bbox>"}],
                "images": ["one.png"],
                "objects": {"ref": [], "bbox": [[0, 0, 3, 3]]},
            },
            {},
        ),
        ("`rejected_response`", {"messages": [USER, ANSWER], "rejected_response": "No."}, {}),
        ("`rejected_messages`", {"messages": [USER, ANSWER], "rejected_messages": [USER, NO]}, {}),
        ("`query`, `response`, `history`", {"query": "What?", "response": "That.", "history": [["A", "B"]]}, {}),
        ("`reasoning_content`", {"messages": [USER, {**ANSWER, "reasoning_content": "So."}]}, {}),
        ("the same", {"messages": [USER, {**ANSWER, "reasoning_content": "So."}]}, {"reasoning": "think"}),
        ("KTO, `label: false`", {"messages": [USER, ANSWER], "label": False}, {}),
        ("`margin` of a reward model", {"messages": [USER, ANSWER], "rejected_response": "No.", "margin": 0.5}, {}),
        (
            "the same",
            {"messages": [USER, ANSWER], "rejected_response": "No.", "margin": 1},
            {"keep_unknown_keys": True},
        ),
        ("`loss_scale: 0` of a turn", {"messages": [USER, {**ANSWER, "loss_scale": 0}]}, {}),
        ("`tools`", {"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, {}),
        ("`audios`", {"messages": [USER, ANSWER], "audios": ["a.wav"]}, {}),
    ],
    "LLaMA-Factory": [
        ("Alpaca", {"instruction": "What", "input": "now?", "output": "That.", "system": "Be brief."}, {}),
        ("Alpaca with `images`", {"instruction": "<image>What?", "output": "That.", "images": ["one.png"]}, {}),
        ("Alpaca pair", {"instruction": "What?", "chosen": "That.", "rejected": "No."}, {}),
        ("ShareGPT with `system`", {"conversations": [TEXT, SAY], "system": "Be brief."}, {}),
        ("ShareGPT pair", {"conversations": [TEXT], "chosen": SAY, "rejected": {**SAY, "value": "No."}}, {}),
        ("KTO, `kto_tag: false`", {"conversations": [TEXT, SAY], "kto_tag": False}, {}),
        ("roles of tools", {"conversations": [TEXT, {"from": "function_call", "value": "{}"}, SAY]}, {}),
    ],
    "XTuner": [
        ("parts and `<IMG_CONTEXT>`", {"messages": [parts(IMAGE, {**WORDS, "text": "<IMG_CONTEXT>?"}), ANSWER]}, {}),
        ("`conversation` of inputs and outputs", {"conversation": [{"input": "What?", "output": "That."}]}, {}),
    ],
    "TRL": [
        ("`messages`", {"messages": [USER, ANSWER]}, {}),
        ("`prompt`, `completion`", {"prompt": [USER], "completion": [ANSWER]}, {}),
        (
            "parts without files, `images`",
            {"messages": [parts({"type": "image"}, WORDS), ANSWER], "images": ["one.png"]},
            {},
        ),
        ("`prompt`, `chosen`, `rejected`", {"prompt": [USER], "chosen": [ANSWER], "rejected": [NO]}, {}),
        ("`chosen`, `rejected` with the prompt", {"chosen": [USER, ANSWER], "rejected": [USER, NO]}, {}),
        ("KTO, `label: false`", {"prompt": [USER], "completion": [ANSWER], "label": False}, {}),
        ("`prompt` alone", {"prompt": [USER]}, {}),
        ("step labels", {"prompt": "What?", "completions": ["A", "B"], "labels": [True, False]}, {}),
    ],
    "OpenAI": [
        ("messages", {"messages": [{"role": "system", "content": "Be brief."}, USER, ANSWER]}, {}),
        ("parts with `image_url`", {"messages": [parts(WORDS, IMAGE), ANSWER]}, {}),
        (
            "preferences",
            {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [NO]},
            {},
        ),
        ("`weight: 0` of a turn", {"messages": [USER, {**ANSWER, "weight": 0}]}, {}),
        ("`tool_calls`", {"messages": [USER, {**ANSWER, "tool_calls": [{"id": "1"}]}]}, {}),
        ("sound", {"messages": [parts({"type": "input_audio", "input_audio": {}}), ANSWER]}, {}),
    ],
}


def result(pack_lines: Callable[..., Any], sample: dict[str, Any], options: dict[str, Any]) -> str:
    """Converts an annotation, and describes what came of it."""
    note, shard = pack_lines([sample], **options)
    if note.refused:
        reason = note.refused[0]["reason"].partition(";")[0].partition(", which")[0].partition(", but")[0]
        return f"skipped: {reason.replace('|', '')}"
    with tarfile.open(shard) as archive:
        record = json.load(archive.extractfile("000000001.json"))  # type: ignore[arg-type]
    kind = "pair" if "rejected" in record else "document" if "text" in record else "conversation"
    media = {name: getattr(note.totals, f"{name}s") for name in ("image", "video")}
    counts = [f"{count} {name}{'s' * (count > 1)}" for name, count in media.items() if count]
    return ", ".join([kind, *counts])


def test_the_chart_of_the_docs(pack_lines: Callable[..., Any]) -> None:
    rows = ["| program | annotation | result |", "|---|---|---|"]
    for program, examples in CHART.items():
        for name, sample, options in examples:
            flags = "".join(
                f" with `--{option}{'' if value is True else f' {value}'}`" for option, value in options.items()
            )
            rows.append(f"| {program} | {name}{flags} | {result(pack_lines, sample, options)} |")
    chart = "\n".join(rows)
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{chart}\n\n{END}{after}", encoding="utf-8")
    assert chart in PAGE.read_text(encoding="utf-8"), "docs/annotations.md: run this test with WRITE_DOCS=1"
