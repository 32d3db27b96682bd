"""Base class of record kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmcomponents.data.chat.kinds.segment_check import check_segments, type_of
from mmcomponents.data.chat.rendered_sample import Prompt, RenderedSample
from mmcomponents.data.errors import DataError, SampleError
from mmcomponents.data.media.images import TiledImage
from mmcomponents.draws import keyed
from mmcomponents.extras import Extra

if TYPE_CHECKING:
    from mmcomponents.data.chat.sample_renderer import SampleRenderer


_MOST_TURNS = 2**31 - 1


@dataclass(frozen=True)
class Sample:
    """A sample that was read from a shard, with its images prepared for the encoder.

    Attributes:
        record: Its JSON.
        images: Its images, in their order.
        videos: Frames of each video.
        members: Content of each further member, by suffix, see `RecordKind.members`.
        number: Number of the sample in the run; -1 while it is measured.
        name: Shard and key, for messages.
        key: Seed, epoch, number and number of earlier occurrences in the epoch, for `generator`; zeros while it is
            measured, and for prompts those of the first epoch with the seed 0.
        is_training: Whether the sample is read for training, where a kind may augment it.
        files: Content of the file of each image.
    """

    record: Mapping[str, Any]
    images: Sequence[TiledImage] = ()
    videos: Sequence[Sequence[TiledImage]] = ()
    members: Mapping[str, bytes] = field(default_factory=dict)
    number: int = -1
    name: str = ""
    key: tuple[int, int, int, int] = (0, 0, 0, 0)
    is_training: bool = False
    files: Sequence[bytes] = ()

    def generator(self, *words: object) -> np.random.Generator:
        """Returns a random generator for draws that do not change the number of tokens, such as an augmentation.

        Args:
            words: Name of the draw, and anything else that it depends on.
        """
        return keyed(*self.key, *words)

    @property
    def pictures(self) -> list[TiledImage]:
        """The images, followed by all frames."""
        return [*self.images, *(frame for video in self.videos for frame in video)]


@dataclass(frozen=True)
class Measured:
    """Size of a sample, without what the settings of a run determine.

    Attributes:
        text_tokens: Number of tokens of all segments, without visual tokens of stored images, with one frame for each
            video, and without the run's system text.
        segments: Number of segments.
        uses: Number of times that the visual tokens of all images occur in the segments.
        own_tiles: Number of tiles of images that the kind makes itself.
        turns: Number of questions, see `RecordKind.turns`.
        own_system: Whether the run's system text is not prepended.
    """

    text_tokens: int
    segments: int
    uses: int
    own_tiles: int
    turns: int
    own_system: bool


class RecordKind(ABC):
    """A kind of samples: which records belong to it, and how they become segments of a pack.

    A kind is a function of its arguments and a sample only: the length of a sample in the index is that of the segments
    that `render` returns for images without tiles. A package provides a kind as a subclass, which a run names in
    `data.kinds`.

    Attributes:
        name: Name in messages; default: that of the class.
        members: Suffixes of the members that each sample has besides its JSON, images and videos, such as
            "actions.npy" for `KEY.actions.npy`.
        files: Arguments of the constructor that are paths of files, which an export copies if the kind has `typed`.
    """

    name: ClassVar[str] = ""
    members: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def matches(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this kind, by its keys. Exactly one of a run's kinds must match a record."""

    @abstractmethod
    def render(self, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
        """Renders a sample as one or several segments of the same pack.

        Each stored image is placed in every segment, or in none. An image that the kind makes itself has
        `visual_tokens` if it is placed, since the index holds the length of the sample. A video is placed as
        `place_media` does, with the text of its frames, which is part of the planned length. While a sample is measured
        its images have no tiles, and `renderer` has no system text.

        Args:
            sample: Sample with its media decoded.
            renderer: Renders conversations and documents with the settings of the run.

        Raises:
            SampleError: The sample cannot be used.
        """

    def check(self, record: Mapping[str, Any]) -> None:
        """Checks a record that matches. The default accepts all.

        Raises:
            SampleError: The record is malformed.
        """
        return

    def empty(self) -> dict[str, Extra]:
        """Returns each field that `render` adds, without items, for packs that have no sample of this kind."""
        return {}

    def turns(self, record: Mapping[str, Any]) -> int:
        """Returns the number of questions of a record that `prompts` returns; none by default."""
        return 0

    def prompts(self, sample: Sample, renderer: SampleRenderer) -> list[Prompt]:
        """Returns the questions of a sample, for `test` and `predict`.

        Raises:
            SampleError: The sample cannot be used.
        """
        raise SampleError(f"a sample of the kind {kind_name(self)} has no questions")

    def typed(self, text: str, images: Sequence[TiledImage], renderer: SampleRenderer) -> RenderedSample | None:
        """Renders a text that a user gives with images, as a prompt of this kind. Default: None, as a conversation.

        Args:
            text: The text, which may have a placeholder for each image.
            images: Tiled images, in the order of their placeholders.
            renderer: Renderer of the run.

        Raises:
            SampleError: Text or images cannot be used.
        """
        return None

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Compares the parts of a recipe with what only this kind knows of the data. The default does nothing.

        Args:
            parts: Parts of the model, objective and sampler by name, which may be on the meta device. They may be those
                of another package, so that attributes are read with `getattr(part, name, None)`.

        Raises:
            ValueError: They do not fit; the message has both.
        """
        return

    def takes_system(self, sample: Sample, renderer: SampleRenderer) -> bool:
        """Whether the run's system text becomes part of the segments. The default renders the sample with and without.

        Args:
            sample: The sample, without tiles.
            renderer: Renderer without a system text.

        Raises:
            SampleError: It becomes part of some segments only.
        """
        plain, other = (self.render(sample, replace(renderer, system=system)) for system in (None, "system"))
        longer = {len(one.input_ids) != len(more.input_ids) for one, more in zip(plain, other, strict=True)}
        if len(longer) > 1:
            raise SampleError(
                f"the kind {kind_name(self)} puts the run's system text into some segments of the sample only: it must"
                " be in all or in none"
            )
        return True in longer

    def measure(self, sample: Sample, renderer: SampleRenderer) -> Measured:
        """Measures a sample for the index, by rendering it.

        Args:
            sample: The sample, whose images have no tiles and whose videos have one frame.
            renderer: Renderer without a system text.

        Raises:
            SampleError: The sample cannot be used, an image is placed more often than another, or one that the kind
                makes itself has no number of visual tokens.
        """
        segments = render(self, sample, renderer)
        tokens = sum(len(segment.input_ids) for segment in segments)
        stored = {id(picture) for picture in sample.pictures}
        own = {id(image): image for segment in segments for image in segment.images if id(image) not in stored}
        placed = {id(segment.images[span.image]) for segment in segments for span in segment.spans if span.image >= 0}
        if any(image.visual_tokens is None for image in own.values() if id(image) in placed):
            raise SampleError(
                f"the kind {kind_name(self)} places an image of its own without visual_tokens, their number, which the"
                " length of the sample in the index includes"
            )
        takes_system = self.takes_system(sample, renderer)
        uses = _uses(self, sample, segments)
        tiles = sum(image.num_tiles for image in own.values())
        turns = self.turns(sample.record)
        if not isinstance(turns, int) or not 0 <= turns <= _MOST_TURNS:
            raise SampleError(f"the kind {kind_name(self)} counts {turns!r:.40} questions")
        return Measured(tokens, len(segments), uses, tiles, turns, not takes_system)


def render(kind: RecordKind, sample: Sample, renderer: SampleRenderer) -> list[RenderedSample]:
    """Renders a sample by its kind, which may be that of another package.

    Raises:
        SampleError: The sample cannot be used, or the kind fails.
    """
    with as_sample_error(kind, "render"):
        segments = kind.render(sample, renderer)
    if not isinstance(segments, list) or not all(isinstance(segment, RenderedSample) for segment in segments):
        raise SampleError(
            f"render of the kind {kind_name(kind)} must return a list of RenderedSample, not {type_of(segments)}"
        )
    if not segments:
        raise SampleError(f"the kind {kind_name(kind)} renders the sample to no segment")
    if not is_built_in(kind):
        with as_sample_error(kind, "render"):
            check_segments(segments, kind.empty, len(renderer.tokenizer))
    return segments


def ask(kind: RecordKind, sample: Sample, renderer: SampleRenderer, count: int) -> list[Prompt]:
    """Returns the first questions of a sample by its kind, which may be that of another package.

    Args:
        kind: Kind of the sample.
        sample: Sample with its media decoded.
        renderer: Renderer of the run.
        count: Number of questions, at most `RecordKind.turns`.

    Raises:
        SampleError: The sample cannot be used, or the kind fails.
    """
    with as_sample_error(kind, "ask about"):
        prompts = kind.prompts(sample, renderer)
        if not isinstance(prompts, list) or not all(isinstance(prompt, Prompt) for prompt in prompts):
            raise SampleError(
                f"prompts of the kind {kind_name(kind)} must return a list of Prompt, not {type_of(prompts)}"
            )
        prompts = prompts[:count]
        if len(prompts) < count:
            raise SampleError(f"the kind {kind_name(kind)} counts {count} questions and returns {len(prompts)}")
        if not is_built_in(kind):
            check_segments([prompt.segment for prompt in prompts], kind.empty, len(renderer.tokenizer))
    return prompts


@contextmanager
def as_sample_error(kind: RecordKind, task: str) -> Iterator[None]:
    """Turns an unexpected error in a kind of another package into a skipped sample.

    Args:
        kind: Kind that runs inside the block.
        task: What it does with the sample, such as "render".

    Raises:
        SampleError: The kind fails.
    """
    try:
        yield
    except (SampleError, DataError, MemoryError):
        raise
    except Exception as error:
        if is_built_in(kind):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SampleError(f"the kind {kind_name(kind)} cannot {task} the sample: {reason}") from error


def is_built_in(kind: RecordKind) -> bool:
    """Whether a kind is one of this library."""
    return type(kind).__module__.partition(".")[0] == __name__.partition(".")[0]


def kind_name(kind: RecordKind) -> str:
    """Returns the name of a kind in messages."""
    return kind.name or type(kind).__name__


def _uses(kind: RecordKind, sample: Sample, segments: Sequence[RenderedSample]) -> int:
    """Returns how often each stored image and frame is placed in the segments."""
    if not sample.pictures:
        return len(segments)
    counts = {id(picture): 0 for picture in sample.pictures}
    for segment in segments:
        for span in segment.spans:
            if span.image >= 0 and id(segment.images[span.image]) in counts:
                counts[id(segment.images[span.image])] += 1
    if len(different := sorted(set(counts.values()))) > 1:
        raise SampleError(
            f"the kind {kind_name(kind)} places some images of the sample {different[0]} times and others"
            f" {different[-1]} times: all must be placed equally often"
        )
    return different[0]
