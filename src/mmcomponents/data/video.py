r"""Frames of a video, as images.

A video in a prompt is a list of frames, and each frame an image of its own (under V2PE, too) that becomes one tile:

    frames = read_video("cooking.mp4", MiddleFrames(16))
    messages = [{"role": "user", "content": "<video>\nWhat is cooked here?"}]
    batch = prompt_batch([messages], None, renderer, videos=[[frames]])

What generation needs is `load_image` for each image, `read_video` for each video, and `prompt_batch(conversations,
images, renderer, videos)`, which places `<image>` and `<video>` and cuts the tiles. One conversation alone goes through
`SampleRenderer.place(messages, images, videos)`, which returns messages that hold nothing but `<image>` and the tiled
images in their order. `frame_prompt` and `place_video` (data/placeholders.py) are the text side of it.

Frames are counted in the order in which they are shown. In containers that say when each packet is shown and where one
can start to decode, only what lies between such a place and a frame is decoded; whatever does not fit what the
container said is decoded from the beginning.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from mmcomponents.data.errors import SampleError
from mmcomponents.data.frames import FrameSampling
from mmcomponents.data.images import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_CHOSEN_PIXELS = 2_000_000_000
"""Pixels of all frames that are kept, together; more would take over six gigabytes."""

CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,m4v"
"""What is read. Formats that name other files or hosts (playlists, session descriptions) are not among them."""

_INDEXED = ("mp4", "matroska")
_HIDDEN_FRAMES = ("vp8",)  # has packets that are never shown
_WORTH_A_SEEK = 8  # fewer frames are decoded rather than jumped over
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}


class VideoError(SampleError):
    """A video that is broken, truncated, too large, or without the frames that are wanted."""


@dataclass(frozen=True)
class _Timeline:
    """The frames of a video as they are shown.

    Attributes:
        seconds: Of each frame, from the first one on; ascending.
        fps: Frames a second that the file tells, 0 where it does not.
        pts: Of each frame, in units of the stream; empty: only decoding in order tells which frame is which.
        keys: Numbers of the frames at which decoding can start.
    """

    seconds: list[float]
    fps: float
    pts: list[int]
    keys: list[int]


def read_video(
    source: str | Path | bytes,
    sampling: FrameSampling,
    clip: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[Image.Image]:
    """Reads the chosen frames of a video as RGB images, turned as the video says.

    Pixels that are not square stay as they are stored: a tile is stretched anyway. A frame chosen twice is one object.

    Args:
        source: Path or bytes of a file.
        sampling: Which frames.
        clip: Begin and end in seconds from the first frame on; the frames in between are the video. None: all of it.
        max_pixels: Width times height above which a video is refused before it is decoded.

    Raises:
        VideoError: The file is missing, broken, truncated or too large, has no video, or none of its frames is chosen.
    """
    timeline = _timeline(source, max_pixels)
    first, total = _clip(timeline, clip)
    fps = _rate(timeline, first, total)
    try:
        chosen = [first + index for index in sampling.indices(total, fps)]
    except ValueError as error:  # too many for one video
        raise VideoError(str(error)) from error
    if not chosen:
        raise VideoError(f"{sampling} chooses none of {total} frames at {fps:.6g} a second")
    wanted = sorted(set(chosen))
    images = _by_time(source, timeline, wanted, max_pixels) if timeline.pts else None
    if images is None:
        images = _in_order(source, wanted, max_pixels)
    if len(images) < len(wanted):
        raise VideoError(f"broken video: of {len(wanted)} frames that are wanted {len(images)} can be decoded")
    return [images[number] for number in chosen]


def video_length(
    source: str | Path | bytes, clip: tuple[float, float] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[int, float]:
    """Frames of a video, and frames a second: what `FrameSampling.indices` is asked with.

    Args:
        source: Path or bytes of a file.
        clip: See `read_video`.
        max_pixels: See `read_video`.

    Raises:
        VideoError: As `read_video`.
    """
    timeline = _timeline(source, max_pixels)
    first, total = _clip(timeline, clip)
    return total, _rate(timeline, first, total)


def _file(source: str | Path | bytes) -> IO[bytes]:
    # ffmpeg never sees a name: it would take one like https://… or concat:… for an order to open that
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise VideoError(f"there is no video file {source!s}") from None
    except OSError as error:
        raise VideoError(f"the video file {source!s} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(source: str | Path | bytes, max_pixels: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video and its first video stream; all that goes wrong inside becomes a `VideoError`."""
    import av

    limits = {"max_pixels": str(max_pixels)}
    known = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        with (
            _file(source) as file,
            av.open(file, "r", options=limits, container_options=known, metadata_errors="replace") as container,
        ):
            if not container.streams.video:
                raise VideoError("the file has no video stream, or is truncated before it tells of one")
            stream = container.streams.video[0]
            if stream.codec_context is None:  # PyAV's types do not tell
                raise VideoError("broken video, or one of a kind that this build of PyAV cannot decode")
            _check_size(stream.codec_context.width, stream.codec_context.height, max_pixels)
            stream.codec_context.options = limits
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"broken video, or none at all: {error.strerror}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise VideoError(f"video too large: {width}x{height} is more than {max_pixels} pixels")


