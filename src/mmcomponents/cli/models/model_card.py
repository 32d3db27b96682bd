"""The model card of a written folder: `README.md` with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcomponents.checkpoints import ModelSpec
    from mmcomponents.checkpoints.rules import Lazy

CARD = "README.md"

_DETECTORS = ("DetectionHead", "LiteDetectionHead")
_MOST_FIGURES = 24


def write_card(
    folder: Path, name: str, spec: ModelSpec, weights: Mapping[str, Lazy], format_name: str, run: Path | None = None
) -> None:
    """Writes the card.

    Args:
        folder: Folder of the model.
        name: Name of the model.
        spec: Its parts.
        weights: Weights by name, of which only shapes are read.
        format_name: Format of the folder.
        run: Folder of the run that trained it, with its recipe and what `test` has written. None: it is converted.
    """
    from huggingface_hub import ModelCardData

    tags = ["mmcomponents", *dict.fromkeys(class_name for _, class_name in _parts(spec))]
    library = "transformers" if format_name in ("transformers", "causal_lm") else "mmcomponents"
    data = ModelCardData(library_name=library, pipeline_tag=_task(spec), tags=tags)
    text = "".join(_sections(name, spec, weights, format_name, run))
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def _sections(
    name: str, spec: ModelSpec, weights: Mapping[str, Lazy], format_name: str, run: Path | None
) -> Iterator[str]:
    total = sum(value.meta.numel() for value in weights.values())
    yield f"# {name}\n\nA model of {total:,} parameters, written by mmcomponents in the format {format_name}.\n\n"
    yield "| slot | part | parameters |\n|---|---|---:|\n"
    for slot, class_name in _parts(spec):
        own = sum(value.meta.numel() for key, value in weights.items() if key.startswith(f"{slot}."))
        yield f"| `{slot}` | `{class_name}` | {own or '':{',' if own else ''}} |\n"
    if format_name == "mmcomponents":
        yield f'\n```python\nimport mmcomponents\n\nmodel = mmcomponents.load("{name}")\n```\n'
    if run is None:
        return
    if figures := list(_figures(run)):
        yield "\n## Figures\n\n| figure | value |\n|---|---:|\n"
        yield from (f"| {key} | {value:.4g} |\n" for key, value in figures[:_MOST_FIGURES])
    recipe = run / "recipe.yaml"
    if recipe.is_file():
        yield "\n## Recipe\n\nModel, data and training with all defaults, for `mmcomponents fit --config FILE`.\n\n"
        yield f"```yaml\n{recipe.read_text(encoding='utf-8').strip()}\n```\n"


def _parts(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """Yields slots with the names of their classes."""
    for slot, part in spec.parts.items():
        named = {f"heads.{head}": own for head, own in part.items()} if slot == "heads" else {slot: part}
        for key, own in named.items():
            if own:
                yield key, str(own["class_path"]).rpartition(".")[2]


def _task(spec: ModelSpec) -> str | None:
    """Returns the hub's name of the task; None for another one than those of the heads here."""
    heads = {class_name for slot, class_name in _parts(spec) if slot.startswith("heads.")}
    if heads & {*_DETECTORS}:
        return "object-detection"
    if "LMHead" in heads:
        return "image-text-to-text" if spec.parts.get("vision") else "text-generation"
    return None


def _figures(run: Path) -> Iterator[tuple[str, float]]:
    """Yields the numbers in the JSON files that `test` has written into the folder of a run."""
    for path in sorted(path for path in run.glob("*.json") if path.name != "state.json"):  # `ablate` writes that one
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        yield from _numbers(content, path.stem)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
