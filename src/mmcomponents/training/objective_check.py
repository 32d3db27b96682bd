"""Checks of an objective before weights are read."""

from __future__ import annotations

from mmcomponents.checkpoints import read
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import Objective
from mmcomponents.objectives.base import check_objective


def check_with_folders(objective: Objective, model: MultimodalModel, trust_remote_code: bool) -> None:
    """Checks that an objective fits a model, and that the models of its folders do, by their configurations.

    Args:
        objective: The objective.
        model: Model to be trained, whose weights may be on the meta device.
        trust_remote_code: Whether a folder may name classes by dotted path, which are then imported.

    Raises:
        WiringError: One does not fit.
        CheckpointError: A folder cannot be read.
    """
    check_objective(objective, model)
    for folder in objective.folders:
        objective.check_other(model, read(folder, trust_remote_code=trust_remote_code).build())