def _timeline(source: str | Path | bytes, max_pixels: int) -> _Timeline:
    with _opened(source, max_pixels) as (container, stream):
        fps = float(stream.average_rate or 0)
        if any(name in container.format.name for name in _INDEXED):
            packets = [packet for packet in _packets(container, stream) if packet.size]
            _check_whole(container, stream, packets)
            timeline = _of_packets(stream, packets, fps)
            if timeline is not None:
                return timeline
    with _opened(source, max_pixels) as (container, stream):
        times = [frame.time for frame in _decoded(container, stream)]
    if not times:
        raise VideoError("the video has no frames")
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(a >= b for a, b in pairwise(known)):
        known = [number / (fps or 25.0) for number in range(len(times))]
    return _Timeline([time - known[0] for time in known], fps, [], [])


def _check_whole(container: InputContainer, stream: VideoStream, packets: Sequence[Any]) -> None:
    """Refuses a file that holds less than its header tells."""
    if "mp4" in container.format.name and len(packets) < stream.frames:
        raise VideoError(f"truncated video: {len(packets)} of {stream.frames} frames are there")
    times = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
    length = (container.duration or 0) / 1_000_000
    if times and len(container.streams) == 1 and max(times) - min(times) + 1 < length * 0.9:
        raise VideoError(f"truncated video: {max(times) - min(times):.3f} of {length:.3f} seconds are there")


def _of_packets(stream: VideoStream, packets: Sequence[Any], fps: float) -> _Timeline | None:
    """The timeline that the container tells; None where it does not, or where decoding may give other frames."""
    shown = [packet for packet in packets if not packet.is_discard]
    pts = sorted(packet.pts for packet in shown if packet.pts is not None)
    if (
        not pts
        or len(set(pts)) < len(shown)
        or packets[0].pts is None
        or not packets[0].is_keyframe
        or (not packets[0].is_discard and pts[0] < packets[0].pts)  # shown before where decoding starts
        or stream.codec_context.name in _HIDDEN_FRAMES
        or any(packet.is_corrupt for packet in packets)
    ):
        return None
    starts = {packet.pts for packet in shown if packet.is_keyframe}
    unit = float(stream.time_base or 1)
    keys = [number for number, time in enumerate(pts) if time in starts]
    return _Timeline([(time - pts[0]) * unit for time in pts], fps, pts, keys)


def _clip(timeline: _Timeline, clip: tuple[float, float] | None) -> tuple[int, int]:
    """Number of the first frame of a clip, and how many there are."""
    seconds = timeline.seconds
    if clip is None:
        return 0, len(seconds)
    start, end = clip
    inside = [number for number, time in enumerate(seconds) if start <= time < end]
    if not 0 <= start < end or not inside:
        raise VideoError(
            f"no frame lies between {start} s and {end} s: the last of {len(seconds)} frames is at {seconds[-1]:.3f} s"
        )
    return inside[0], len(inside)


def _rate(timeline: _Timeline, first: int, total: int) -> float:
    """Frames a second: what the file says, unless the frames themselves, of varying length perhaps, say otherwise."""
    length = timeline.seconds[first + total - 1] - timeline.seconds[first]
    if total < 2 or length <= 0:
        return timeline.fps or 25.0
    measured = (total - 1) / length
    return timeline.fps if abs(timeline.fps - measured) < 0.01 * measured else measured


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Frames from where the container stands."""
    for packet in _packets(container, stream):
        yield from packet.decode()


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        yield from container.demux(stream)
    except IndexError as error:  # PyAV knows only the streams of the header
        raise VideoError("broken video: a stream begins that the header does not tell of") from error


def _by_time(
    source: str | Path | bytes, timeline: _Timeline, wanted: Sequence[int], max_pixels: int
) -> dict[int, Image.Image] | None:
    """Decodes the wanted frames, jumping ahead where that is worth it; None where frames come unlike the timeline."""
    images: dict[int, Image.Image] = {}
    with _opened(source, max_pixels) as (container, stream):
        frames, position = _decoded(container, stream), 0  # the number of the frame that comes next
        for number in wanted:
            key = timeline.keys[bisect_right(timeline.keys, number) - 1] if timeline.keys else 0
            if key - position > _WORTH_A_SEEK:
                container.seek(timeline.pts[key], stream=stream)
                frames, position = _decoded(container, stream), key
            while position <= number:
                frame = next(frames, None)
                if frame is None or frame.pts is None:
                    return None
                if frame.pts < timeline.pts[position]:  # after a jump: of the group before
                    continue
                if frame.pts != timeline.pts[position]:
                    return None
                if position == number:
                    images[number] = _image(frame, number, len(wanted), max_pixels)
                position += 1
    return images


def _in_order(source: str | Path | bytes, wanted: Sequence[int], max_pixels: int) -> dict[int, Image.Image]:
    """Decodes from the beginning to the last wanted frame."""
    images: dict[int, Image.Image] = {}
    keep = set(wanted)
    with _opened(source, max_pixels) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream)):
            if number in keep:
                images[number] = _image(frame, number, len(wanted), max_pixels)
            if number == wanted[-1]:
                break
    return images


def _image(frame: VideoFrame, number: int, count: int, max_pixels: int) -> Image.Image:
    _check_size(frame.width, frame.height, max_pixels)
    if frame.width * frame.height * count > MAX_CHOSEN_PIXELS:
        raise VideoError(
            f"{count} frames of {frame.width}x{frame.height} are more than {MAX_CHOSEN_PIXELS} pixels: choose fewer"
        )
    if frame.is_corrupt:
        raise VideoError(f"broken video: frame {number} is damaged")
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    turn = _TURNS.get(round(frame.rotation))
    return image if turn is None else image.transpose(turn)
