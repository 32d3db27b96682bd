"""Multimodal model parts as LightningModules, and what composes them into InternVL3."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmcomponents.checkpoints import load
    from mmcomponents.model import MultimodalModel

__all__ = ["MultimodalModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch and lightning take seconds, and the command's listings need neither.
    if name == "MultimodalModel":
        from mmcomponents.model import MultimodalModel

        return MultimodalModel
    if name == "load":
        from mmcomponents.checkpoints import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
