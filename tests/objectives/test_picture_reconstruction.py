"""Training of an autoencoder. Contracts: tests/contracts."""

from __future__ import annotations

import torch

import got
from mmcomponents.objectives import PictureReconstruction


def test_it_learns_pictures_and_canvases_and_stops_before_the_language_model() -> None:
    how = got.renderer()
    model = got.model(vocabulary=len(how.tokenizer))
    pack = got.packed([got.sample(number=n, reasoning=got.TEXT if n else "") for n in range(2)], how)
    objective = PictureReconstruction(divergence=0.5)
    assert objective.counts(pack) == {"pictures": 4.0, "targets": 4.0}  # two pictures and two canvases
    found = objective(model, pack, objective.counts(pack))
    torch.testing.assert_close(found.total, found.parts["pixels"] + 0.5 * found.parts["divergence"])
    found.total.backward()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert trained == {"autoencoder"}
    optimizer = torch.optim.Adam(model.heads["autoencoder"].parameters(), 1e-2)
    first = float(found.parts["pixels"])
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(model, pack, objective.counts(pack))
        loss.total.backward()
        optimizer.step()
    assert float(loss.parts["pixels"]) < 0.7 * first
