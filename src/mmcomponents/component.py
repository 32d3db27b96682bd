"""Base class of all components."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.overrides import TorchFunctionMode

from mmcomponents.batch import PackedBatch, VisualFeatures
from mmcomponents.limits import wrong_argument
from mmcomponents.row_draws import draw_rows, generator_of


class WiringError(ValueError):
    """Two components of a model do not fit together; the message names both and their sizes."""


class NonFiniteError(ValueError):
    """A loss, a gradient, a logit or a score is NaN or infinite; the message says where."""


class Composition(Protocol):
    """Parts of a composed model by slot, as `Component.check` sees them; None where a slot is empty.

    `mmcomponents.model.MultimodalModel` is one.
    """

    vision: Any
    fuser: Any
    merger: Any
    projector: Any
    embedder: Any
    position: Any
    backbone: Any
    heads: Any
    """Heads by name; empty if there are none."""

    @property
    def tokens_per_tile(self) -> int | None:
        """Number of visual tokens per tile of the encoder's image size; None without an encoder."""
        ...

    def parts(self) -> dict[str, Component]:
        """Returns the components of the filled slots by name; heads as `heads.NAME`."""
        ...


class Component(LightningModule):
    """Base class of components, each built by its constructor and usable on its own with tensors.

    A component declares the module types that FSDP shards, activation checkpointing wraps and compile compiles. It does
    not depend on its neighbours. It has no `training_step`: on its own, it is used in the user's training loop.
    """

    shard_units: tuple[type[nn.Module], ...] = ()
    """Module types inside this component that are each sharded, checkpointed and compiled as one unit."""

    weight_methods: ClassVar[tuple[str, ...]] = ()
    """Methods besides `forward` that use the weights; sharded weights are gathered for these calls too."""

    files: ClassVar[tuple[str, ...]] = ()
    """Names of the constructor's arguments that are paths of files, which an export copies into its folder."""

    tokenizer_fingerprint: str | None = None
    """`vocabulary_fingerprint` of the tokenizer that the component is made for, if it depends on token ids."""

    frozen: ClassVar[tuple[str, ...]] = ()
    """Patterns (`fnmatch`) of names of parameters that are never trained, such as a snapshot of other weights."""

    starts_from: tuple[str, ...] = ()
    """Names of classes of the same slot whose weights the component can start from, see `source_name`."""

    brought: frozenset[str] = frozenset()
    """Names of the parameters whose values the constructor brings, which are not drawn over; a composition sets it."""

    drawn: Mapping[str, tuple[int, int]] = MappingProxyType({})
    """Name of each parameter that `init_weights` has drawn -> its identity and version then."""

    again: Callable[[], Any] | None = None
    """Constructs the component once more; a composition sets it if there are brought parameters."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `forward`.

        Raises:
            TypeError: An argument, whose class is not that of its annotation, lacks an attribute. Other errors of such
                calls, and those with feature maps of other widths than `in_features`, stay, with a note that says so:
                it may not be their cause.
        """
        try:
            return super().__call__(*args, **kwargs)
        except (AttributeError, TypeError, RuntimeError, ValueError) as error:
            name = type(self).__name__
            widths = _other_widths(getattr(self, "in_features", None), (*args, *kwargs.values()))
            if widths is not None and not isinstance(error, WiringError):  # else the part has told it
                error.add_note(f"{name} takes {widths}")
            value, needs = wrong_argument(self.forward, args, kwargs) or (None, "")
            if value is not None and getattr(error, "obj", None) is value:
                raise TypeError(f"{name} takes {needs}") from error
            if needs:
                error.add_note(f"{name} takes {needs}")
            raise

    def extra_repr(self) -> str:
        """Returns the constructor's arguments that are attributes of the same names, such as widths."""
        values = {name: getattr(self, name, inspect) for name in inspect.signature(type(self)).parameters}
        plain = (int, float, str, tuple, type(None))
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if isinstance(value, plain))

    def check(self, model: Composition) -> None:
        """Checks that the component fits the model that it is a part of. The default does nothing.

        The model calls it for each part when it is composed, after its own comparisons of widths; the task calls it for
        objective and sampler. A component overrides it for what only it knows of its neighbours, such as the fold of a
        merger or the codebook of an encoder. Weights may be on the meta device.

        Args:
            model: The parts by slot. A neighbour may lack attributes of the library's parts: they are read with
                `getattr(part, name, None)`.

        Raises:
            WiringError: It does not fit; the message names both components and both numbers.
        """

    def flops(self, batch: PackedBatch) -> float:
        """Returns the floating-point operations of a forward pass over a pack, two per multiply-add of a matrix.

        Components without matrices return 0. Biases, norms, activations and the blank tile of a pack without images are
        not counted. Reads the integers of the pack, which synchronises with the device on a GPU.
        """
        return 0.0

    def init_parameter(self, name: str, value: Tensor, generator: torch.Generator) -> None:
        """Fills one parameter with its initial value. Components override this for other initialisations.

        A parameter of a component within this one is filled by that component.

        Matrices are normal with standard deviation `fan_in ** -0.5` (LeCun et al. 1998, "Efficient BackProp", section
        4.6): 0.017 at a width of 3,584, where the released configurations use 0.02, and more at small widths: a fixed
        0.02 keeps a narrow model near zero for hundreds of steps. Biases are 0 and other vectors 1.

        Args:
            name: Name of the parameter within this component.
            value: Full parameter of any shape, in fp32 on the CPU, filled in place.
            generator: Random generator that depends on the seed and the name only.
        """
        inner = self._inner(name)
        if inner is not None:
            inner.part.init_parameter(inner.name, value, generator)
        elif value.ndim >= 2:
            nn.init.normal_(value, std=value[0].numel() ** -0.5, generator=generator)
        elif name.endswith("bias"):
            value.zero_()
        else:
            value.fill_(1.0)

    def init_std(self, name: str, shape: torch.Size) -> float | None:
        """Returns the standard deviation of a parameter whose values are independent and normal with mean 0, else None.

        Of such a parameter, a rank of a sharded model draws its own rows alone, in place of `init_parameter`, if it is
        large (`row_draws.BLOCK`). A class that overrides `init_parameter` overrides this method too if it wants that
        for its own parameters; otherwise all of them are drawn whole on each rank. Default: that of `init_parameter`.

        Args:
            name: Name of the parameter within this component.
            shape: Shape of the full parameter.
        """
        inner = self._inner(name)
        if inner is not None:
            return inner.part._declared_std(inner.name, shape)
        return float(shape[1:].numel() ** -0.5) if len(shape) >= 2 else None

    def _declared_std(self, name: str, shape: torch.Size) -> float | None:
        """Returns `init_std`, unless a subclass of the class that defines it overrides `init_parameter`."""
        kinds = type(self).__mro__
        std, whole = (
            next(place for place, kind in enumerate(kinds) if method in vars(kind))
            for method in ("init_std", "init_parameter")
        )
        return self.init_std(name, shape) if std <= whole else None

    def init_buffer(self, name: str, value: Tensor) -> bool:
        """Fills one buffer after the component was built on the meta device, which keeps no values.

        Components with buffers override this. What is computed in `forward` needs no buffer. A buffer of a component
        within this one is filled by that component.

        Args:
            name: Name of the buffer within this component.
            value: Buffer of any shape, with undefined values on its device, filled in place.

        Returns:
            Whether the buffer is filled. Default: False, which makes it an error to build the component that way.
        """
        inner = self._inner(name)
        return inner is not None and inner.part.init_buffer(inner.name, value)

    def source_name(self, name: str) -> str:
        """Returns the name under which a parameter is drawn, and looked up in a folder of a class in `starts_from`.

        A component that contains what another class is alone, or several copies of it, gives the names there: it then
        has the same initial values as that class in its slot, and starts from folders of compositions with it. What
        such a folder does not have keeps its draw. Default: the same name.

        Args:
            name: Name of the parameter within this component.
        """
        inner = self._inner(name)
        return name if inner is None else f"{inner.path}.{inner.part.source_name(inner.name)}"

    def source_names(self, name: str) -> tuple[str, ...]:
        """Returns the names under which a parameter is looked up in a folder of a class in `starts_from`, in order."""
        return (self.source_name(name),)

    def frozen_names(self) -> set[str]:
        """Returns the names of the parameters that are never trained, of components within this one too."""
        found = set()
        for path, module in self.named_modules():
            for pattern in module.frozen if isinstance(module, Component) else ():
                names = (name.replace("base_layer.", "") for name, _ in module.named_parameters())
                prefix = f"{path}." if path else ""
                found |= {prefix + name for name in names if fnmatchcase(name, pattern)}
        return found

    def _inner(self, name: str) -> _Inner | None:
        """Returns the outermost component within this one that has a parameter or a buffer."""
        module: Any = self
        pieces = name.split(".")
        for depth, piece in enumerate(pieces[:-1], start=1):
            module = getattr(module, piece, None)
            if isinstance(module, Component):
                return _Inner(module, ".".join(pieces[:depth]), ".".join(pieces[depth:]))
        return None

    @torch.no_grad()
    def buffer_values(self, device: torch.device | str, exclude: Collection[int] = ()) -> dict[str, Tensor]:
        """Returns the values of all buffers on a device: copies, or those of `init_buffer` for the meta device.

        Each has the dtype and the shape of its buffer. A layer that is wrapped under the name `base_layer` has the same
        name as without its wrapper.

        Args:
            device: Device of the values.
            exclude: `id` of buffers that are left out, such as those of adapters.

        Raises:
            WiringError: A buffer is on the meta device and `init_buffer` does not fill it.
        """
        values, made = {}, dict[int, Tensor]()
        for given, buffer in self.named_buffers(remove_duplicate=False):
            if id(buffer) in exclude:
                continue
            name = given.replace("base_layer.", "")
            if id(buffer) not in made:  # two modules may share a buffer
                # NaN shows where `init_buffer` has not filled it.
                empty = torch.full_like(buffer, torch.nan if buffer.is_floating_point() else -1, device=device)
                if not buffer.is_meta:
                    empty.copy_(buffer)
                elif buffer.numel() and not self.init_buffer(name, empty):
                    raise WiringError(
                        f"{type(self).__name__} has the buffer {name}, whose values the meta device does not keep: fill"
                        " it in init_buffer"
                    )
                made[id(buffer)] = empty
            values[given] = made[id(buffer)]
        return values

    def set_buffers(self, values: Mapping[str, Tensor]) -> None:
        """Replaces buffers.

        Args:
            values: Buffers of any shape, by their names within this component.
        """
        for name, value in values.items():
            owner, _, own = name.rpartition(".")
            setattr(self.get_submodule(owner), own, value)

    @torch.no_grad()
    def init_weights(self, seed: int | None = None, scope: str | None = None, given: Collection[str] = ()) -> None:
        """Draws all parameters as a function of seed, scope and name, independent of device, rank and sharding.

        Parameters that the constructor brings keep their values, see `mmcomponents.brought_weights`.

        A layer that is wrapped under the name `base_layer` gets the same values as without its wrapper, and a parameter
        with another `source_name` those of a parameter of that name.

        Args:
            seed: None: a seed drawn from torch's global generator.
            scope: Name of the slot, so that two components of a model get different values. Default: the class name.
            given: Names of parameters that are not drawn, since they are loaded afterwards.
        """
        loads = _LOADS.get()
        if loads is not None:
            loads.keep(_written_since_drawn(self))
        if any(p.is_meta for p in self.parameters()):
            self.drawn = versions(self)
            return  # drawn once the weights have storage
        if seed is None:
            seed = int(torch.randint(2**62, (), device="cpu"))
        for full, parameter in self.named_parameters():
            name = full.replace("base_layer.", "")
            if name in given or name in self.brought or (loads is not None and loads.has(parameter)):
                continue
            key = f"{seed}/{scope or type(self).__name__}/{self.source_name(name)}"
            std = self._declared_std(name, parameter.shape)
            with nullcontext() if loads is None else loads.paused():
                if std is not None and draw_rows(parameter, std, key):
                    continue
                value = torch.empty(parameter.shape, dtype=torch.float32, device="cpu")
                self.init_parameter(name, value, generator_of(key))
                assign(parameter, value)
        for inner in self.modules():  # a subclass that draws again must not take these values for loaded ones
            if isinstance(inner, Component):
                inner.drawn = versions(inner)


