r"""Decoding of video frames as images.

A video in a prompt is a list of frames. Each frame is a separate image (also for V2PE) and becomes one tile:

    frames = read_video("cooking.mp4", MiddleFrames(16))
    messages = [{"role": "user", "content": "<video>\nWhat is cooked here?"}]
    batch = prompt_batch([messages], None, renderer, videos=[[frames]])

Generation needs `load_image` for each image, `read_video` for each video, and `prompt_batch(conversations, images,
renderer, videos)`, which places `<image>` and `<video>` and tiles the images. For a single conversation,
`SampleRenderer.place(messages, images, videos)` returns messages with `<image>` placeholders only and the tiled images
in their order. `frame_prompt` and `place_video` (`mmcomponents.data.chat.placeholders`) expand the texts.

Frames are numbered in presentation order. If the container has timestamps and keyframes for its packets, decoding
starts at the keyframe before a frame; if the decoded frames do not match them, it restarts from the beginning.
"""

from __future__ import annotations

import errno
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
from mmcomponents.data.media.frames import FrameSampling
from mmcomponents.data.storage.regular_file import open_regular

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_FRAME_PIXELS = 36_000_000
"""Maximum number of pixels of a frame: 8192x4320. A decoder keeps up to sixteen frames."""
MAX_CHOSEN_PIXELS = 1_200_000_000
"""Maximum total number of pixels of all chosen frames, which take three bytes each: 128 frames of 3840x2160."""
MAX_FRAMES = 1_000_000
"""Maximum number of frames: nine hours at 30 per second."""
MAX_FPS = 1e6
"""Maximum number of frames per second, which the index of a shard repeats."""
MAX_GIF_PIXELS = 250_000_000
"""Maximum number of pixels of all frames of a GIF. All have to be decoded, and a few bytes may be a large frame."""

CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,ivf,h264,hevc,m4v"
"""Supported formats, without those that refer to other files or hosts (playlists, session descriptions)."""

_INDEXED = ("mp4", "matroska")
_HIDDEN_FRAMES = ("vp8",)  # has packets that are never shown
_WORTH_A_SEEK = 8  # fewer frames are decoded instead of skipped by a seek
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
}


class VideoError(SampleError):
    """A video is broken, truncated, too large, or lacks the requested frames."""


@dataclass(frozen=True)
class _Timeline:
    """Frames of a video in presentation order.

    Attributes:
        seconds: Ascending times of the frames, relative to the first.
        fps: Frames per second given in the file, or 0.
        pts: Timestamps of the frames in units of the stream; empty if frames can only be identified by decoding in
            order.
        keys: Numbers of the frames at which decoding can start.
        end: Time in seconds at which the last frame ends.
    """

    seconds: list[float]
    fps: float
    pts: list[int]
    keys: list[int]
    end: float = 0.0


