"""Correctness and speed on one CUDA device, without network, beside transformers' model with the same weights.

    python benchmarks/gpu.py --all                     # about 25 minutes; --part NAME for one of the parts
    python benchmarks/gpu.py --part train-1b --tiny    # a small model on the CPU, in fp32
    python benchmarks/gpu.py --table                   # the results as the table of docs/speed.md

The parts, each at most four minutes: `correctness` (attention backends, units, compilation, fsdp2 on one device, bf16),
`train-1b`, `train-2b`, `train-8b` (SFT on packs of 16,384 tokens with images, and transformers' model on the same
samples, padded and packed), `mpo`, `decode`. Weights are random, and losses must agree. If the device does not hold a
model, its language model is cut to as many layers as fit, and the result says so.

A result is a JSON file of benchmarks/results: machine, versions, commit, and for training useful tokens per second (not
padding), the share of the device's peak by slot (MFU), and the peak memory beside what `plan` predicts.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PARTS = ("correctness", "train-1b", "train-2b", "train-8b", "mpo", "decode")
NEEDS = {
    "torch": "torch", "lightning": "lightning", "torchmetrics": "torchmetrics", "transformers": "transformers",
    "omegaconf": "omegaconf", "jsonargparse": "jsonargparse[signatures]", "webdataset": "webdataset",
    "rotary_embedding_torch": "rotary-embedding-torch", "peft": "peft", "tensorboard": "tensorboard",
    "cloudpickle": "cloudpickle", "rich": "rich",
}  # fmt: skip
"""Modules that the parts import, and the packages that have them. A bare machine may lack some."""

MAY_USE = ("xformers",)
"""Packages without which one of the compared implementations does not run."""


def problem(tiny: bool) -> str | None:
    """Returns in one line why the parts cannot run here; None if they can."""
    if missing := [package for module, package in NEEDS.items() if importlib.util.find_spec(module) is None]:
        return f"missing packages: pip install {' '.join(missing)} (and {', '.join(MAY_USE)} for its attention)"
    if importlib.util.find_spec("mmcomponents") is None:
        return "mmcomponents is not installed: pip install --no-deps -e ."
    if tiny:
        return None
    import torch

    with warnings.catch_warnings(record=True) as told:  # torch only warns of a driver that is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if available:
        return None
    reasons = [" ".join(str(warning.message).split()) for warning in told if "driver" in str(warning.message)]
    reason = reasons[0] if reasons else "torch finds no CUDA device"
    return f"{reason[:200]}; --tiny runs small models on the CPU"


def machine(tiny: bool) -> dict[str, Any]:
    """Returns the device, the versions and the commit."""
    import torch

    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if not tiny:
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    for package in ("torch", "transformers", "lightning", "xformers", "flash_attn"):
        if importlib.util.find_spec(package) is not None:
            found[package] = importlib.metadata.version(package)
    return found


def _commit() -> str:
    try:
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run(part: str, tiny: bool, out: Path, minutes: float) -> bool:
    """Runs a part in a process of its own and writes its result; returns whether it succeeded."""
    print(f"{part}:", flush=True)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, problem = Path(folder) / "result.json", None
        command = [sys.executable, str(HERE / "gpu_parts.py"), part, str(path), *(["--tiny"] if tiny else [])]
        try:
            done = subprocess.run(command, timeout=60 * minutes, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.strip()]
                problem = lines[-1] if lines else f"exit code {done.returncode}"
                sys.stderr.write(done.stderr)
        except subprocess.TimeoutExpired:
            problem = f"not done after {minutes:g} minutes"
        values = json.loads(path.read_text()) if path.exists() else {}
    result = {"part": part, "tiny": tiny, "machine": machine(tiny), "seconds": round(time.perf_counter() - begin, 1)}
    result |= {"problem": problem, "values": values}
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"gpu_{part}{'_tiny' if tiny else ''}.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{part}: {problem or 'done'} in {result['seconds']:.0f} s, {file}", flush=True)
    return problem is None


def table(results: Path) -> str:
    """Returns the results of a folder as a table in Markdown; "not measured" for a part without one."""
    lines = ["| part | on | result |", "|---|---|---|"]
    for part in PARTS:
        file = results / f"gpu_{part}.json"
        if not file.exists():
            lines.append(f"| {part} | | not measured |")
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        where = f"{found['machine']['device']}, torch {found['machine']['torch']}, {found['machine']['commit']}"
        said = found["problem"] or "; ".join(_said(found["values"]))
        lines.append(f"| {part} | {where} | {said} |")
    return "\n".join(lines)


def _said(values: dict[str, Any]) -> list[str]:
    """Returns what the table says of the values of a part."""
    said = []
    checks = [value for value in values.values() if isinstance(value, dict) and "limit" in value]
    if "layers" in values and values["layers"]["trained"] < values["layers"]["of"]:
        said.append(f"cut to {values['layers']['trained']} of {values['layers']['of']} layers")
    for name, value in values.items():
        if isinstance(value, dict) and "useful_tokens_per_second" in value:
            text = f"{name}: {value['useful_tokens_per_second']:,.0f} useful tokens/s"
            if value.get("peak_bytes"):
                text += f", {value['peak_bytes'] / 2**30:.1f} GiB"
            if value.get("predicted_bytes"):
                text += f" (predicted {value['predicted_bytes'] / 2**30:.1f})"
            if value.get("mfu") and value["mfu"]["total"] < 1:
                text += f", MFU {value['mfu']['total']:.0%}"
            said.append(text)
        elif name.startswith(("speed", "useful")):
            said.append(f"{name}: " + ", ".join(f"{key} {ratio:.2f}" for key, ratio in value.items()))
    return said or [f"{len(checks)} comparisons within their limits"]


def main() -> int:
    """Runs the chosen parts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--all", action="store_true", help="run all parts")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU")
    parser.add_argument("--minutes", type=float, default=4.0, help="time of a part")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="print the results of the folder and end")
    options = parser.parse_args()
    if options.table:
        print(table(options.out))
        return 0
    parts = list(PARTS) if options.all else options.part
    if not parts:
        parser.error(f"--all or --part NAME is needed; the parts are {', '.join(PARTS)}")
    if (found := problem(options.tiny)) is not None:
        parser.exit(2, f"{parser.prog}: {found}\n")
    failed = [part for part in parts if not run(part, options.tiny, options.out, options.minutes)]
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
