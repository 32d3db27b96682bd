"""Loading of a model from a checkpoint folder of any format, or from a run."""

from __future__ import annotations

from pathlib import Path

import torch

from mmcomponents.checkpoints import read
from mmcomponents.model import MultimodalModel
from mmcomponents.training.saved_run import read_run, run_checkpoint


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    image_token_id: int | None = None,
    allow_nonfinite: bool = False,
    trust_remote_code: bool = False,
) -> MultimodalModel:
    """Loads a model from a checkpoint folder or from a run.

    Args:
        path: A native export, a transformers `-hf` or an official InternVL folder; a model of the hub, `org/name` or
            `org/name@revision`; or the folder of a run, of which the newest checkpoint is read, or a checkpoint, a
            file or a folder of shards. Adapters are merged.
        device: Device of the weights.
        dtype: Data type of the weights. None: as stored.
        image_token_id: Token id of the placeholder of a visual token, for a folder without tokenizer.
        allow_nonfinite: Whether to load weights with NaN or infinities.
        trust_remote_code: Whether the folder may name third-party classes by dotted path, which are then imported.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: The path is missing, broken, or of no known format, or a weight is not finite.
    """
    folder = Path(path)
    run = None if (folder / "config.json").is_file() else run_checkpoint(folder)
    found = (
        read(path, image_token_id=image_token_id, trust_remote_code=trust_remote_code)
        if run is None
        else read_run(run, image_token_id, allow_nonfinite=allow_nonfinite, trust_remote_code=trust_remote_code)
    )
    return found.load(device, dtype, allow_nonfinite=allow_nonfinite)
