"""Parts of `gpu.py`; each runs in a process of its own, which this file starts.

    python benchmarks/gpu_parts.py PART RESULT.json [--tiny]

A part writes its result after each measurement, so that what it has measured before its time is up remains.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from generate import LENGTHS, NEW_TOKENS, our_answer, their_answer
from gpu_models import Samples, Step, Twins, draw, our_step, their_step
from mpo import PAIRS, draw_pairs, log_normal
from mpo import our_step as our_preference_step
from mpo import their_step as their_preference_step
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from mmcomponents import MultimodalModel
from mmcomponents.nn.attention import BACKENDS, Segments, attention, choose_backend
from mmcomponents.objectives import NextToken
from mmcomponents.training.distributed.sharding import shard_model
from mmcomponents.training.flops import PREFIX, peak_flops, step_factors, work
from mmcomponents.training.memory.device_memory import Run
from mmcomponents.training.memory.estimate import Estimator
from mmcomponents.training.memory.optimizer_state import state_bytes
from mmcomponents.training.units.checkpointing import Checkpointing
from mmcomponents.training.units.prepare import prepare_units

RECIPES = {"train-1b": "internvl3/1b", "train-2b": "internvl3/2b", "train-8b": "internvl3/8b"}
TINY = "quickstart"
SECONDS = 25.0
"""Time for the steps of one measurement, at least three of them."""

USED = 0.92
"""Share of the device's memory that a predicted peak may take."""


@dataclass
class Session:
    """What a part runs on, and its result.

    Attributes:
        path: File of the result.
        tiny: Whether to run small models in fp32 on the CPU.
        values: The result.
    """

    path: Path
    tiny: bool
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Device of the models."""
        return torch.device("cpu" if self.tiny else "cuda")

    @property
    def dtype(self) -> torch.dtype:
        """Data type of weights and computation."""
        return torch.float32 if self.tiny else torch.bfloat16

    @property
    def capacity(self) -> int | None:
        """Bytes of the device; None on the CPU."""
        return None if self.tiny else torch.cuda.get_device_properties(0).total_memory

    def record(self, name: str, value: Any) -> None:
        """Writes a further value into the result."""
        self.values[name] = value
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.values))
        part.replace(self.path)  # the time of the part may be up at any moment
        print(f"  {name}: {json.dumps(value)}", flush=True)

    def check(self, name: str, value: float, limit: float) -> None:
        """Records a difference and its limit.

        Raises:
            SystemExit: It is larger.
        """
        self.record(name, {"difference": value, "limit": limit})
        if not value <= limit:
            raise SystemExit(f"{name}: a difference of {value:.2e}, more than {limit}")


def correctness(session: Session) -> None:
    """Compares what must be equal: attention backends, units, sharding, and data types."""
    _compare_attention(session)
    exact = Twins.of(TINY, session.device, torch.float32)
    samples = draw(exact, 512, 48, 160, 1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    theirs, ours = exact.theirs(), exact.ours()
    wanted, loss = _loss_and_gradients(ours, samples)
    batches = samples.padded(8)
    their_loss = their_step(theirs, batches, _NoStep(theirs.parameters()), exact)()
    session.check("loss in fp32 against transformers", abs(float(loss) - their_loss) / their_loss, 1e-5)
    variants: dict[str, tuple[Checkpointing, bool]] = {"full checkpointing": ("full", False)}
    if not session.tiny:  # the compiler of the CPU takes a minute; tests/training/units/test_compilation.py has it
        variants["compiled units"] = ("none", True)
    for name, (setting, compiles) in variants.items():
        model = exact.ours()
        prepare_units(model, {}, setting, compiles)
        session.check(f"gradients of {name}", _gap(_loss_and_gradients(model, samples)[0], wanted), 1e-4)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    torch.distributed.init_process_group("gloo" if session.tiny else "nccl")
    model = exact.ours()
    shard_model(model, init_device_mesh(session.device.type, (1,), mesh_dim_names=("shard",)))
    session.check("gradients of fsdp2 on one device", _gap(_loss_and_gradients(model, samples)[0], wanted), 1e-4)
    torch.distributed.destroy_process_group()
    half = Twins.of(TINY, session.device, torch.bfloat16)
    other = _loss_and_gradients(half.ours(), Samples(samples.ids, samples.tiles, samples.pixels, half))[1]
    session.check("loss in bf16 against fp32", abs(float(other) - float(loss)) / float(loss), 2e-2)


class _NoStep(torch.optim.Optimizer):
    """Keeps the weights."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Does nothing."""


