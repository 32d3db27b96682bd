"""Format-independent description of a model and its input processing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.data.chat.sample_renderer import SampleRenderer


@dataclass
class Processing:
    """Processing of a model's text and images.

    Attributes:
        tile_size: Side of a tile in pixels.
        min_tiles: Minimum number of tiles of an image.
        max_tiles: Maximum number of tiles of an image, without the thumbnail.
        thumbnail: Whether several tiles are followed by a thumbnail.
        normalization: Name of the mean and standard deviation of the colours, see `mmcomponents.data.media.images`.
        system: System text of conversations without a system message. None: no system block.
        longest_side: Images are one tile of their own aspect ratio, whose shorter side is `tile_size` and whose longer
            side is at most this. None: square tiles.
    """

    tile_size: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    normalization: str = "imagenet"
    system: str | None = None
    longest_side: int | None = None

    @classmethod
    def of(cls, renderer: SampleRenderer) -> Processing:
        """Returns the settings of a renderer."""
        tiling = renderer.tiling
        sizes = (tiling.tile_size, tiling.min_tiles, tiling.max_tiles, tiling.thumbnail)
        return cls(*sizes, renderer.normalization, renderer.system, getattr(tiling, "longest", None))


@dataclass
class ModelSpec:
    """A model's parts, as in the `model:` section of a recipe, and its input processing.

    Attributes:
        parts: `{slot: {"class_path": …, "init_args": {…}}}`; `heads` holds `{name: {…}}`. Class paths of this library's
            parts are their short names. Widths that `MultimodalModel` fills in are omitted.
        vocab_size: Vocabulary size; None without embedder.
        image_token_id: Token id of the placeholder of a visual token; None if the folder does not define it.
        processing: Input processing.
        sampler: Sampler of the recipe, as `{"class_path": …, "init_args": {…}}`. None: the folder names none.
        kinds: Record kinds of the recipe that render what users ask (`RecordKind.typed`), in the same form.
    """

    parts: dict[str, Any]
    vocab_size: int | None = None
    image_token_id: int | None = None
    processing: Processing = field(default_factory=Processing)
    sampler: dict[str, Any] | None = None
    kinds: list[dict[str, Any]] = field(default_factory=list)

    def part(self, slot: str, wanted: str | tuple[str, ...], target: str) -> dict[str, Any]:
        """Returns the arguments of the part in a slot, which must have one of the given classes.

        Args:
            slot: Name of the slot.
            wanted: Short name of the class, or of several classes with the same stored form, the basic one first.
            target: Format that requires the class, for the message.

        Raises:
            CheckpointError: The slot is empty or has another part.
        """
        found = self.parts.get(slot)
        name = "nothing" if not found else str(found["class_path"]).rpartition(".")[2]
        names = (wanted,) if isinstance(wanted, str) else wanted
        if not found or name not in names:
            raise CheckpointError(f"the format {target} needs {names[0]} as {slot}, and this model has {name}")
        return dict(found.get("init_args") or {})

    def foreign_code(self) -> list[str]:
        """Returns references of parts and record kinds to third-party code, see `foreign_code`."""
        return foreign_code([self.parts, self.kinds])

    def as_config(self) -> dict[str, Any]:
        """Returns the spec as plain JSON values."""
        optional = {"sampler": self.sampler, "kinds": self.kinds}
        return {
            "model": {**self.parts, "vocab_size": self.vocab_size, "image_token_id": self.image_token_id},
            "processing": asdict(self.processing),
        } | {name: value for name, value in optional.items() if value}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelSpec:
        """Creates a spec from the result of `as_config`."""
        model = dict(config["model"])
        vocab_size, image_token_id = model.pop("vocab_size", None), model.pop("image_token_id", None)
        processing = Processing(**config.get("processing") or {})
        kinds = list(config.get("kinds") or [])
        return cls(model, vocab_size, image_token_id, processing, config.get("sampler"), kinds)


def foreign_code(parts: Any) -> list[str]:
    """Returns references to third-party code: dotted paths outside this library, and `trust_remote_code` settings.

    Short names belong to this library or to an installed package that declares its parts.

    Args:
        parts: Parts at any depth, as in a recipe.
    """
    found = []
    for part in _named(parts):
        path = str(part["class_path"])
        if "." in path and not path.startswith("mmcomponents."):
            found.append(path)
        if (part.get("init_args") or {}).get("trust_remote_code"):
            found.append(f"{path} with trust_remote_code")
    return found


def _named(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yields all mappings with a `class_path` in a value, at any depth."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield value
        for inner in value.values():
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)
