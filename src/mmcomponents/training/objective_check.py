"""Checks of an objective before weights are read."""

from __future__ import annotations

from typing import Any

from mmcomponents.checkpoints import CheckpointError, read
from mmcomponents.checkpoints.checkpoint import Checkpoint
from mmcomponents.component import WiringError
from mmcomponents.data.chat.tokenizer import vocabulary_fingerprint
from mmcomponents.data.errors import DataError
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import Objective
from mmcomponents.objectives.base import check_objective


def check_with_folders(
    objective: Objective, model: MultimodalModel, trust_remote_code: bool, tokenizer: Any | None = None
) -> None:
    """Checks that an objective fits a model, and that the models of its folders do, by their configurations.

    Args:
        objective: Objective of the recipe.
        model: Model to be trained, whose weights may be on the meta device.
        trust_remote_code: Whether a folder may name classes by dotted path, which are then imported.
        tokenizer: Tokenizer of the data, which is compared with those that the folders have; added tokens may differ.

    Raises:
        WiringError: One does not fit.
        CheckpointError: A folder cannot be read.
    """
    check_objective(objective, model)
    for folder in objective.folders:
        found = read(folder, trust_remote_code=trust_remote_code)
        objective.check_other(model, found.build())
        theirs = None if tokenizer is None else _tokenizer(found)
        if theirs is None or tokenizer is None:
            continue
        ours, other = vocabulary_fingerprint(tokenizer), vocabulary_fingerprint(theirs)
        if ours != other:
            raise WiringError(
                f"{type(objective).__name__}: the tokenizer of {folder} has the fingerprint {other}, and that of the"
                f" data {ours}: their tokens have other ids"
            )


def _tokenizer(folder: Checkpoint) -> Any | None:
    try:
        return folder.tokenizer()
    except (CheckpointError, DataError):
        return None  # a folder of weights alone
