"""The model card of a written folder: `README.md` with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmcomponents.checkpoints import ModelSpec
    from mmcomponents.checkpoints.rules import Lazy

log = logging.getLogger(__name__)

CARD = "README.md"

_DETECTORS = ("DetectionHead", "LiteDetectionHead")
_MOST_FIGURES = 24
_TITLES = ("Figures", "Recipe")
_WRITTEN = "written by mmcomponents in the format"


@dataclass(frozen=True)
class RunOrigin:
    """The run that trained a model.

    Attributes:
        folder: Its folder, with `recipe.yaml` and what `test` has written.
        checkpoint: The checkpoint that is written. Figures that are older are of another one.
    """

    folder: Path
    checkpoint: Path


Origin = RunOrigin | Path
"""A run, or a folder that is converted."""


def write_card(
    folder: Path,
    name: str,
    spec: ModelSpec,
    weights: Mapping[str, Lazy],
    format_name: str,
    origin: Origin | None = None,
) -> None:
    """Writes the card.

    Args:
        folder: Folder of the model.
        name: Name of the model.
        spec: Its parts.
        weights: Weights by name, of which only shapes are read.
        format_name: Format of the folder.
        origin: Where recipe and figures come from. None: the card has none.
    """
    from huggingface_hub import ModelCardData

    tags = ["mmcomponents", *dict.fromkeys(class_name for _, class_name in _parts(spec))]
    library = "transformers" if format_name in ("transformers", "causal_lm") else "mmcomponents"
    data = ModelCardData(library_name=library, pipeline_tag=_task(spec), tags=tags)
    text = "".join(_sections(name, spec, weights, format_name))
    text += "".join(_of_run(origin, name) if isinstance(origin, RunOrigin) else _of_card(origin) if origin else ())
    (folder / CARD).write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")


def _sections(name: str, spec: ModelSpec, weights: Mapping[str, Lazy], format_name: str) -> Iterator[str]:
    total = sum(value.meta.numel() for value in weights.values())
    yield f"# {name}\n\nA model of {total:,} parameters, {_WRITTEN} {format_name}.\n\n"
    yield "| slot | part | parameters |\n|---|---|---:|\n"
    for slot, class_name in _parts(spec):
        own = sum(value.meta.numel() for key, value in weights.items() if key.startswith(f"{slot}."))
        yield f"| `{slot}` | `{class_name}` | {own or '':{',' if own else ''}} |\n"
    if format_name == "mmcomponents":
        yield f'\n```python\nimport mmcomponents\n\nmodel = mmcomponents.load("{name}")\n```\n'


def _of_card(folder: Path) -> Iterator[str]:
    """Yields figures and recipe of the card of a folder that is converted, if this library has written it."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    starts = [place for title in _TITLES if (place := text.find(f"\n## {title}\n")) >= 0]
    if starts and _WRITTEN in text:
        yield text[min(starts) :]


def _of_run(origin: RunOrigin, name: str) -> Iterator[str]:
    """Yields figures and recipe of a run; the recipe writes to a folder with the name of the model, not to the run."""
    if figures := list(_figures(origin)):
        yield f"\n## {_TITLES[0]}\n\n| figure | value |\n|---|---:|\n"
        yield from (f"| {key} | {value:.4g} |\n" for key, value in figures[:_MOST_FIGURES])
    recipe = origin.folder / "recipe.yaml"
    if recipe.is_file():
        yield f"\n## {_TITLES[1]}\n\n"
        yield "Model, data and training with all defaults, for `mmcomponents fit --config FILE`.\n\n"
        own, text = json.dumps(f"runs/{name}"), recipe.read_text(encoding="utf-8").strip()
        # Paths of this machine mean nothing where the card is read.
        text = re.sub(rf"(?<=[\s'\"]){re.escape(str(Path.cwd()))}/(?=[^\s/])", "", text)
        text = re.sub(r"(?m)^  default_root_dir: .*(\n    .*)*$", lambda _: f"  default_root_dir: {own}", text)
        yield f"```yaml\n{text}\n```\n"


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


def _figures(origin: RunOrigin) -> Iterator[tuple[str, float]]:
    """Yields the numbers in the JSON files that `test` has written into the folder of a run, or those of `ablate`."""
    folder, trained = origin.folder, origin.checkpoint.stat().st_mtime
    files = [path for path in folder.glob("*.json") if path.name != "state.json"]  # `ablate` writes that one
    for path in [*sorted(files), *sorted(folder.glob("test-*/*.json"))]:
        if path.stat().st_mtime < trained:
            log.warning("the card has no figures of %s, which is older than %s", path, origin.checkpoint)
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        test = "" if path.parent == folder else f"{path.parent.name.removeprefix('test-')}: "
        yield from _numbers(content, test + path.stem)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}".removesuffix("."))  # the kind of questions may be empty
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
