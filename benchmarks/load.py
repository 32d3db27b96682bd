"""Peak memory of importing, exporting and loading a generated checkpoint of 2 GB in shards, and of exporting a run.

    python benchmarks/load.py [--gigabytes 2] [--shard_megabytes 500] [--folder DIR]

Each step runs in its own process. Reported is its largest resident size, which includes the interpreter, torch and the
pages of mapped files. The limit is 1.3 times the largest shard plus 500 MB for importing and exporting, and 1.3 times
the model for loading. The exit code is 1 if a limit is exceeded or a round trip changes a weight.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict_saver import save

from mmcomponents.checkpoints import ModelSpec, read
from mmcomponents.checkpoints.checkpoint import meta_model
from mmcomponents.checkpoints.export_folder import format_named, write
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.runs import checksums, write_checksums
from mmcomponents.checkpoints.runs.checkpoint_writer import CONTENTS

STEPS = {
    "import": ("official", "c.convert(c.read({source!r}), {out!r}, 'mmcomponents', max_shard={shard})"),
    "export official": ("import", "c.convert(c.read({source!r}), {out!r}, 'official', max_shard={shard})"),
    "export transformers": ("import", "c.convert(c.read({source!r}), {out!r}, 'transformers', max_shard={shard})"),
    "export a run's shards": (
        "run",
        "from pathlib import Path; from mmcomponents.training.saved_run import read_run; "
        "c.convert(read_run(Path({source!r})), {out!r}, 'official', max_shard={shard})",
    ),
    "load official": ("official", "m = c.load({source!r})"),
    "load ours": ("import", "m = c.load({source!r})"),
    "load transformers": ("export transformers", "m = c.load({source!r})"),
    "load official as fp32": ("official", "m = c.load({source!r}, dtype=torch.float32)"),
}
CHILD = """
import json, resource, sys, time, torch
from mmcomponents import checkpoints as c
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
print(json.dumps({{"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "seconds": seconds}}))
"""


def make(folder: Path, total: int, shard: int) -> int:
    """Writes an official InternVL checkpoint in bf16 of about `total` bytes; returns its exact size in bytes."""
    layer, vocab, width = 2 * 1024 * 4 * 1024 * 3, 32_000, 1024

    def spec(layers: int) -> ModelSpec:
        vision = {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "intermediate_size": 4096}
        backbone = {"hidden_size": width, "num_layers": layers, "num_heads": 16, "intermediate_size": 4096}
        parts = {
            "vision": {"class_path": "InternViT", "init_args": vision},
            "merger": {"class_path": "PixelUnshuffle"},
            "projector": {"class_path": "MLPProjector"},
            "embedder": {"class_path": "TokenEmbedder"},
            "position": {"class_path": "RoPE"},
            "backbone": {"class_path": "DecoderLM", "init_args": backbone | {"num_kv_heads": 8, "head_dim": 64}},
            "heads": {"lm": {"class_path": "LMHead"}},
        }
        return ModelSpec(parts, vocab, vocab - 1)

    of_one = sum(2 * p.numel() for p in meta_model(spec(1)).parameters())
    layers = max(1, 1 + (total - of_one) // (layer + 3 * 2**21))
    made = spec(layers)

    def weight(meta: torch.Tensor) -> Lazy:
        return Lazy(meta, lambda: torch.randn(meta.shape, dtype=torch.bfloat16))

    names = {n: p.to(torch.bfloat16) for n, p in meta_model(made).named_parameters()}
    write(folder, made, {n: weight(p) for n, p in names.items()}, format_named("official"), max_shard=shard)
    return sum(2 * p.numel() for p in names.values())


def make_run(folder: Path, source: Path) -> None:
    """Writes the shards of a run with the model of a folder, and AdamW's states, as `fsdp2` does."""
    found = read(source)
    weights = {name: value.load() for name, value in found.weights.items()}
    states = {
        f"state.{name}.{moment}": value for name, value in weights.items() for moment in ("exp_avg", "exp_avg_sq")
    }
    state = {"state_dict": {f"model.{name}": value for name, value in weights.items()}, "optimizer_0": states}
    save(state, checkpoint_id=folder, no_dist=True)
    settings = {**found.spec.parts, "vocab_size": found.spec.vocab_size, "image_token_id": found.spec.image_token_id}
    torch.save({"hyper_parameters": settings}, folder / CONTENTS)
    write_checksums(folder, checksums(folder))


def main() -> int:
    """Runs all steps and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--shard_megabytes", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder to write to; default: the system's")
    options = parser.parse_args()
    shard = options.shard_megabytes * 10**6
    exceeded = False
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folders = {"official": Path(temporary) / "official"}
        size = make(folders["official"], int(options.gigabytes * 1e9), shard)
        folders["run"] = Path(temporary) / "run"
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # whose memory is not that of the children
            pool.submit(make_run, folders["run"], folders["official"]).result()
        largest = max(file.stat().st_size for file in folders["official"].glob("*.safetensors"))
        print(f"checkpoint {size / 1e6:.0f} MB in bf16, largest shard {largest / 1e6:.0f} MB")
        print(f"{'':24}{'peak MB':>10}{'limit MB':>10}{'peak/limit':>12}{'seconds':>10}")
        for name, (source, work) in STEPS.items():
            folders[name] = Path(temporary) / name.replace(" ", "-").replace("'", "")
            code = CHILD.format(
                work=work.format(source=str(folders[source]), out=str(folders[name]), shard=shard).strip()
            )
            result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found = json.loads(result.stdout.splitlines()[-1])
            model = size * (2 if name.endswith("fp32") else 1)
            limit = 1.3 * model if name.startswith("load") else 1.3 * largest + 500e6
            exceeded |= found["peak"] > limit
            line = f"{name:24}{found['peak'] / 1e6:10.0f}{limit / 1e6:10.0f}{found['peak'] / limit:12.2f}"
            print(f"{line}{found['seconds']:10.1f}", flush=True)
        again = read(folders["export official"])
        first = read(folders["official"])
        same = all(torch.equal(w.load(), again.weights[n].load()) for n, w in first.weights.items())
        print(f"official -> mmcomponents -> official: {'bit-identical' if same else 'DIFFERENT'}")
    return int(exceeded or not same)


if __name__ == "__main__":
    started = time.perf_counter()
    code = main()
    print(f"{time.perf_counter() - started:.0f} s")
    sys.exit(code)