def _compare_attention(session: Session) -> None:
    lengths = [50, 8, 170, 1] if session.tiny else [1000, 24, 4096, 7, 1500]
    for heads, kv_heads, width in ((16, 16, 64), (12, 2, 128)):
        segments = Segments(
            torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32, device=session.device), max(lengths)
        )
        shapes = [(sum(lengths), count, width) for count in (heads, kv_heads, kv_heads)]
        drawn = [torch.randn(shape, device=session.device).to(session.dtype) for shape in shapes]
        exact = [value.float().requires_grad_() for value in drawn]
        expected = attention(*exact, segments, causal=True, backend="sdpa")
        gradients = torch.autograd.grad(expected.square().sum(), exact)
        for backend in BACKENDS:
            if choose_backend(backend, session.device.type, session.dtype, width) != backend:
                session.record(f"attention, {backend}, heads of {width}", "does not run here")
                continue
            given = [value.clone().requires_grad_() for value in drawn]
            out = attention(*given, segments, causal=True, backend=backend)
            found = torch.autograd.grad(out.float().square().sum(), given)
            gap = max(_difference(a, b) for a, b in zip((out, *found), (expected, *gradients), strict=True))
            session.check(f"attention, {backend}, heads of {width}", gap, 1e-5 if session.tiny else 2e-2)


def _loss_and_gradients(model: MultimodalModel, samples: Samples) -> tuple[dict[str, Tensor], Tensor]:
    objective, pack = NextToken("token"), samples.pack()
    there = pack.to(samples.twins.device)
    assert there.images is not None
    assert there.images.pixels is not None
    there.images.pixels = there.images.pixels.to(samples.twins.dtype)
    loss = objective(model, there, objective.counts(pack)).total
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items()}, loss.detach()


def _gap(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    # Compiled and checkpointed units are subclasses: names stay as they are.
    return max(_difference(found[name], value) for name, value in wanted.items())


def _difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm().clamp(min=1e-12))


