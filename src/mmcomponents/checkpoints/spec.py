"""What a model is made of: the pivot between the configurations of all formats."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mmcomponents.checkpoints.errors import CheckpointError


@dataclass
class Processing:
    """How text and pictures are made ready for a model.

    Attributes:
        tile_size: Side of a tile in pixels.
        min_tiles: Least number of tiles of an image.
        max_tiles: Largest number of tiles of an image, the thumbnail not counted.
        thumbnail: Whether several tiles are followed by a thumbnail.
        normalization: Name of mean and deviation of the colours, see `mmcomponents.data.images`.
        system: System text of conversations that bring none; None: no system block.
    """

    tile_size: int = 448
    min_tiles: int = 1
    max_tiles: int = 12
    thumbnail: bool = True
    normalization: str = "imagenet"
    system: str | None = None


@dataclass
class ModelSpec:
    """A model's parts, as the `model:` section of a recipe names them, and how its input is made.

    Attributes:
        parts: `{slot: {"class_path": …, "init_args": {…}}}`; `heads` holds `{name: {…}}`. Class paths of our own parts
            are their short names. Widths that the composite fills in are left out.
        vocab_size: Rows of the word table; None where there is none.
        image_token_id: Placeholder of a visual token; None where the folder does not say.
        processing: How the input is made.
    """

    parts: dict[str, Any]
    vocab_size: int | None = None
    image_token_id: int | None = None
    processing: Processing = field(default_factory=Processing)

    def part(self, slot: str, wanted: str | tuple[str, ...], target: str) -> dict[str, Any]:
        """Arguments of the part in a slot, which has to be of one class, or one of some.

        Args:
            slot: Name of the slot.
            wanted: Short name of the class, or of those that are written alike, the plain one first.
            target: Format that can express nothing else, for the message.

        Raises:
            CheckpointError: Another part, or none, is in the slot.
        """
        found = self.parts.get(slot)
        name = "nothing" if not found else str(found["class_path"]).rpartition(".")[2]
        names = (wanted,) if isinstance(wanted, str) else wanted
        if not found or name not in names:
            raise CheckpointError(f"the format {target} needs {names[0]} as {slot}, and this model has {name}")
        return dict(found.get("init_args") or {})

    def foreign_code(self) -> list[str]:
        """What would import code of others: dotted paths that are not ours, and settings that ask for remote code.

        Short names are ours or those of an installed package that declares its parts.
        """
        single = [part for slot, part in self.parts.items() if part and slot != "heads"]
        found = []
        for part in [*single, *(self.parts.get("heads") or {}).values()]:
            path = str(part["class_path"])
            if "." in path and not path.startswith("mmcomponents."):
                found.append(path)
            if (part.get("init_args") or {}).get("trust_remote_code"):
                found.append(f"{path} with trust_remote_code")
        return found

    def as_config(self) -> dict[str, Any]:
        """A plain tree, for JSON."""
        return {
            "model": {**self.parts, "vocab_size": self.vocab_size, "image_token_id": self.image_token_id},
            "processing": asdict(self.processing),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelSpec:
        """The inverse of `as_config`."""
        model = dict(config["model"])
        vocab_size, image_token_id = model.pop("vocab_size", None), model.pop("image_token_id", None)
        return cls(model, vocab_size, image_token_id, Processing(**config.get("processing") or {}))