def read_video(
    source: str | Path | bytes,
    sampling: FrameSampling,
    clip: tuple[float, float] | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> list[Image.Image]:
    """Reads the chosen frames of a video as RGB images, rotated as set in the video.

    Non-square pixels are kept as stored, since tiles are resized anyway. A frame chosen twice is the same object.

    Args:
        source: Path or bytes of a file.
        sampling: Choice of frames.
        clip: Start and end in seconds from the first frame, to which the video is restricted; None: complete video.
        max_pixels: Maximum width times height, checked before decoding.

    Raises:
        VideoError: The file is missing, broken, truncated or too large, has no video, or none of its frames is chosen.
    """
    timeline = _timeline(source, max_pixels)
    first, total = _clip(timeline, clip)
    fps = _rate(timeline, first, total)
    try:
        chosen = [first + index for index in sampling.indices(total, fps)]
    except ValueError as error:  # too many frames
        raise VideoError(str(error)) from error
    if not chosen:
        raise VideoError(f"{sampling} chooses none of {total} frames at {fps:.6g} per second")
    wanted = sorted(set(chosen))
    images = _by_time(source, timeline, wanted, max_pixels) if timeline.pts else None
    if images is None:
        images = _in_order(source, wanted, max_pixels)
    if len(images) < len(wanted):
        raise VideoError(f"broken video: {len(images)} of {len(wanted)} requested frames can be decoded")
    return [images[number] for number in chosen]


def video_length(
    source: str | Path | bytes, clip: tuple[float, float] | None = None, max_pixels: int = MAX_FRAME_PIXELS
) -> tuple[int, float]:
    """Returns the number of frames of a video and the frames per second, the arguments of `FrameSampling.indices`.

    Args:
        source: Path or bytes of a file.
        clip: See `read_video`.
        max_pixels: See `read_video`.

    Raises:
        VideoError: See `read_video`.
    """
    timeline = _timeline(source, max_pixels)
    first, total = _clip(timeline, clip)
    return total, _rate(timeline, first, total)


def _file(source: str | Path | bytes) -> IO[bytes]:
    # ffmpeg does not receive file names: it would interpret https://… or concat:… as URLs
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return open_regular(source)
    except FileNotFoundError:
        raise VideoError(f"there is no video file {source!s}") from None
    except OSError as error:
        raise VideoError(f"the video file {source!s} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(source: str | Path | bytes, max_pixels: int) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a video and its first video stream; converts FFmpeg errors inside the context to `VideoError`."""
    import av

    limits = {"max_pixels": str(max_pixels)}
    known = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
    try:
        with (
            _file(source) as file,
            av.open(file, "r", options=limits, container_options=known, metadata_errors="replace") as container,
        ):
            if not container.streams.video:
                raise VideoError("the file has no video stream, or is truncated before its description")
            stream = container.streams.video[0]
            if stream.codec_context is None:  # missing in PyAV's types
                raise VideoError("broken video, or a codec that this build of PyAV cannot decode")
            _check_size(stream.codec_context.width, stream.codec_context.height, max_pixels)
            stream.codec_context.options = limits
            yield container, stream
    except av.FFmpegError as error:
        # FFmpeg reports a frame above the limit as any other wrong value.
        size = f" (frames may have {max_pixels} pixels)" if error.errno == errno.EINVAL else ""
        raise VideoError(f"broken video, or not a video: {error.strerror}{size}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise VideoError(f"video too large: {width}x{height} is more than {max_pixels} pixels")


def _check_chosen(width: int, height: int, count: int) -> None:
    if width * height * count > MAX_CHOSEN_PIXELS:
        raise VideoError(f"{count} frames of {width}x{height} are more than {MAX_CHOSEN_PIXELS} pixels: choose fewer")


def _timeline(source: str | Path | bytes, max_pixels: int) -> _Timeline:
    with _opened(source, max_pixels) as (container, stream):
        fps = float(stream.average_rate or 0)
        if any(name in container.format.name for name in _INDEXED):
            packets = [packet for packet in _packets(container, stream) if packet.size]
            _check_whole(container, stream, packets)
            timeline = _of_packets(stream, packets, fps)
            if timeline is not None:
                return timeline
        elif container.format.name == "gif":
            _check_gif(stream, sum(1 for packet in _packets(container, stream) if packet.size))
    with _opened(source, max_pixels) as (container, stream):
        frames = [(frame.time, frame.duration) for frame in _decoded(container, stream)]
        unit = float(stream.time_base or 0)
    if not frames:
        raise VideoError("the video has no frames")
    known = [time for time, _ in frames if time is not None]
    if len(known) < len(frames) or any(a >= b for a, b in pairwise(known)):
        known = [number / (fps or 25.0) for number in range(len(frames))]
    last = known[-1] - known[0]
    end = last + _shown(known, frames[-1][1], unit, fps)
    return _Timeline([time - known[0] for time in known], fps, [], [], end)


def _shown(times: Sequence[float], duration: int | None, unit: float, fps: float) -> float:
    """Returns for how many seconds the last frame is shown: as the file says, else as long as the one before it."""
    if duration:
        return duration * unit
    return times[-1] - times[-2] if len(times) > 1 else 1 / (fps or 25.0)


def _check_gif(stream: VideoStream, frames: int) -> None:
    width, height = stream.codec_context.width, stream.codec_context.height
    if frames * width * height > MAX_GIF_PIXELS:
        raise VideoError(
            f"GIF too large: {frames} frames of {width}x{height} are more than {MAX_GIF_PIXELS} pixels: make it a video"
        )


def _check_whole(container: InputContainer, stream: VideoStream, packets: Sequence[Any]) -> None:
    """Rejects a file that is shorter than its header declares."""
    if "mp4" in container.format.name and len(packets) < stream.frames:
        raise VideoError(f"truncated video: it has {len(packets)} of {stream.frames} frames")
    length = (container.duration or 0) / 1_000_000
    last = _last(packets)
    if last is None or len(container.streams) > 1 or len(packets) < 2 or not length:
        return  # how long a single frame is shown may be said nowhere but in the header
    times = sorted(float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None)
    found = times[-1] - times[0] + _shown(times, last.duration, float(last.time_base), 0)
    if found + 1 < length * 0.9:
        raise VideoError(f"truncated video: it has {found:.3f} of {length:.3f} seconds")


def _last(packets: Sequence[Any]) -> Any | None:
    """Returns the packet of the frame that is shown last."""
    return max((packet for packet in packets if packet.pts is not None), key=lambda packet: packet.pts, default=None)


def _of_packets(stream: VideoStream, packets: Sequence[Any], fps: float) -> _Timeline | None:
    """Returns the timeline given by the container; None if it is missing or may not match the decoded frames."""
    shown = [packet for packet in packets if not packet.is_discard]
    pts = sorted(packet.pts for packet in shown if packet.pts is not None)
    if (
        not pts
        or len(set(pts)) < len(shown)
        or packets[0].pts is None
        or not packets[0].is_keyframe
        or (not packets[0].is_discard and pts[0] < packets[0].pts)  # shown before the first decoded frame
        or stream.codec_context.name in _HIDDEN_FRAMES
        or any(packet.is_corrupt for packet in packets)
    ):
        return None
    starts = {packet.pts for packet in shown if packet.is_keyframe}
    unit = float(stream.time_base or 1)
    keys = [number for number, time in enumerate(pts) if time in starts]
    seconds, last = [(time - pts[0]) * unit for time in pts], _last(shown)
    end = seconds[-1] + _shown(seconds, last and last.duration, unit, fps)
    return _Timeline(seconds, fps, pts, keys, end)


def _clip(timeline: _Timeline, clip: tuple[float, float] | None) -> tuple[int, int]:
    """Returns the number of the first frame of a clip, and its number of frames.

    A clip between two frames has the one that is shown then.
    """
    seconds = timeline.seconds
    if clip is None:
        return 0, len(seconds)
    start, end = clip
    inside = [number for number, time in enumerate(seconds) if start <= time < end]
    if not inside and 0 <= start < min(end, timeline.end):
        inside = [bisect_right(seconds, start) - 1]
    if not 0 <= start < end or not inside:
        raise VideoError(
            f"no frame between {start} s and {end} s: the last of {len(seconds)} frames is at {seconds[-1]:.3f} s"
        )
    return inside[0], len(inside)


def _rate(timeline: _Timeline, first: int, total: int) -> float:
    """Returns the file's frames per second, or the measured rate if the two differ, as with variable frame rates."""
    length = timeline.seconds[first + total - 1] - timeline.seconds[first]
    if total < 2 or length <= 0:
        return timeline.fps or 25.0
    measured = (total - 1) / length
    if measured > MAX_FPS:
        raise VideoError(f"{total} frames in {length:g} s are more than {MAX_FPS:g} per second")
    return timeline.fps if abs(timeline.fps - measured) < 0.01 * measured else measured


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decodes frames from the current position of the container."""
    for packet in _packets(container, stream):
        yield from packet.decode()


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        for number, packet in enumerate(container.demux(stream)):
            if number > MAX_FRAMES:
                raise VideoError(f"video too long: it has more than {MAX_FRAMES} frames")
            yield packet
    except IndexError as error:  # PyAV only supports the streams of the header
        raise VideoError("broken video: it has a stream that is missing in the header") from error


def _by_time(
    source: str | Path | bytes, timeline: _Timeline, wanted: Sequence[int], max_pixels: int
) -> dict[int, Image.Image] | None:
    """Decodes the requested frames, with seeks where they save time; None if frames do not match the timeline."""
    images: dict[int, Image.Image] = {}
    with _opened(source, max_pixels) as (container, stream):
        _check_chosen(stream.codec_context.width, stream.codec_context.height, len(wanted))
        frames, position = _decoded(container, stream), 0  # position: number of the next frame
        for number in wanted:
            key = timeline.keys[bisect_right(timeline.keys, number) - 1] if timeline.keys else 0
            if key - position > _WORTH_A_SEEK:
                container.seek(timeline.pts[key], stream=stream)
                frames, position = _decoded(container, stream), key
            while position <= number:
                frame = next(frames, None)
                if frame is None or frame.pts is None:
                    return None
                if frame.pts < timeline.pts[position]:  # after a seek: a frame of the previous group
                    continue
                if frame.pts != timeline.pts[position]:
                    return None
                if position == number:
                    images[number] = _image(frame, number, len(wanted), max_pixels)
                position += 1
    return images


def _in_order(source: str | Path | bytes, wanted: Sequence[int], max_pixels: int) -> dict[int, Image.Image]:
    """Decodes from the beginning to the last requested frame."""
    images: dict[int, Image.Image] = {}
    keep = set(wanted)
    with _opened(source, max_pixels) as (container, stream):
        _check_chosen(stream.codec_context.width, stream.codec_context.height, len(wanted))
        for number, frame in enumerate(_decoded(container, stream)):
            if number in keep:
                images[number] = _image(frame, number, len(wanted), max_pixels)
            if number == wanted[-1]:
                break
    return images


def _image(frame: VideoFrame, number: int, count: int, max_pixels: int) -> Image.Image:
    _check_size(frame.width, frame.height, max_pixels)
    _check_chosen(frame.width, frame.height, count)
    if frame.is_corrupt:
        raise VideoError(f"broken video: frame {number} is damaged")
    image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
    turn = _TURNS.get(round(frame.rotation))
    return image if turn is None else image.transpose(turn)