def train(session: Session, recipe: str) -> None:
    """Trains on a pack, and transformers on the same samples: padded, and packed with its own means."""
    layers: int | None = None
    while True:
        twins = Twins.of(recipe, session.device, session.dtype, layers)
        samples = draw(twins, 512, 48, 160, 1) if session.tiny else draw(twins, 16_384, 800, 4096, 4)
        setting, predicted = _choose(session, twins, samples)
        try:
            if setting is None:
                raise torch.OutOfMemoryError(f"{predicted / 2**30:.1f} GiB are needed")
            _train_both(session, twins, samples, setting, predicted)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            layers = twins.layers - max(1, twins.layers // 7)
            if layers < 1:
                raise SystemExit(f"{recipe} fits this device with no number of layers: {error}") from None
            session.record("does not fit", f"{twins.layers} layers of {recipe}: {str(error).splitlines()[0]}")
            continue
        whole = Twins.of(recipe, torch.device("meta"), session.dtype).layers
        session.record("layers", {"trained": twins.layers, "of": whole})
        return


def _choose(session: Session, twins: Twins, samples: Samples) -> tuple[Checkpointing | None, int]:
    """Returns the setting that computes the least again and fits, and its predicted peak in bytes."""
    meta, pack = twins.meta(), samples.pack()
    states = state_bytes(lambda groups: torch.optim.AdamW(groups, lr=1e-5), session.dtype)
    run = Run(sharded=False, weights=session.dtype, compute=session.dtype, state_bytes=states)
    estimator = Estimator(meta, run, pack)
    settings: tuple[Checkpointing, ...] = ("none", "selective", "full")
    predicted = 0
    for setting in settings:
        predicted = estimator.memory(dict.fromkeys(estimator.slots, setting)).total
        predicted += samples.pixels.numel() * session.dtype.itemsize
        if session.capacity is None or predicted < USED * session.capacity:
            return setting, predicted
    return None, predicted


def _train_both(session: Session, twins: Twins, samples: Samples, setting: Checkpointing, predicted: int) -> None:
    ours: dict[str, Any] = {}
    for name, compiles in (("ours", False), ("ours, compiled", True)):
        if compiles and session.tiny:
            continue
        model = twins.ours()
        prepare_units(model, {}, setting, compiles)
        measured = _measured(session, our_step(model, samples, _optimizer(model)), samples)
        measured |= {"checkpointing": setting, "mfu": _mfu(session, model, samples, measured["seconds"])}
        measured["predicted_bytes"] = predicted
        ours[name] = measured
        session.record(name, measured)
        del model
    best = min(found["seconds"] for found in ours.values())
    ratios = {}
    for name, (kernel, batches) in _their_ways(samples).items():
        found = _their_measured(session, twins, samples, setting, kernel, batches)
        if "seconds" in found:
            gap = abs(found["loss"] - ours["ours"]["loss"]) / ours["ours"]["loss"]
            session.check(f"loss against transformers, {name}", gap, 1e-4 if session.tiny else 2e-2)
            ratios[name] = found["seconds"] / best
        session.record(f"transformers, {name}", found)
    if not ratios:
        raise torch.OutOfMemoryError("transformers does not fit")
    session.record("useful tokens/s, ours over transformers", ratios)


Batches = Callable[[], list[dict[str, Any]]]


def _their_ways(samples: Samples) -> dict[str, tuple[str, list[Batches]]]:
    """Returns the ways to train transformers' model: its attention, and batches, smaller ones in case of need."""
    padded: list[Batches] = [partial(samples.padded, size) for size in (8, 4, 2, 1)]
    found = {"padded": ("sdpa", padded), "packed": ("sdpa", [samples.packed])}
    if importlib.util.find_spec("flash_attn") is not None:
        found["packed, flash"] = ("flash_attention_2", [samples.packed])
    return found


def _their_measured(
    session: Session,
    twins: Twins,
    samples: Samples,
    setting: Checkpointing,
    kernel: str,
    batches: list[Batches],
) -> dict[str, Any]:
    for make in batches:
        try:
            model = twins.theirs(kernel)
            if setting != "none":
                model.gradient_checkpointing_enable()
            found = _measured(session, their_step(model, make(), _optimizer(model), twins), samples)
            return found | {
                "batch": len(make()[0]["input_ids"]),
                "checkpointing": "none" if setting == "none" else "full",
            }
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            model = None
            torch.cuda.empty_cache()
    return {"does not fit": reason}


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def _measured(session: Session, step: Step, samples: Samples) -> dict[str, Any]:
    """Returns the median seconds of a step, useful tokens per second, the first loss, and the peak memory."""
    if not session.tiny:
        torch.cuda.empty_cache()
    loss = step()
    step()
    if not session.tiny:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < (0 if session.tiny else SECONDS) and len(seconds) < 20):
        begin = time.perf_counter()
        step()  # the loss that it returns waits for the device, but not for the optimizer
        if not session.tiny:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    middle = statistics.median(seconds)
    peak = None if session.tiny else torch.cuda.max_memory_allocated()
    return {
        "seconds": middle, "useful_tokens_per_second": samples.useful / middle, "loss": loss, "peak_bytes": peak,
        "steps": len(seconds),
    }  # fmt: skip


def _mfu(session: Session, model: MultimodalModel, samples: Samples, seconds: float) -> dict[str, float]:
    """Returns the share of the device's peak that each slot's operations are; FLOPs where the peak is unknown."""
    factors, peak = step_factors(model), None if session.tiny else peak_flops(session.device, session.dtype)
    found = {
        name.removeprefix(f"{PREFIX}flops/"): value * factors[name.removeprefix(f"{PREFIX}flops/")]
        for name, value in work(model, samples.pack()).items()
        if name.startswith(f"{PREFIX}flops/")
    }
    found["total"] = sum(found.values())
    return {name: value / seconds / peak if peak else value for name, value in found.items()}


