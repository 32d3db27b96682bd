import pytest
import torch

import tiny
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.heads import LMHead


def test_matrices_are_as_wide_as_their_fan_in_asks() -> None:
    head = LMHead(400, 900)
    head.init_weights(0)
    assert float(head.weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)


def test_parts_of_one_model_do_not_start_alike() -> None:
    one, two = LMHead(32, 64), LMHead(32, 64)
    one.init_weights(3, "heads.a")
    two.init_weights(3, "heads.b")
    assert not torch.equal(one.weight, two.weight)
    two.init_weights(3, "heads.a")
    assert torch.equal(one.weight, two.weight)


def test_a_tied_table_starts_as_its_owner_says() -> None:
    tied = tiny.model(heads={"lm": LMHead(tiny.WIDTH, tiny.VOCAB, tied=True)})
    untied = tiny.model()
    for model in (tied, untied):
        model.init_weights(5)
    assert torch.equal(tied.embedder.embedding_weight(), untied.embedder.embedding_weight())
    assert not torch.equal(tied.embedder.embedding_weight(), untied.heads["lm"].weight)


def test_nothing_is_drawn_on_the_meta_device() -> None:
    with torch.device("meta"):
        part = TokenEmbedder(8, 4)
    part.init_weights(0)
    assert part.embedding_weight().is_meta
