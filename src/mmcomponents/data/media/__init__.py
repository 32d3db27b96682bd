"""Images and videos: from encoded files to normalized tiles.

    image file ── decode_image ──► RGB image ── Tiling.cut ──► tiles ── pixels ──► [n, 3, H, W]
    video file ── read_video (FrameSampling) ──► frames ──┘

Augmentation of tiles and boxes in texts are here as well.
"""

from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.boxes import Grounding, draw_groundings, format_grounding, parse_groundings
from mmcomponents.data.media.frames import FrameSampling, MiddleFrames, RandomFrames
from mmcomponents.data.media.images import NORMALIZATIONS, ImageError, decode_image, image_size, load_image, pixels
from mmcomponents.data.media.tiling import Tiling, tile_grid, tile_image
from mmcomponents.data.media.video import VideoError, read_video, video_length

__all__ = [
    "FrameSampling",
    "Grounding",
    "ImageError",
    "JpegRecompression",
    "MiddleFrames",
    "NORMALIZATIONS",
    "RandomFrames",
    "Tiling",
    "VideoError",
    "decode_image",
    "draw_groundings",
    "format_grounding",
    "image_size",
    "load_image",
    "parse_groundings",
    "pixels",
    "read_video",
    "tile_grid",
    "tile_image",
    "video_length",
]
