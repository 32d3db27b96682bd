"""Multimodal model parts as LightningModules, composed into InternVL3.

    recipe (factories of parts) ── MultimodalTask ──► MultimodalModel ──► checkpoints ── load ──► generation

`load` reads a model from a checkpoint folder of any known format, or from a run.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmcomponents.loading import load
    from mmcomponents.model import MultimodalModel

__all__ = ["MultimodalModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Imported on first access: torch and lightning take seconds, and the listings of the command need neither.
    if name == "MultimodalModel":
        from mmcomponents.model import MultimodalModel

        return MultimodalModel
    if name == "load":
        from mmcomponents.loading import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
