"""Frozen weights that the checkpoints of a run leave out, since the folder that the run started from has them.

A checkpoint names the folder and the SHA-256 of its files of weights. Whoever reads the checkpoint reads the frozen
weights from the folder, and refuses one whose files have changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist
from torch import Tensor

from mmcomponents.checkpoints.adapter_weights import adapter_layers, base_layer
from mmcomponents.checkpoints.checkpoint_error import CheckpointError
from mmcomponents.checkpoints.initial import Folders, InitialWeights
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.data.storage.hub import local_folder
from mmcomponents.model import MultimodalModel

KEY = "frozen_weights"
"""Entry of a checkpoint."""

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_MODEL = "model."

Digests = dict[str, dict[str, str]]
"""Folder -> file of weights -> SHA-256."""

Stamps = dict[tuple[str, str], tuple[int, int]]
"""(Folder, file) -> size, time of change."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrozenWeights:
    """Weights of a run that its folders of initial weights have.

    Attributes:
        folders: The folder of the model, or folders by slot or path, see `load_initial`.
        names: Parameters of the model that are loaded from them as a whole, and stay as they are.
        digests: SHA-256 of the folders' files of weights.
        trust_remote_code: Whether the folders may name third-party classes.
        stamps: Size and time of change of the files when their SHA-256 was computed.
    """

    folders: Folders
    names: frozenset[str]
    digests: Digests
    trust_remote_code: bool = False
    stamps: Stamps = field(default_factory=dict)

    @classmethod
    def of_run(
        cls, model: MultimodalModel, loaded: InitialWeights, folders: Folders, trust_remote_code: bool = False
    ) -> Self | None:
        """Returns the frozen weights of a model that has just been loaded. All ranks call it together.

        Args:
            model: The model, with its adapters, and its frozen slots frozen; it may be sharded.
            loaded: What was loaded.
            folders: The folders of `loaded`.
            trust_remote_code: Whether the folders may name third-party classes.

        Returns:
            None if there are none, or a folder has no files of weights that are known.

        Raises:
            CheckpointError: A file cannot be read.
        """
        changed = {
            id(parameter)  # some adapters change the weight that they start from
            for part in model.parts().values()
            for layer in adapter_layers(part).values()
            if getattr(layer, "base_was_changed", False)
            for parameter in base_layer(layer).parameters()
        }
        whole = loaded.whole(model)
        frozen = {n for n, p in model.named_parameters() if n in whole and not p.requires_grad and id(p) not in changed}
        files = [(path, name) for path in _paths(folders) for name in _weight_files(path)]
        if not frozen or {path for path, _ in files} != set(_paths(folders)):
            return None
        stamps = _stamps(files)
        digests = _digests(files, together=True)
        if unread := [f"{path}/{name}" for path, found in digests.items() for name in found if not found[name]]:
            raise CheckpointError(f"{unread[0]} cannot be read")
        return cls(folders, frozenset(frozen), digests, trust_remote_code, stamps)

    def leave_out(self, model: MultimodalModel, checkpoint: dict[str, Any]) -> None:
        """Removes frozen weights from a checkpoint, and records where they are. All ranks call it together.

        They stay in the checkpoint if a file of the folders has changed since the run began.

        Args:
            model: The model, with or without adapters, sharded or not.
            checkpoint: The checkpoint; its `state_dict` is changed in place.
        """
        frozen = [n for n, p in model.named_parameters() if n in self.names and not p.requires_grad]
        if not frozen:
            return
        now = _stamps(self.stamps)
        changed = next(("/".join(file) for file in now if now[file] != self.stamps[file]), "")
        if dist.is_available() and dist.is_initialized():  # a checkpoint of shards has all of a weight, or nothing
            found: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(found, changed)
            changed = next(filter(None, found), "")
        if changed:
            log.warning("%s has changed since the run began: the checkpoint has all weights, also frozen ones", changed)
            return
        for name in frozen:
            checkpoint["state_dict"].pop(_MODEL + name, None)  # a rank that does not write has none
        checkpoint[KEY] = {"folders": _absolute(self.folders), "digests": self.digests, "names": frozen}

    @classmethod
    def find(
        cls,
        checkpoint: Mapping[str, Any],
        others: Folders | None = None,
        trust_remote_code: bool = False,
        *,
        together: bool = False,
    ) -> Self | None:
        """Returns what a checkpoint leaves out, with a folder that has it: the recorded one, or else another.

        Args:
            checkpoint: Checkpoint of a run, as Lightning passes it to `on_load_checkpoint`.
            others: Folders to look in if the recorded ones are missing or have changed.
            trust_remote_code: Whether the folders may name third-party classes.
            together: Whether all ranks call this together, so that each reads a share of the files.

        Returns:
            None for a checkpoint with all weights.

        Raises:
            CheckpointError: The entry is damaged, or the folder is missing or has changed.
        """
        recorded = checkpoint.get(KEY)
        if recorded is None:
            return None
        try:
            folders, names = recorded["folders"], frozenset(recorded["names"])
            wanted = {str(folder): dict(files) for folder, files in recorded["digests"].items()}
            slots = ", ".join(sorted({name.partition(".")[0] for name in names}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint's entry {KEY!r} is damaged: {error!r}") from None
        reasons = []
        for candidate in [folders] if others is None else [folders, others]:
            places = _places(folders, candidate)
            if places is None:
                reasons.append("model.weights names folders of other slots")
                continue
            files = [(places[path], name) for path in wanted for name in wanted[path]]
            stamps = _stamps(files)
            found = _digests(files, together)
            renamed = {places[path]: of_path for path, of_path in wanted.items()}
            other = next(((p, n) for p, n in files if found[p][n] != renamed[p][n] or not found[p][n]), None)
            if other is None:
                return cls(candidate, names, renamed, trust_remote_code, stamps)
            reasons.append(f"{'/'.join(other)} {'has changed since' if found[other[0]][other[1]] else 'is missing'}")
        raise CheckpointError(
            f"the checkpoint leaves out the frozen weights of {slots}, which its run loaded from"
            f" {', '.join(wanted)}: {'; '.join(dict.fromkeys(reasons))} (with the recipe of the run, model.weights may"
            " name another place of the same files)"
        )

    def read(self, model: MultimodalModel) -> dict[str, Lazy]:
        """Returns the weights by names of a model, each read lazily.

        Raises:
            CheckpointError: The folders do not have them.
        """
        found = self._source(model).whole(model)
        if missing := sorted(self.names - set(found)):
            raise CheckpointError(f"the checkpoint leaves out {missing[0]}, which {', '.join(self.digests)} lacks")
        return {name: found[name] for name in sorted(self.names)}

    def restore(self, model: MultimodalModel, checkpoint: dict[str, Any]) -> None:
        """Loads the weights into a model, and adds them to a checkpoint that is loaded into it afterwards.

        Raises:
            CheckpointError: The folders do not have them.
        """
        self._source(model).load(model, self.names)
        if "state_dict" in checkpoint:  # not read yet: shards are loaded before
            own: dict[str, Tensor] = dict(model.named_parameters())
            checkpoint["state_dict"] |= {_MODEL + name: own[name].detach() for name in self.names}

    def _source(self, model: MultimodalModel) -> InitialWeights:
        return InitialWeights(model, self.folders, trust_remote_code=self.trust_remote_code)


def left_out(checkpoint: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names in the state dict that a checkpoint leaves out."""
    recorded = checkpoint.get(KEY)
    names: Collection[str] = recorded.get("names", ()) if isinstance(recorded, Mapping) else ()
    return frozenset(_MODEL + name for name in names)


def _absolute(folders: Folders) -> Folders:
    if isinstance(folders, Mapping):
        return {name: str(local_folder(path).resolve()) for name, path in folders.items()}
    return str(local_folder(folders).resolve())


def _paths(folders: Folders) -> list[str]:
    """Returns the folders, each once, in the order in which they are given."""
    found = _absolute(folders)
    return list(dict.fromkeys(map(str, found.values() if isinstance(found, Mapping) else [found])))


def _places(folders: Folders, candidate: Folders) -> dict[str, str] | None:
    """Returns for each recorded folder the one that takes its place; None if there is none for a slot."""
    given, other = _absolute(folders), _absolute(candidate)
    if not isinstance(given, Mapping) or not isinstance(other, Mapping):
        single = not isinstance(given, Mapping) and not isinstance(other, Mapping)
        return {str(given): str(other)} if single else None
    return None if set(given) - set(other) else {str(given[slot]): str(other[slot]) for slot in given}


def _stamps(files: Iterable[tuple[str, str]]) -> Stamps:
    """Returns size and time of change of files; those of a missing file are zero."""
    found = {}
    for path, name in files:
        try:
            known = (Path(path) / name).stat()
            found[path, name] = known.st_size, known.st_mtime_ns
        except OSError:
            found[path, name] = 0, 0
    return found


def _weight_files(folder: str) -> list[str]:
    return sorted(file.name for file in Path(folder).iterdir() if file.suffix in _SUFFIXES and file.is_file())


def _digests(files: list[tuple[str, str]], together: bool) -> Digests:
    """Returns the SHA-256 of files of folders, "" for one that cannot be read; together: each rank reads a share."""
    log.info("computing the SHA-256 of %d files of weights", len(files))
    divided = together and dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if divided else (0, 1)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(files[rank::world], pool.map(_sha256, files[rank::world]), strict=True))
    if divided:
        shares: list[Any] = [None] * world
        dist.all_gather_object(shares, found)
        found = {file: digest for share in shares for file, digest in share.items()}
    digests: Digests = {path: {} for path, _ in files}
    for (path, name), digest in found.items():
        digests[path][name] = digest
    return digests


def _sha256(file: tuple[str, str]) -> str:
    try:
        with (Path(file[0]) / file[1]).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""
