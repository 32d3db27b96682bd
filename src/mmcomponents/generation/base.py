"""Samplers: what answers each segment of a pack of prompts, with text, a picture or values."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeGuard, get_args, runtime_checkable

import torch
from PIL.Image import Image
from torch import Tensor

from mmcomponents.batch import PackedBatch
from mmcomponents.component import Component, NonFiniteError, WiringError
from mmcomponents.extras import Extra
from mmcomponents.generation.past import Past
from mmcomponents.model import MultimodalModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mmcomponents.generation.uniform_draws import Draws

AnswerKind = Literal["text", "picture", "values"]
"""What a sampler answers with."""

_MODES = {mode: mode for mode in ("1", "L", "LA", "P", "RGB", "RGBA")} | {
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "PA": "RGBA",
    "La": "LA",
}
"""Mode of a picture -> mode in which an answer holds it, which PNG files have."""

_CONTRACT = "a sampler has forward(model, prompts, context) and returns a list of Answer"


@dataclass(frozen=True)
class Context:
    """What a sampler gets besides the model and the prompts.

    Attributes:
        tokenizer: Decodes token ids to text. None: answers of text have ids only.
        stop_ids: Tokens that end an answer.
        generator: Random generator on the model's device, whose draws the prompts share. None: the draws of a prompt
            are those of `PackedBatch.generators`, which do not depend on the other prompts of its batch or on its rank.
    """

    tokenizer: PreTrainedTokenizerBase | None = None
    stop_ids: Collection[int] = ()
    generator: torch.Generator | None = None

    def words(self, name: str) -> list[object]:
        """Returns the words of a draw for `PackedBatch.generators`: its name, and a number from the generator."""
        if self.generator is None:
            return [name]
        return [name, int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))]


@dataclass(frozen=True, eq=False)
class Answer:
    """Answer to one prompt: text, a picture or values.

    Attributes:
        text: Text of the answer.
        ids: Token ids of a text, without the stop token. A text that was not decoded has ids only.
        picture: Picture. One of a mode that PNG files do not have is converted, such as CMYK to RGB.
        values: Tensor of any shape, copied to the CPU.
        reasoning: Text that the model wrote before a picture.
        problems: What could not be read in the reasoning, one line each.

    Raises:
        WiringError: There is not exactly one of text, picture and values, or it has another type, a picture has no
            pixels or numbers in the place of colours, or values are complex.
    """

    text: str | None = None
    ids: list[int] | None = None
    picture: Image | None = None
    values: Tensor | None = None
    reasoning: str | None = None
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        found = self._kinds()
        if len(found) != 1:
            raise WiringError(f"an answer is a text, a picture or values, got {' and '.join(found) or 'none of them'}")
        if not isinstance(self.text, str | None):
            raise WiringError(f"the text of an answer is a str, got {_named(self.text)}")
        if self.ids is not None and not all(isinstance(number, int) for number in _listed(self.ids)):
            raise WiringError("the ids of an answer are a list of int: use tolist() of a tensor")
        if self.picture is not None:
            object.__setattr__(self, "picture", _for_png(self.picture))
        if self.values is not None:
            object.__setattr__(self, "values", _on_cpu(self.values))

    @property
    def kind(self) -> AnswerKind:
        """What the answer is."""
        return self._kinds()[0]

    def notes(self) -> dict[str, Any]:
        """Returns what a row about the answer has beside it: the reasoning, and what could not be read in it."""
        return {} if self.reasoning is None else {"reasoning": self.reasoning, "problems": list(self.problems)}

    def shown(self) -> Any:
        """Returns the answer as a JSON value: a text, or values as nested lists; None for a picture.

        Raises:
            NonFiniteError: A value is NaN or infinite, which JSON does not have.
            WiringError: A text has not been decoded.
        """
        if self.values is not None:
            if self.values.is_floating_point() and not bool(self.values.isfinite().all()):
                count = int((~self.values.isfinite()).sum())
                raise NonFiniteError(f"{count} of {self.values.numel()} values of an answer are NaN or infinite")
            return self.values.tolist()
        if self.text is None and self.ids is not None:
            raise WiringError("an answer has token ids and no text: give the sampler's context a tokenizer")
        return self.text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Answer):
            return NotImplemented
        if self.values is not None and other.values is not None:
            return self.values.dtype == other.values.dtype and torch.equal(self.values, other.values)
        mine, its = ((a.text, a.ids, a.picture, a.values, a.reasoning, a.problems) for a in (self, other))
        return mine == its

    def _kinds(self) -> list[AnswerKind]:
        kinds: list[AnswerKind] = []
        if self.text is not None or self.ids is not None:
            kinds.append("text")
        if self.picture is not None:
            kinds.append("picture")
        if self.values is not None:
            kinds.append("values")
        return kinds


class Sampler(Component):
    """Base class of samplers, which answer each segment of a pack of prompts.

    Attributes:
        answers: What the sampler answers with. A command that cannot show it says so before it computes anything.
    """

    answers: ClassVar[AnswerKind] = "text"

    @abstractmethod
    def forward(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """Answers each segment.

        Args:
            model: Model in evaluation mode, without gradients.
            prompts: Pack with one prompt per segment; it must not be changed.
            context: Tokenizer, stop tokens and random generator.

        Returns:
            One answer per segment, each of the kind that `answers` declares.
        """

    def answer_length(self, model: MultimodalModel) -> int:
        """Returns the largest number of tokens that an answer adds to its prompt: `max_new_tokens`, if there is one."""
        return int(getattr(self, "max_new_tokens", 0))

    def fields(self, model: MultimodalModel, images: Sequence[Sequence[Image]]) -> dict[str, Extra]:
        """Returns fields that a pack of prompts has for the sampler, beside tokens and tiles; none by default.

        Prompts of data have those of their record kind instead.

        Args:
            model: Model that answers.
            images: Images of each prompt, as they were given.
        """
        return {}

    def answer(self, model: MultimodalModel, prompts: PackedBatch, context: Context) -> list[Answer]:
        """Calls the sampler and checks its answers.

        Raises:
            WiringError: The sampler has other arguments than the base class or declares an unknown kind of answers, or
                its answers differ from their declaration in number or kind, or have token ids only.
        """
        name = type(self).__name__
        check_declared(self)
        answers = self(model, prompts, context)
        for found in answers if isinstance(answers, list | tuple) else [answers]:
            if not isinstance(found, Answer):
                raise WiringError(f"the sampler {name} returned {_named(found)} in place of an Answer: {_CONTRACT}")
        if len(answers) != prompts.num_segments:
            raise WiringError(
                f"the sampler {name} returned {_counted(len(answers), 'answer')} to"
                f" {_counted(prompts.num_segments, 'prompt')}: it must return one for each segment"
            )
        other = next((found.kind for found in answers if found.kind != self.answers), None)
        if other is not None:
            raise WiringError(
                f"the sampler {name} answers with {self.answers}, as its `answers` says, and returned {other}"
            )
        if context.tokenizer is not None and any(found.kind == "text" and found.text is None for found in answers):
            raise WiringError(
                f"the sampler {name} returned token ids without their text: decode them with context.tokenizer"
            )
        return list(answers)


@runtime_checkable
class TokenSampler(Protocol):
    """Protocol of samplers that answer with text token by token, as streaming, conversations and rollouts need.

    Attributes:
        max_new_tokens: Maximum number of tokens of an answer.
    """

    max_new_tokens: int

    def steps(
        self,
        model: MultimodalModel,
        prompts: PackedBatch,
        stop_ids: Collection[int],
        generator: torch.Generator | None = None,
        past: Past | None = None,
        ended: Callable[[int], bool] | None = None,
        draws: Draws | None = None,
        repeats: Sequence[int] | None = None,
    ) -> Generator[dict[int, int], None, None]:
        """Decodes step by step, see `Autoregressive.steps`."""
        ...


def decodes_tokens(sampler: object) -> TypeGuard[TokenSampler]:
    """Returns whether a sampler answers with text token by token."""
    return isinstance(sampler, Sampler) and sampler.answers == "text" and isinstance(sampler, TokenSampler)


def check_tokens(sampler: Sampler, use: str) -> TokenSampler:
    """Returns a sampler that answers with text token by token.

    Args:
        sampler: Sampler of a recipe or an argument.
        use: What needs it, for the message, such as "a conversation".

    Raises:
        WiringError: It answers with something else, or with complete texts only.
    """
    if decodes_tokens(sampler):
        return sampler
    name = type(sampler).__name__
    what = f"answers with {sampler.answers}" if sampler.answers != "text" else "has no steps: its texts come complete"
    raise WiringError(f"{use} needs a sampler that answers with text token by token, and {name} {what}")


def check_declared(sampler: Sampler) -> None:
    """Checks the arguments of a sampler and that it declares a kind of answers that exists.

    Raises:
        WiringError: It has other arguments than the base class, or there is no such kind.
    """
    kinds = get_args(AnswerKind)
    if sampler.answers not in kinds:
        raise WiringError(
            f"the sampler {type(sampler).__name__} declares answers = {sampler.answers!r}: the kinds of answers are"
            f" {', '.join(kinds)}"
        )
    _check_arguments(type(sampler).__name__, sampler.forward)


def _listed(ids: object) -> Sequence[object]:
    return ids if isinstance(ids, list | tuple) else [None]


def _for_png(picture: object) -> Image:
    """Returns a picture in a mode that PNG files have."""
    if not isinstance(picture, Image):
        raise WiringError(f"the picture of an answer is a PIL image, got {_named(picture)}: use PIL.Image.fromarray")
    if not picture.width or not picture.height:
        raise WiringError(f"the picture of an answer has {picture.width} x {picture.height} pixels: it needs some")
    mode = _MODES.get(picture.mode)
    if mode is None:
        raise WiringError(
            f"the picture of an answer has the mode {picture.mode}: convert it to RGB or L, or answer with values"
        )
    return picture if mode == picture.mode else picture.convert(mode)


def _on_cpu(values: object) -> Tensor:
    if not isinstance(values, Tensor):
        raise WiringError(f"the values of an answer are a tensor, got {_named(values)}: use torch.as_tensor")
    if values.is_complex():
        raise WiringError("the values of an answer are complex, which JSON does not have: use torch.view_as_real")
    return values.detach().cpu()


def _check_arguments(name: str, forward: Callable[..., Any]) -> None:
    signature = inspect.signature(forward)
    if "stop_ids" in signature.parameters:
        raise WiringError(f"the sampler {name} takes stop_ids; they are in `context.stop_ids`: {_CONTRACT}")
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise WiringError(f"the sampler {name} takes ({', '.join(signature.parameters)}): {_CONTRACT}") from None


def _named(value: object) -> str:
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _counted(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
