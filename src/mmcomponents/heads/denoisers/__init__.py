"""Denoisers of the latents of pictures, an argument of the head `Condition`.

    noisy latents, reference, layout [P, 3c, h, w], noise levels, words ── Denoiser ──► noise or latents [P, c, h, w]

The contract is `Denoiser` in `base.py`.
"""

from mmcomponents.heads.denoisers.base import Denoiser
from mmcomponents.heads.denoisers.diffusers_unet import DiffusersUNet
from mmcomponents.heads.denoisers.unet_denoiser import UNetDenoiser

__all__ = ["Denoiser", "DiffusersUNet", "UNetDenoiser"]
