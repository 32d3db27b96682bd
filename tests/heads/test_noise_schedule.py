"""Noise schedules against figures of diffusers, and DDIM with the true noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmcomponents.heads import CosineNoise, LinearNoise, NoiseSchedule

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ddim_diffusers.json").read_text())
SCHEDULES = {"linear": LinearNoise(1000), "cosine": CosineNoise(100)}
CASES = [name for name in GOLDEN if name != "made_with"]


@pytest.mark.parametrize("name", CASES)
def test_levels_noise_and_steps_are_those_of_diffusers(name: str) -> None:
    kind, _, bounded = name.partition("/")
    schedule, expected = SCHEDULES[kind], GOLDEN[name]
    for level, alpha in expected["alphas"].items():
        assert float(schedule.alphas[int(level)]) == pytest.approx(alpha, rel=1e-4, abs=1e-9)  # theirs are in fp32
    signal, noise = torch.tensor([[0.5, -1.0], [0.25, 0.75]]), torch.tensor([[-0.3, 1.2], [0.8, -1.7]])
    noisy = schedule.add_noise(signal, noise, torch.tensor(expected["levels"]))
    torch.testing.assert_close(noisy, torch.tensor(expected["noisy"]), rtol=1e-4, atol=1e-5)
    for steps, run in expected["runs"].items():
        levels = schedule.descent(int(steps))
        assert levels == run["levels"]
        values = noise
        for level, following, wanted in zip(levels, [*levels[1:], None], run["values"], strict=True):
            estimate = torch.sin(2 * values) + 0.1 * values
            values = schedule.ddim(values, estimate, level, following, 1.0 if bounded == "bounded" else None)
            torch.testing.assert_close(values, torch.tensor(wanted), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_signal_falls_and_variance_is_kept(schedule: NoiseSchedule) -> None:
    assert bool((schedule.alphas.diff() < 0).all())
    assert 0 < float(schedule.alphas[-1]) < float(schedule.alphas[0]) < 1
    draw = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(2, 20_000, 1, generator=draw)
    level = torch.full((20_000,), schedule.levels // 2)
    assert float(schedule.add_noise(signal, noise, level).var()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_true_noise_leads_back_to_the_signal(schedule: NoiseSchedule, steps: int) -> None:
    signal, noise = torch.tensor([[0.5, -0.9]], dtype=torch.float64), torch.tensor([[1.3, -0.4]], dtype=torch.float64)
    levels = schedule.descent(steps)
    values = schedule.add_noise(signal, noise, torch.tensor(levels[:1]))
    for level, following in zip(levels, [*levels[1:], None], strict=True):
        values = schedule.ddim(values, noise, level, following, 1.0)
    torch.testing.assert_close(values, signal, rtol=1e-9, atol=1e-9)


def test_wrong_numbers_are_refused() -> None:
    for make in (lambda: LinearNoise(0), lambda: LinearNoise(10, 0.1, 0.01), lambda: CosineNoise(10, 1.0)):
        with pytest.raises(ValueError, match=r"levels|betas|beta"):
            make()
    with pytest.raises(ValueError, match="21 denoising steps are more than the 20 noise levels"):
        CosineNoise(20).descent(21)
