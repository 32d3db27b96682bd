from __future__ import annotations

import io
import itertools
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from mmcomponents.data.media import video
from mmcomponents.data.media.frames import MiddleFrames
from mmcomponents.data.media.video import VideoError, read_video, video_length

FRAMES = 90
WIDTH, HEIGHT = 64, 48


def numbered(number: int) -> np.ndarray:
    """A picture of eight bars, the bits of a number."""
    bits = [255 * (number >> bit & 1) for bit in range(8)]
    return np.repeat(np.tile(np.repeat(np.array(bits, np.uint8), WIDTH // 8), (HEIGHT, 1))[:, :, None], 3, 2)


def number_of(image: Image.Image) -> int:
    grey = np.asarray(image.convert("L"))
    return sum(int(grey[HEIGHT // 2, bit * 8 + 4] > 128) << bit for bit in range(8))


def encoded(
    codec: str = "libx264",
    container: str = "mp4",
    frames: int = FRAMES,
    gop: int = 30,
    b_frames: int = 3,
    times: list[int] | None = None,
    pixels: str = "yuv420p",
    rotation: int = 0,
    options: dict[str, str] | None = None,
    header_first: Path | None = None,
) -> bytes:
    """A video whose frames tell their numbers.

    `times` are in thirtieths of a second; a `header_first` is written to that file, as ffmpeg has to go back in it.
    """
    file = io.BytesIO()
    target, muxer = (file, {}) if header_first is None else (str(header_first), {"movflags": "faststart"})
    with av.open(target, "w", format=container, options=muxer) as out:
        stream: Any = out.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 30)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return file.getvalue() if header_first is None else header_first.read_bytes()


class These:
    """Chooses what it is told."""

    def __init__(self, *chosen: int) -> None:
        self.chosen = list(chosen)
        self.asked: tuple[int, float] | None = None

    def indices(self, total: int, fps: float) -> list[int]:
        self.asked = total, fps
        return self.chosen


KINDS: dict[str, dict[str, Any]] = {
    "h264 in mp4, B-frames": {},
    "h264 in mp4, one long group": {"gop": 500},
    "h264 in mkv, open groups": {"container": "matroska", "options": {"x264-params": "open-gop=1:keyint=20"}},
    "h264 in mpegts, open groups": {"container": "mpegts", "options": {"x264-params": "open-gop=1:keyint=20"}},
    "h264 in mkv, intra refresh": {"container": "matroska", "options": {"x264-params": "intra-refresh=1:keyint=20"}},
    "h264 without a container": {"container": "h264"},
    "mpeg4 in avi": {"codec": "mpeg4", "container": "avi"},
    "mpeg4 in mp4": {"codec": "mpeg4"},
    "mjpeg in mkv": {"codec": "mjpeg", "container": "matroska", "pixels": "yuvj420p", "b_frames": 0},
    "vp8": {"codec": "libvpx", "container": "webm", "b_frames": 0, "options": {"auto-alt-ref": "1", "cpu-used": "8"}},
    "vp9": {"codec": "libvpx-vp9", "container": "webm", "b_frames": 0, "options": {"cpu-used": "8"}},
    "gif": {"codec": "gif", "container": "gif", "pixels": "rgb8", "b_frames": 0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_frame_k_is_frame_k(kind: str) -> None:
    data = encoded(**KINDS[kind])
    for chosen in ([0], [FRAMES - 1], [44, 45, 46], [3, 29, 30, 31, 59, 60, 75], [7, 7, 7], list(range(FRAMES))):
        choice = These(*chosen)
        images = read_video(data, choice)
        assert [number_of(image) for image in images] == chosen, chosen
        assert choice.asked is not None
        assert choice.asked[0] == FRAMES
        assert choice.asked[1] == pytest.approx(30 if kind != "gif" else 100 / 3, rel=0.25)  # raw streams tell no rate
        assert all(image.mode == "RGB" and image.size == (WIDTH, HEIGHT) for image in images)
    assert images[0] is not images[1]


def test_only_what_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data, decoded = encoded(gop=15), 0
    true = video._decoded

    def counting(*arguments: Any) -> Any:
        nonlocal decoded
        for frame in true(*arguments):
            decoded += 1
            yield frame

    monkeypatch.setattr(video, "_decoded", counting)
    assert [number_of(image) for image in read_video(data, These(1, 46, 88))] == [1, 46, 88]
    assert decoded <= 2 + 2 + 14 + 3
    decoded = 0
    group = encoded(gop=500, options={"x264-params": "scenecut=0"})
    assert [number_of(image) for image in read_video(group, These(1, 40, 60))] == [1, 40, 60]
    assert decoded <= 61 + 3, "frames of one group are decoded once"
    decoded = 0
    read_video(encoded("libvpx", "webm", b_frames=0), These(5))
    assert decoded == FRAMES + 6, "counted once, then decoded to the frame"


def test_what_does_not_come_as_told_is_decoded_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded()
    true = video._of_packets

    def wrong(*arguments: Any) -> Any:
        told = true(*arguments)
        return video._Timeline(told.seconds, told.fps, [time + 1 for time in told.pts], told.keys)

    monkeypatch.setattr(video, "_of_packets", wrong)
    assert [number_of(image) for image in read_video(data, These(2, 50))] == [2, 50]


def test_frames_of_varying_length_are_counted_as_shown() -> None:
    times = list(itertools.accumulate([0, *(1 + number % 4 for number in range(FRAMES - 1))]))
    data = encoded(times=times)
    choice = These(0, 10, 50)
    assert [number_of(image) for image in read_video(data, choice)] == [0, 10, 50]
    assert choice.asked is not None
    assert choice.asked[1] == pytest.approx((FRAMES - 1) / (times[-1] / 30), rel=0.02)
    clip = read_video(data, These(0, 1, 2), clip=(1.0, 2.0))
    first = next(number for number, time in enumerate(times) if time >= 30)
    assert [number_of(image) for image in clip] == [first, first + 1, first + 2]


@pytest.mark.parametrize("container", ["mp4", "mpegts"])
def test_a_clip_is_a_video_of_its_own(container: str) -> None:
    data = encoded(container=container)
    choice = These(0, 29)
    assert [number_of(image) for image in read_video(data, choice, clip=(1.0, 2.0))] == [30, 59]
    assert choice.asked == (30, 30.0)
    assert [number_of(image) for image in read_video(data, MiddleFrames(2), clip=(1.0, 100.0))] == [44, 74]
    for clip in ((3.5, 4.0), (2.0, 1.0), (-1.0, 2.0), (1.0, 1.0)):
        with pytest.raises(VideoError, match=r"no frame between .* the last of 90 frames is at 2\.967 s"):
            read_video(data, MiddleFrames(2), clip=clip)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_video_is_turned_as_it_says(rotation: int) -> None:
    image = read_video(encoded(frames=3, rotation=rotation), These(1))[0]
    assert image.size == ((WIDTH, HEIGHT) if rotation == 180 else (HEIGHT, WIDTH))
    # The bar of bit 0, the only bright one, is at the left before: counter-clockwise it goes to the bottom.
    place = {90: (24, 60), 180: (60, 24), -90: (24, 3)}[rotation]
    grey = np.asarray(image.convert("L"))
    assert grey[place[1], place[0]] > 200
    assert grey.mean() < 60


def test_a_file_and_its_bytes_are_one_video(tmp_path: Path) -> None:
    path = tmp_path / "concat:film.mp4"  # a name that ffmpeg would take for a protocol
    path.write_bytes(encoded(frames=12))
    for source in (path, str(path), path.read_bytes()):
        assert [number_of(image) for image in read_video(source, MiddleFrames(4))] == [1, 4, 7, 10]
    with pytest.raises(VideoError, match=r"there is no video file .*nothing\.mp4"):
        read_video(tmp_path / "nothing.mp4", MiddleFrames(1))
    with pytest.raises(VideoError, match="cannot be read"):
        read_video(tmp_path, MiddleFrames(1))


def test_a_short_video_repeats_its_last_frame() -> None:
    images = read_video(encoded(frames=3), MiddleFrames(5))
    assert [number_of(image) for image in images] == [0, 1, 2, 2, 2]
    assert images[2] is images[4]
    with pytest.raises(VideoError, match=r"These.*chooses none of 3 frames at 30 per second"):
        read_video(encoded(frames=3), These())


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("times", [[0, 300, 600], [0, 60, 90, 4500], [0]])
def test_slow_videos_and_those_of_one_frame_are_whole(container: str, times: list[int]) -> None:
    """Frames are shown for up to minutes, which only the last packet or the header says of the last one."""
    data = encoded(container=container, frames=len(times), times=times, gop=1, b_frames=0)
    assert [number_of(image) for image in read_video(data, These(*range(len(times))))] == [*range(len(times))]


def test_a_clip_between_two_frames_has_the_one_that_is_shown() -> None:
    data = encoded(frames=3, times=[0, 300, 600], gop=1, b_frames=0)
    assert [number_of(image) for image in read_video(data, These(0), clip=(12.0, 14.0))] == [1]
    assert [number_of(image) for image in read_video(data, These(0), clip=(2.0, 9.5))] == [0]
    assert video_length(data, clip=(9.0, 21.0))[0] == 2
    with pytest.raises(VideoError, match="no frame between 40"):
        read_video(data, These(0), clip=(40.0, 41.0))


def test_truncated_videos_are_refused(tmp_path: Path) -> None:
    behind, before = encoded(), encoded(header_first=tmp_path / "film.mp4")
    assert len(read_video(before, MiddleFrames(4))) == 4
    with pytest.raises(VideoError, match=r"no video stream, or is truncated|broken video"):
        read_video(behind[: len(behind) // 2], MiddleFrames(4))
    with pytest.raises(VideoError, match=r"truncated video: it has [0-9]+ of 90 frames|broken video"):
        read_video(before[: len(before) * 3 // 4], MiddleFrames(4))
    matroska = encoded(container="matroska", gop=10)
    with pytest.raises(VideoError, match=r"truncated video: it has .* of 3\.000 seconds|broken video"):
        read_video(matroska[: len(matroska) // 2], MiddleFrames(4))


def test_no_damage_gives_another_error() -> None:
    draw = random.Random(0)
    for kind in ("h264 in mp4, B-frames", "h264 in mkv, open groups", "h264 in mpegts, open groups", "vp9"):
        whole, refused = encoded(**KINDS[kind]), 0
        for _ in range(25):
            data = bytearray(whole)
            for _ in range(draw.choice([1, 5, 50])):
                data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                assert len(read_video(bytes(data), MiddleFrames(4))) == 4
            except VideoError:
                refused += 1
        assert refused


def test_a_stream_that_the_header_lacks_is_refused() -> None:
    class Container:
        """Reads a packet of a stream that PyAV does not know."""

        def demux(self, stream: Any) -> Any:
            yield from ()
            raise IndexError("list index out of range")

    with pytest.raises(VideoError, match="a stream that is missing in the header"):
        list(video._packets(Container(), None))  # type: ignore[arg-type]


def test_what_is_no_video_is_refused() -> None:
    sound = io.BytesIO()
    with av.open(sound, "w", format="matroska") as out:
        stream: Any = out.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
    for data, message in (
        (b"", "broken video, or not a video"),
        (b"hello", "broken video, or not a video"),
        (sound.getvalue(), "no video stream"),
    ):
        with pytest.raises(VideoError, match=message):
            read_video(data, MiddleFrames(1))


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_a_video_cannot_name_other_files_or_hosts(playlist: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encoded(frames=3))
    with pytest.raises(VideoError, match="not a video"):
        read_video(playlist.format(path=secret).encode(), MiddleFrames(1))


def test_only_video_formats_are_opened() -> None:
    """Without the list of containers, FFmpeg would open text, pictures and subtitles as videos."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "png")
    with pytest.raises(VideoError, match="not a video"):
        read_video(file.getvalue(), MiddleFrames(1))


def test_a_format_that_names_files_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a supported format could name other files, the protocols would still be refused."""
    monkeypatch.chdir(tmp_path)
    Path("secret.mp4").write_bytes(encoded(frames=3))
    monkeypatch.setattr(video, "CONTAINERS", f"{video.CONTAINERS},concat")
    with pytest.raises(VideoError):
        read_video(b"ffconcat version 1.0\nfile secret.mp4\n", MiddleFrames(1))


def test_a_gif_of_few_bytes_and_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    frames = [Image.new("L", (200, 100), 40 * shade) for shade in range(6)]
    frames[0].save(file, "gif", save_all=True, append_images=frames[1:])
    assert video.video_length(file.getvalue())[0] == 6
    monkeypatch.setattr(video, "MAX_GIF_PIXELS", 119_999)
    monkeypatch.setattr(video, "_decoded", None)
    for read in (video.video_length, lambda data: read_video(data, MiddleFrames(1))):
        with pytest.raises(VideoError, match="GIF too large: 6 frames of 200x100 are more than 119999 pixels"):
            read(file.getvalue())


def test_videos_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_FRAMES", 10)
    for container in ("mp4", "avi"):
        with pytest.raises(VideoError, match="video too long: it has more than 10 frames"):
            video.video_length(encoded(container=container, frames=20, b_frames=0))


def test_large_videos_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(frames=5)
    with pytest.raises(VideoError, match="64x48 is more than 3000 pixels"):
        read_video(data, MiddleFrames(1), max_pixels=3000)
    monkeypatch.setattr(video, "MAX_CHOSEN_PIXELS", 3 * WIDTH * HEIGHT)
    assert len(read_video(data, MiddleFrames(3))) == 3
    monkeypatch.setattr(video, "_decoded", lambda *_: iter(()))
    with pytest.raises(VideoError, match="4 frames of 64x48 are more than 9216 pixels: choose fewer"):
        read_video(data, MiddleFrames(4))


def test_a_rate_that_an_index_refuses_is_an_error() -> None:
    timeline = video._Timeline([0.0, 1e-7, 2e-7], 30.0, [], [])
    with pytest.raises(VideoError, match=r"3 frames in 2e-07 s are more than 1e\+06 per second"):
        video._rate(timeline, 0, 3)
