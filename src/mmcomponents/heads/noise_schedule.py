"""Noise schedules of diffusion (Ho et al. 2020, arXiv 2006.11239) and the steps of DDIM (Song et al. 2021, 2010.02502).

A schedule is a list of numbers, `alphas[t]`, the share of the signal's variance that is left after noise level t (the
cumulative product of 1 - beta). Numbers are in double precision on the CPU; they multiply tensors of any dtype.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from mmcomponents.limits import check_choices, check_numbers, check_sizes

MAX_LEVELS = 100_000


Prediction = Literal["noise", "signal"]


class NoiseSchedule(ABC):
    """Noise levels from 0, the least noise, to `levels` - 1, and what a head predicts of noisy values.

    The error of predicted noise weighs the error of the signal by alpha / (1 - alpha): at high noise, where a policy
    has to rely on what it observes, a wrong signal costs next to nothing. The error of a predicted signal weighs all
    levels alike.

    Args:
        levels: Number of noise levels.
        prediction: "noise" or "signal", `epsilon` and `sample` in diffusers.

    Attributes:
        alphas: fp64 `[levels]`, falling.
    """

    def __init__(self, levels: int, prediction: Prediction = "noise") -> None:
        check_sizes(MAX_LEVELS, levels=levels)
        check_choices(prediction=(prediction, Prediction))
        self.levels, self.prediction = levels, prediction
        self.alphas = torch.cumprod(1 - self._betas(), 0)

    @abstractmethod
    def _betas(self) -> Tensor:
        """Returns the variance of the noise that each level adds, fp64 `[levels]` on the CPU."""

    def add_noise(self, signal: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Returns `sqrt(alpha) * signal + sqrt(1 - alpha) * noise`.

        Args:
            signal: `[n, k]`.
            noise: `[n, k]`, of variance 1.
            level: `[n]` int64 noise level of each row.

        Returns:
            `[n, k]` in the data type of `signal`.
        """
        alpha = self.alphas.to(level.device)[level][:, None]
        return (alpha.sqrt() * signal + (1 - alpha).sqrt() * noise).to(signal.dtype)

    def target(self, signal: Tensor, noise: Tensor) -> Tensor:
        """Returns what a head has to predict: one of both, see `prediction`.

        Args:
            signal: Values without noise, of any shape.
            noise: The noise that was added, of the same shape.

        Returns:
            `signal` or `noise`, of the same shape.
        """
        return noise if self.prediction == "noise" else signal

    def descent(self, steps: int) -> list[int]:
        """Returns the noise levels of DDIM from the highest on: multiples of `levels` // `steps`, as in diffusers.

        Raises:
            ValueError: There are more steps than levels.
        """
        check_sizes(MAX_LEVELS, steps=steps)
        if steps > self.levels:
            raise ValueError(f"{steps} denoising steps are more than the {self.levels} noise levels of the schedule")
        return [number * (self.levels // steps) for number in reversed(range(steps))]

    def ddim(self, noisy: Tensor, predicted: Tensor, level: int, following: int | None, bound: float | None) -> Tensor:
        """Makes one step of DDIM without fresh noise (arXiv 2010.02502, equation 12, sigma = 0).

        Args:
            noisy: Values of any shape at noise level `level`.
            predicted: What a head predicts of them, of the same shape; see `prediction`.
            level: Their noise level.
            following: Noise level after the step; None: the values without noise.
            bound: Largest absolute value of the estimated signal; the noise stays as estimated, as in diffusers with
                `clip_sample`. None: it is not bounded.

        Returns:
            Values of the same shape at the noise level `following`.
        """
        alpha = float(self.alphas[level])
        if self.prediction == "noise":
            noise, signal = predicted, (noisy - math.sqrt(1 - alpha) * predicted) / math.sqrt(alpha)
        else:
            noise, signal = (noisy - math.sqrt(alpha) * predicted) / math.sqrt(1 - alpha), predicted
        if bound is not None:
            signal = signal.clamp(-bound, bound)
        if following is None:
            return signal
        alpha = float(self.alphas[following])
        return math.sqrt(alpha) * signal + math.sqrt(1 - alpha) * noise


class LinearNoise(NoiseSchedule):
    """Betas that grow linearly (arXiv 2006.11239, section 4).

    Args:
        levels: Number of noise levels.
        first: Beta of the first level.
        last: Beta of the last level.
        prediction: See `NoiseSchedule`.
    """

    def __init__(
        self, levels: int = 1000, first: float = 1e-4, last: float = 0.02, prediction: Prediction = "noise"
    ) -> None:
        check_numbers(first=first, last=last)
        if not 0 < first <= last < 1:
            raise ValueError(f"betas must rise within 0 and 1, got first {first} and last {last}")
        self.first, self.last = first, last
        super().__init__(levels, prediction)

    def _betas(self) -> Tensor:
        return torch.linspace(self.first, self.last, self.levels, dtype=torch.float64, device="cpu")


class ScaledLinearNoise(LinearNoise):
    """Betas whose square roots grow linearly, as in Stable Diffusion and SDXL (arXiv 2307.01952).

    Args:
        levels: Number of noise levels.
        first: Beta of the first level.
        last: Beta of the last level.
        prediction: See `NoiseSchedule`.
    """

    def __init__(
        self, levels: int = 1000, first: float = 0.00085, last: float = 0.012, prediction: Prediction = "noise"
    ) -> None:
        super().__init__(levels, first, last, prediction)

    def _betas(self) -> Tensor:
        edges = math.sqrt(self.first), math.sqrt(self.last)
        return torch.linspace(*edges, self.levels, dtype=torch.float64, device="cpu").square()


class CosineNoise(NoiseSchedule):
    """Squared-cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.2), betas of at most `most`.

    Args:
        levels: Number of noise levels.
        most: Largest beta.
        prediction: See `NoiseSchedule`.
    """

    def __init__(self, levels: int = 100, most: float = 0.999, prediction: Prediction = "noise") -> None:
        check_numbers(most=most)
        if not 0 < most < 1:
            raise ValueError(f"the largest beta must be within 0 and 1, got {most}")
        self.most = most
        super().__init__(levels, prediction)

    def _betas(self) -> Tensor:
        edges = torch.arange(self.levels + 1, dtype=torch.float64, device="cpu") / self.levels
        left = torch.cos((edges + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - left[1:] / left[:-1]).clamp(max=self.most)