def mpo(session: Session) -> None:
    """Compares a step of mixed preference optimization, policy and reference, with the usual implementation."""
    twins = Twins.of(TINY if session.tiny else RECIPES["train-1b"], session.device, session.dtype)
    lengths = log_normal(20, 60, 2 * PAIRS) if session.tiny else log_normal(64, 1024, 2 * PAIRS)
    pairs, image = draw_pairs(lengths, twins.sizes), twins.sizes.image
    policy, reference = twins.ours(), twins.ours().requires_grad_(False).eval()
    other, other_reference = twins.theirs(), twins.theirs().requires_grad_(False).eval()
    with torch.no_grad():
        for parameter in (*policy.parameters(), *other.parameters()):
            parameter.mul_(1.01)
    steps: dict[str, Callable[[], Tensor]] = {
        "ours": our_preference_step(policy, reference, pairs, twins.sizes),
        "transformers": their_preference_step(other, other_reference, pairs, False, image),
        "transformers, images once": their_preference_step(other, other_reference, pairs, True, image),
    }
    samples = Samples([torch.cat((p.prompt, a)) for p in pairs for a in (p.chosen, p.rejected)], [], Tensor(), twins)
    seconds = {}
    for name, step in steps.items():
        found = _measured(session, lambda step=step: float(step()), samples)
        session.record(name, found)
        seconds[name] = found["seconds"]
        gap = abs(found["loss"] - session.values["ours"]["loss"]) / abs(session.values["ours"]["loss"])
        session.check(f"loss of {name}", gap, 1e-4 if session.tiny else 5e-2)
    session.record("speed, ours over", {name: seconds[name] / seconds["ours"] for name in steps if name != "ours"})


def decode(session: Session) -> None:
    """Compares greedy answers with transformers' `generate`: the prefill, and each further token."""
    twins = Twins.of(TINY if session.tiny else RECIPES["train-1b"], session.device, session.dtype)
    ours, theirs = twins.ours().eval(), twins.theirs().eval()
    image = twins.spec.image_token_id
    assert image is not None
    ratios: dict[str, float] = {}
    for name, lengths in LENGTHS.items():
        given = [torch.randint(1, image, (length,)) for length in lengths]
        answers = {"transformers": their_answer(theirs, given), "ours": our_answer(ours, given)}
        texts = [answer(NEW_TOKENS) for answer in answers.values()]  # this also warms up
        pairs = [a == b for one, other in zip(*texts, strict=True) for a, b in zip(one, other, strict=True)]
        session.record(f"{name}: share of equal tokens", sum(pairs) / len(pairs))
        if session.tiny and not all(pairs):
            raise SystemExit(f"{name}: the answers differ")
        times: dict[tuple[str, int], list[float]] = {}
        for _ in range(2 if session.tiny else 5):
            for count in (NEW_TOKENS, 1):
                for side, answer in answers.items():
                    begin = time.perf_counter()
                    answer(count)  # the tokens are on the host
                    times.setdefault((side, count), []).append(time.perf_counter() - begin)
        middle = {key: statistics.median(taken) for key, taken in times.items()}
        step = {side: (middle[side, NEW_TOKENS] - middle[side, 1]) / (NEW_TOKENS - 1) for side in answers}
        for side in answers:
            session.record(f"{name}, {side}", {"prefill": middle[side, 1], "step": step[side]})
        ratios |= {f"{name}, prefill": middle["transformers", 1] / middle["ours", 1]}
        ratios |= {f"{name}, step": step["transformers"] / step["ours"]}
    session.record("speed, ours over transformers", ratios)


PARTS: dict[str, Callable[[Session], None]] = {
    "correctness": correctness,
    **{name: lambda session, recipe=recipe: train(session, recipe) for name, recipe in RECIPES.items()},
    "mpo": mpo,
    "decode": decode,
}


def main(part: str, path: str, tiny: bool) -> None:
    """Runs one part."""
    logging.basicConfig(level="INFO")
    torch.manual_seed(0)
    session = Session(Path(path), tiny)
    if tiny and part in RECIPES:
        train(session, TINY)
    else:
        PARTS[part](session)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "--tiny" in sys.argv[3:])
