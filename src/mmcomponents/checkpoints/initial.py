"""Loading of initial weights into a model, for all slots or some of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mmcomponents.backbones import TransformersLM
from mmcomponents.checkpoints.adapter_weights import own_name, own_tensors
from mmcomponents.checkpoints.causal_lm import CausalLM
from mmcomponents.checkpoints.checkpoint import Checkpoint, meta_model, read
from mmcomponents.checkpoints.checkpoint_error import CheckpointError, UnknownFormatError
from mmcomponents.checkpoints.checks.other_settings import compare_base, compare_settings, own_class
from mmcomponents.checkpoints.finite import check_finite
from mmcomponents.checkpoints.native import Native
from mmcomponents.checkpoints.rules import Lazy
from mmcomponents.checkpoints.transformers_folder import ForeignFolder
from mmcomponents.component import Component, stored_tensors
from mmcomponents.data.storage.hub import local_folder
from mmcomponents.heads import LMHead, Verbalizer
from mmcomponents.model import MultimodalModel
from mmcomponents.row_draws import own_rows, put_rows
from mmcomponents.shared_vocabulary import VocabularyError
from mmcomponents.vision import TransformersConvNet, TransformersVision

log = logging.getLogger(__name__)

Folders = str | Path | Mapping[str, str | Path]
"""Folder of the complete model, or folders by slot, head (`heads.NAME`), or path of a part within a slot."""


def check_initial(folders: Folders, *, trust_remote_code: bool = False) -> None:
    """Checks that folders exist and have known formats, before the model is built.

    Args:
        folders: See `load_initial`.
        trust_remote_code: See `load_initial`.

    Raises:
        CheckpointError: A folder is missing or unknown; the message is one line.
    """
    for path in dict.fromkeys(map(str, folders.values() if isinstance(folders, Mapping) else [folders])):
        _open(path, trust_remote_code)


def load_initial(model: MultimodalModel, folders: Folders, *, trust_remote_code: bool = False) -> None:
    """Copies weights into a model, which may be sharded, see `InitialWeights`.

    Args:
        model: Model with initialised weights.
        folders: Folders of any format that `read` or transformers supports, or models of the hub.
        trust_remote_code: Whether a native folder may name third-party classes by dotted path, which are then imported.

    Raises:
        CheckpointError: A folder is wrong, lacks weights of a slot, has weights that are not finite, or has no part in
            common with the model.
    """
    InitialWeights(model, folders, trust_remote_code=trust_remote_code).load(model)


@dataclass(frozen=True)
class Start:
    """What a folder gives a parameter.

    Attributes:
        folder: Folder that the values are read from.
        count: Number of its values.
    """

    folder: str
    count: int


class InitialWeights:
    """Weights of folders for a model: which of its parameters they give, before any value is drawn or read.

    With a single folder, slots whose part has another class or other sizes than in the folder's model, or that the
    folder lacks, keep their random initialisation: one part can be replaced while the others keep trained weights. With
    a folder for each slot, other sizes are an error. A part whose class starts from the folder's class
    (`Component.starts_from`), or is a subclass of it, takes what the folder has. A part within a part, such as a branch
    of an encoder, has its own folder under `SLOT.PATH`. `TransformersLM` and
    `TransformersVision` load any folder that transformers reads, as do the embedder and the head `lm`; `TimmVision` and
    `OpenClipVision` load folders of timm and open_clip.

    If the vocabulary sizes differ, the common rows of embedding and head weights are copied. Further rows of a head are
    set to the mean of the copied rows, as InternVL's training does for added tokens; further rows of the embedding
    weight keep their random initialisation.

    Args:
        model: The model, which may be on the meta device.
        folders: Folders of any format that `read` or transformers supports.
        trust_remote_code: Whether a native folder may name third-party classes by dotted path, which are then imported.

    Attributes:
        given: Slot -> names of the parameters that are loaded as a whole, which need not be drawn.

    Raises:
        CheckpointError: A folder is wrong, lacks weights of a slot, or has no part in common with the model.
    """

    def __init__(self, model: MultimodalModel, folders: Folders, *, trust_remote_code: bool = False) -> None:
        parts = model.parts()
        chosen: dict[str, Checkpoint | ForeignFolder]
        inner: dict[str, Checkpoint | ForeignFolder] = {}
        if isinstance(folders, Mapping):
            opened = {path: _open(path, trust_remote_code) for path in dict.fromkeys(map(str, folders.values()))}
            given = {name: opened[str(path)] for name, path in folders.items()}
            inner = {name: folder for name, folder in given.items() if "." in name and name not in parts}
            slots = {name: name if name in given else name.partition(".")[0] for name in parts}
            chosen = {name: given[slot] for name, slot in slots.items() if slot in given}
            _check_names(parts, set(given) - set(inner) - set(parts))
            _tell_unused(parts, given)
        else:
            folder = _open(folders, trust_remote_code)
            chosen = dict.fromkeys(_fitting(model, folder), folder)
            left = [name for name in parts if name not in chosen and any(True for _ in parts[name].parameters())]
            if left:
                log.warning("%s has no weights for %s: initialised randomly", folder.folder, ", ".join(left))
        if not inner and not any(any(True for _ in parts[name].parameters()) for name in chosen):
            raise CheckpointError(f"{folders} has no part in common with the model")
        if "backbone" in chosen:
            compare_base(model, chosen["backbone"])
        within = {name: _inner_part(parts, *name.split(".", 1)) for name in inner}
        compare_settings({**parts, **within}, {**chosen, **inner})
        self._sources: dict[str, _Sources] = {}
        for name, part in parts.items():
            if name in chosen and not getattr(part, "is_tied", False):
                self._sources[name] = _Sources(name, name, part, chosen[name])
        for name, folder in inner.items():
            self._sources[name] = _Sources(name.partition(".")[0], name, within[name], folder)
        self.given: dict[str, set[str]] = {}
        for name, source in self._sources.items():
            slot, path = (name, "") if name in parts else name.split(".", 1)
            prefix = f"{path}." if path else ""
            self.given.setdefault(slot, set()).update(prefix + own for own in source.whole)

    def sources(self) -> dict[str, dict[str, Start]]:
        """Returns what each parameter of a part takes from a folder, by the part's name and the parameter's."""
        found: dict[str, dict[str, Start]] = {}
        for name, source in self._sources.items():  # parts within parts are last, and take precedence
            slot, _, path = (name, "", "") if name.startswith("heads.") else name.partition(".")
            for own, size in source.sizes.items():
                if own in source.values:
                    count = min(size, source.values[own].meta.numel())
                    found.setdefault(slot, {})[f"{path}.{own}" if path else own] = Start(
                        str(source.folder.folder), count
                    )
        return found

    def whole(self, model: MultimodalModel) -> dict[str, Lazy]:
        """Returns the weights that are loaded as a whole, by the model's names.

        Args:
            model: The model; it may have been sharded since.
        """
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found: dict[str, Lazy] = {}
        for part, source in self._parts(model):
            own = own_tensors(part)
            found |= {names[id(own[n])]: source.values[n] for n in source.whole if id(own.get(n)) in names}
        return found

    def _parts(self, model: MultimodalModel) -> list[tuple[Component, _Sources]]:
        parts = model.parts()
        return [
            (parts[name] if name in parts else _inner_part(parts, *name.split(".", 1)), source)
            for name, source in self._sources.items()
        ]

    @torch.no_grad()
    def load(self, model: MultimodalModel, only: Collection[str] | None = None) -> None:
        """Copies the weights into a model, tensor by tensor: a rank of a sharded one reads its own rows, if it can.

        Args:
            model: The model, whose weights have storage; it may have been sharded since.
            only: Names of the model's parameters that are loaded. None: all.

        Raises:
            CheckpointError: A weight cannot be read or is not finite, on this or another rank.
        """
        error, wanted = "", None
        if only is not None:
            wanted = {id(parameter) for name, parameter in model.named_parameters() if name in only}
        try:
            for part, source in self._parts(model):
                source.load(part, wanted)
        except (CheckpointError, VocabularyError) as found:
            error = str(found)
        except Exception as found:  # the other ranks must not wait for this one
            error = f"{type(found).__name__}: {found}"
        # A rank sees only its own rows: all of them stop if one finds a fault, or if their pieces together differ from
        # the checksum of a tensor.
        checks = {
            p.file: p for source in self._sources.values() for value in source.values.values() for p in value.pieces
        }
        shares: list[Any] = [(error, {file: check.take() for file, check in checks.items()})]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            mine, shares = shares[0], [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(shares, mine)
        compared = (check.compare(read.get(file, {}) for _, read in shares) for file, check in checks.items())
        error = next((text for text, _ in shares if text), "") or next(filter(None, compared), "")
        if error:
            raise CheckpointError(error)


def warn_of_drawn(model: MultimodalModel, loaded: InitialWeights | None) -> None:
    """Warns of weights that are not trained and were drawn, as no folder and no constructor gives them.

    Args:
        model: The model, with frozen parameters frozen.
        loaded: Weights of folders that it starts from; None: there are none.
    """
    starts = {} if loaded is None else loaded.sources()
    found: list[str] = []
    for slot, part in model.parts().items():
        if getattr(part, "is_tied", False):
            continue
        known = {*part.brought, *starts.get(slot, ())}
        named = [(own_name(name), p.numel()) for name, p in part.named_parameters() if not p.requires_grad]
        drawn = [(name, size) for name, size in named if name not in known]
        if drawn:
            found.append(f"{sum(size for _, size in drawn):,} of {slot} ({type(part).__name__}), such as {drawn[0][0]}")
    if found:
        log.warning(
            "weights that are not trained have random values: %s; model.weights names the folders of weights",
            "; ".join(found),
        )


def _check_names(parts: Mapping[str, Component], given: set[str]) -> None:
    slots = list(dict.fromkeys(name.partition(".")[0] for name in parts))
    if unknown := sorted(given - set(slots)):
        raise CheckpointError(f"weights are given for {', '.join(unknown)}; the slots are {', '.join(slots)}")


def _inner_part(parts: Mapping[str, Component], slot: str, path: str) -> Component:
    """Returns a part within the part of a slot.

    Raises:
        CheckpointError: There is none at this path.
    """
    _check_names(parts, {slot})
    outer = parts.get(slot)
    known = {} if outer is None else {n: m for n, m in outer.named_modules() if n and isinstance(m, Component)}
    if path not in known:
        names = ", ".join(f"{slot}.{name}" for name in known) or "none"
        raise CheckpointError(f"weights are given for {slot}.{path}; the parts within {slot} are {names}")
    return known[path]


def _tell_unused(parts: Mapping[str, Component], given: Mapping[str, Checkpoint | ForeignFolder]) -> None:
    """Warns of folders that are given for slots that have no weights of their own."""
    for slot, folder in given.items():
        own = {name: part for name, part in parts.items() if slot in (name, name.partition(".")[0])}
        tied = [name for name, part in own.items() if getattr(part, "is_tied", False)]
        if own and len(tied) == len(own):
            log.warning(
                "%s is tied to the embedding weight: what %s has for it is not used; give `embedder` a folder",
                ", ".join(tied),
                folder.folder,
            )
        elif own and not any(True for part in own.values() for _ in part.parameters()):
            log.warning("%s has no weights: %s is not used for it", slot, folder.folder)


def _open(path: str | Path, trust_remote_code: bool = False) -> Checkpoint | ForeignFolder:
    try:
        return read(path, trust_remote_code=trust_remote_code)
    except UnknownFormatError:
        return ForeignFolder(local_folder(path))  # `read` has found or downloaded it


def _fitting(model: MultimodalModel, folder: Checkpoint | ForeignFolder) -> list[str]:
    """Returns the slots that a folder has weights for; one whose part has other sizes is drawn, and told."""
    parts = model.parts().items()
    if isinstance(folder, ForeignFolder):
        return [name for name, part in parts if folder.fits(name, part)]
    theirs = meta_model(folder.spec).parts()
    wraps = (TransformersLM,) if isinstance(folder.format, CausalLM) else ()
    found = []
    for name, part in parts:
        if isinstance(part, wraps):
            found.append(name)
        elif takes_from(part, theirs.get(name)):
            other = _other_size(name, part, theirs[name])
            if other is None:
                found.append(name)
            else:
                log.warning("%s has other sizes than in %s: %s; initialised randomly", name, folder.folder, other)
    return found


def takes_from(ours: Component, theirs: nn.Module | None) -> bool:
    """Returns whether a part takes weights of a part: one of its class, or of a class that it starts from."""
    return _is_same(ours, theirs) or _is_source(ours, theirs)


def _is_same(ours: nn.Module, theirs: nn.Module | None) -> bool:
    """Returns whether two parts have the same weights: the same class, or `LMHead` and `Verbalizer`."""
    kinds = {own_class(ours), type(theirs)}
    return len(kinds) == 1 or kinds == {LMHead, Verbalizer}


def _is_source(ours: Component, theirs: nn.Module | None) -> bool:
    """Returns whether a part of another class can start from a part, see `Component.starts_from`."""
    if theirs is None or _is_same(ours, theirs):
        return False
    is_base = issubclass(own_class(ours), type(theirs)) and type(theirs) is not Component
    return is_base or any(kind.__name__ in ours.starts_from for kind in type(theirs).__mro__)


def _other_size(slot: str, ours: Component, theirs: nn.Module) -> str | None:
    """Returns the first weight of another shape, with both shapes; the number of rows of a vocabulary may differ."""
    given = stored_tensors(theirs)
    is_partial = _is_source(ours, theirs)
    for name, value in own_tensors(ours).items():
        names = ours.source_names(name) if is_partial else (name,)
        have = next((given[wanted].shape for wanted in names if wanted in given), None)
        if have is not None and have != value.shape and not _is_vocabulary(slot, have, value.shape):
            return f"{name} is {list(value.shape)} in the model and {list(have)} in the folder"
    return None


def _is_vocabulary(slot: str, have: torch.Size, want: torch.Size) -> bool:
    has_vocab = slot == "embedder" or slot.startswith("heads.")
    return has_vocab and len(have) == 2 == len(want) and have[1] == want[1]


class _Sources:
    """Weights of a folder for one part: all of them, or for a part of another class those that the folder has.

    Args:
        slot: Slot whose weights are read.
        shown: Name of the part, for messages.
        part: The part.
        folder: The folder.

    Attributes:
        whole: Names of the parameters that are loaded as a whole.
        sizes: Number of values of each tensor that is a parameter; the others are buffers.
    """

    def __init__(self, slot: str, shown: str, part: Component, folder: Checkpoint | ForeignFolder) -> None:
        self.slot, self.shown, self.folder = slot, shown, folder
        self.sizes = {name: v.numel() for name, v in own_tensors(part).items() if isinstance(v, nn.Parameter)}
        self.values: dict[str, Lazy] = {}
        source, own = _source_of(slot, part, folder), own_tensors(part)
        theirs = meta_model(folder.spec).parts().get(slot) if isinstance(folder, Checkpoint) else None
        is_partial = theirs is not None and _is_source(part, theirs)
        drawn, used = [], set()
        for name, parameter in own.items():
            names = part.source_names(name) if is_partial else (name,)
            wanted = next((given for given in names if given in source), names[-1])
            stored = source.get(wanted)
            if stored is None and is_partial:
                drawn.append(name)
                continue
            if stored is None:
                raise CheckpointError(_missing(slot, f"{shown}.{name}", part, theirs, folder))
            used.add(wanted)
            have, want = stored.meta.shape, parameter.shape
            if have != want and not _is_vocabulary(slot, have, want):
                raise CheckpointError(f"{folder.folder}: {shown}.{name} is {list(have)}, the model has {list(want)}")
            self.values[name] = stored
        if drawn:
            _tell_drawn(shown, part, drawn, len(own), folder)
        self.whole = {name for name, stored in self.values.items() if stored.meta.shape == own[name].shape}
        surplus = sorted(set(source) - used)
        if surplus:
            more = f" and {len(surplus) - 1} more" if len(surplus) > 1 else ""
            text = f"{folder.folder} has {slot}.{surplus[0]}{more} beyond the model"
            if not is_partial:
                raise CheckpointError(text)
            log.warning("%s, which is not used", text)

    def load(self, part: Component, only: Collection[int] | None = None) -> None:
        """Copies the weights into the part, or into those of its tensors that have the ids `only`."""
        own = own_tensors(part)
        for name, stored in self.values.items():
            parameter = own[name]
            if only is not None and id(parameter) not in only:
                continue
            if not isinstance(parameter, nn.Parameter):  # a part may refuse a buffer of another value
                value = self._checked(name, stored.load(), parameter.dtype)
                if part.load_state_dict({name: value}, strict=False).unexpected_keys:  # its layer has an adapter
                    put(parameter, value)
                continue
            rows = partial(self._rows, name, stored, parameter.dtype)
            if name in self.whole and stored.read_rows is not None and put_rows(parameter, rows):
                continue
            value = self._checked(name, stored.load(), parameter.dtype)
            if name in self.whole:
                put(parameter, value)
            else:
                _put_resized(self.slot, value, parameter)

    def _rows(self, name: str, stored: Lazy, dtype: torch.dtype, first: int, end: int) -> Tensor:
        assert stored.read_rows is not None
        return self._checked(name, stored.read_rows(first, end), dtype)

    def _checked(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        value = value.to(dtype)
        check_finite(f"{self.folder.folder}", f"{self.shown}.{name}", value)
        return value


def _tell_drawn(shown: str, part: Component, drawn: list[str], count: int, folder: Checkpoint | ForeignFolder) -> None:
    if len(drawn) == count:
        kind = own_class(part).__name__
        raise CheckpointError(f"{folder.folder} has no weights that {shown} ({kind}) can start from")
    log.warning(
        "%s takes %d of its %d weights from %s; the others, such as %s, are initialised as without it",
        shown, count - len(drawn), count, folder.folder, drawn[0],
    )  # fmt: skip


def _missing(
    slot: str, name: str, part: Component, theirs: nn.Module | None, folder: Checkpoint | ForeignFolder
) -> str:
    ours = own_class(part).__name__
    if theirs is None or type(theirs).__name__ == ours:
        return f"{folder.folder} has no weights {name}"
    other = type(theirs).__name__
    return f"{folder.folder} has no weights {name}: its {slot} is {other}, which {ours} does not start from"


def _source_of(slot: str, part: nn.Module, folder: Checkpoint | ForeignFolder) -> dict[str, Lazy]:
    """Returns the weights of a slot. For a head that is tied in the folder, this is the embedding weight."""
    if isinstance(folder, ForeignFolder):
        return folder.weights(slot, part)
    wraps = TransformersLM | TransformersVision | TransformersConvNet
    if isinstance(part, wraps) and not isinstance(folder.format, Native):
        return ForeignFolder(folder.folder).weights(slot, part)  # `folder.weights` has the names of other parts
    prefix = f"{slot}."
    found = {n.removeprefix(prefix): w for n, w in folder.weights.items() if n.startswith(prefix)}
    embedding = folder.weights.get("embedder.embedding.weight")
    if not found and slot == "heads.lm" and embedding is not None:
        return {"weight": embedding}
    return found


def _put_resized(slot: str, value: Tensor, parameter: Tensor) -> None:
    """Copies rows of another vocabulary size: without communication, since another rank may have found a fault."""
    size, wanted = value.shape[0], parameter.shape[0]
    log.warning("%s: the vocabulary size is %d in the folder and %d in the model", slot, size, wanted)
    mean = value.float().mean(0, keepdim=True).to(value.dtype)
    rows = own_rows(parameter)
    if rows is None:
        raise CheckpointError(f"{slot}: a vocabulary of another size needs a weight that is sharded by rows")
    local, begin = rows
    known = max(0, min(size - begin, local.shape[0]))
    local[:known].copy_(value[begin : begin + known])
    if slot != "embedder":  # whose further rows keep their draw
        local[known:].copy_(mean.expand(local.shape[0] - known, -1))


def put(parameter: Tensor, value: Tensor) -> None:
    """Copies a full value into a tensor.

    Args:
        parameter: Tensor of any shape, which may be sharded; changed in place.
        value: Full value of the same shape.
    """
    if isinstance(parameter, DTensor):
        # Each rank has read the same value and keeps its own shard: no communication.
        local = value.to(parameter.device)
        parameter.copy_(distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(value)