def _other_widths(takes: object, given: Iterable[object]) -> str | None:
    """Returns the widths of feature maps that a part takes and is given, for an error; None if they are equal.

    Args:
        takes: Width of the primary map, a tuple of those of all maps, or None.
        given: Arguments of the part.
    """
    for value in given if takes is not None else ():
        if isinstance(value, VisualFeatures):
            widths = tuple(source.tokens.shape[-1] for source in value.maps)
            needs, found = (tuple(takes), widths) if isinstance(takes, tuple | list) else (takes, widths[-1])
            if found != needs:
                return f"feature maps of width {needs}, got {found}"
    return None


def assign(parameter: Tensor, value: Tensor) -> None:
    """Copies a full value into a parameter; a rank keeps its own shard, without communication.

    Args:
        parameter: Parameter of any shape, which may be sharded; changed in place.
        value: Full value of the same shape, which each rank has.
    """
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        parameter.copy_(distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None))
    else:
        parameter.copy_(value)


def _written_since_drawn(module: nn.Module) -> Iterator[Tensor]:
    """Yields the parameters that were written after a component within a module, or itself, has drawn them."""
    for inner in module.modules():
        if not isinstance(inner, Component) or not inner.drawn:
            continue
        drawn = inner.drawn
        changed = {name for name, found in versions(inner).items() if drawn.get(name, found) != found}
        yield from (parameter for name, parameter in inner.named_parameters() if name in changed)


def versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Returns identity and version of each parameter; writing in place changes the latter."""
    return {name: (id(parameter), parameter._version) for name, parameter in module.named_parameters()}


class Loads(TorchFunctionMode):
    """Records the memory that values are copied into while the mode is active, such as parameters that are loaded."""

    _WRITES = (Tensor.copy_, Tensor.set_, Tensor.data.__set__)  # type: ignore[attr-defined]

    def __init__(self) -> None:
        super().__init__()
        self._is_paused = False
        self._written: dict[int, Any] = {}  # by identity; a storage that is kept is not used again for other values

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls a function of torch."""
        found = func(*args, **(kwargs or {}))
        if not self._is_paused and func in self._WRITES and isinstance(args[0], Tensor):
            storage = args[0].untyped_storage()
            self._written[storage._cdata] = storage
        return found

    def has(self, parameter: Tensor) -> bool:
        """Returns whether values were copied into a parameter of any shape."""
        return (
            bool(self._written)
            and not isinstance(parameter, DTensor)
            and (parameter.untyped_storage()._cdata in self._written)
        )

    def keep(self, parameters: Iterable[Tensor]) -> None:
        """Records parameters of any shape that were written in another way."""
        for parameter in parameters:
            storage = parameter.untyped_storage()
            self._written[storage._cdata] = storage

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Records nothing inside the block."""
        was, self._is_paused = self._is_paused, True
        try:
            yield
        finally:
            self._is_paused = was


_LOADS: ContextVar[Loads | None] = ContextVar("loads", default=None)


@contextmanager
def recording_loads() -> Iterator[Loads]:
    """Constructs components inside the block, whose `init_weights` leaves alone what their constructors load."""
    loads = Loads()
    token = _LOADS.set(loads)
    try:
        with loads:
            yield loads
    finally:
        _LOADS.reset(token)


@dataclass(frozen=True)
class _Inner:
    """A component within another one, its path there, and the name of something within it."""

    part: Component
    path: str
    name: str


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns what a folder holds of a model or part: its parameters, each once, and the buffers of its state dict.

    Returns:
        The tensors themselves by name, each in its own shape.
    """
    state = module.state_dict(keep_vars=True)
    buffers = {name: value for name, value in module.named_buffers(remove_duplicate=False) if name in state}
    return {**dict(module.named_parameters()), **buffers}
