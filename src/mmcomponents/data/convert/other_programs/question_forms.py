"""Questions and answers of other programs without a list of turns, which are rewritten as `messages`.

Alpaca, LLaMA-Factory   {"instruction": …, "input": …, "output": …, "history": [[question, answer], …]}
ms-swift                {"query": …, "response": …, "history": [[question, answer], …]}
XTuner                  {"conversation": [{"system": …, "input": …, "output": …}, …]}
OpenAI                  {"input": {"messages": TURNS}, "preferred_output": TURNS, "non_preferred_output": TURNS}
TRL                     {"prompt": TEXT or TURNS, "completion": TEXT or TURNS}
                        {"prompt": TEXT or TURNS, "chosen": …, "rejected": …}, or without "prompt" with TURNS
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcomponents.data.convert.draft import take_text
from mmcomponents.data.convert.refused import Refused
from mmcomponents.data.convert.wording import kind_name

_FORMS = (("instruction", "input", "output"), ("query", "", "response"), ("prompt", "", "completion"))
"""Keys of the question, of an addition to it, and of the answer."""
_PAIRS = ("chosen", "rejected_response", "rejected_messages")
_TURNS = ("messages", "conversations", "question")


def as_messages(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns an annotation of these forms with "messages" in place of its questions and answers; others unchanged.

    Raises:
        Refused: A question or an answer has a wrong type, or chosen and rejected turns have different prompts.
    """
    if any(sample.get(key) is not None for key in _TURNS):
        return sample
    if isinstance(sample.get("conversation"), list):
        return _of_exchanges(sample)
    if isinstance(given := sample.get("input"), dict) and "preferred_output" in sample:
        renamed = {"chosen": sample["preferred_output"], "rejected": sample.get("non_preferred_output")}
        used = ("input", "preferred_output", "non_preferred_output")
        return {**given, **renamed, **{key: value for key, value in sample.items() if key not in used}}
    for question, addition, answer in _FORMS:
        if sample.get(question) is not None and any(sample.get(key) is not None for key in (answer, *_PAIRS)):
            return _rewritten(sample, question, addition, answer)
    chosen, rejected = sample.get("chosen"), sample.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1:
        if chosen[:-1] != rejected[:-1]:
            raise Refused("unsupported", "the turns before the last of 'chosen' and 'rejected' differ")
        return {**sample, "messages": chosen[:-1], "chosen": chosen[-1], "rejected": rejected[-1]}
    return sample


def _rewritten(sample: Mapping[str, Any], question: str, addition: str, answer: str) -> Mapping[str, Any]:
    turns = [*_history(sample), *_turns(sample, question, "user", addition)]
    if sample.get(answer) is not None:
        turns += _turns(sample, answer, "assistant")
    used = (question, addition, answer, "history")
    return {"messages": turns, **{key: value for key, value in sample.items() if key not in used}}


def _of_exchanges(sample: Mapping[str, Any]) -> Mapping[str, Any]:
    turns: list[dict[str, Any]] = []
    roles = {"system": "system", "input": "user", "output": "assistant"}
    for number, exchange in enumerate(sample["conversation"], start=1):
        if not isinstance(exchange, dict) or not exchange.keys() <= {*roles}:
            raise Refused("bad_field", f"exchange {number} of 'conversation' is not {{'input': TEXT, 'output': TEXT}}")
        turns += [{"role": roles[key], "content": exchange[key]} for key in roles if exchange.get(key)]
    return {"messages": turns, **{key: value for key, value in sample.items() if key != "conversation"}}


def _turns(sample: Mapping[str, Any], key: str, role: str, addition: str = "") -> list[Any]:
    if isinstance(sample[key], list):
        return list(sample[key])
    text = take_text(sample, key)
    if addition and sample.get(addition):
        text = "\n".join(filter(None, (text, take_text(sample, addition))))
    return [{"role": role, "content": text}]


def _history(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    pairs = sample.get("history") or []
    turns = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Refused("bad_field", f"'history' must be [[question, answer], …], not {kind_name(pair)}")
        turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return turns
