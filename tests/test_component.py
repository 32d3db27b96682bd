import pytest
import torch

import tiny
from mmcomponents.component import WiringError
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


class Buffered(LMHead):
    def __init__(self) -> None:
        super().__init__(4, 8)
        self.inner = torch.nn.Module()
        self.inner.register_buffer("scale", torch.full((3,), 2.0), persistent=False)
        self.inner.register_buffer("none", torch.zeros(0), persistent=False)


class Filled(Buffered):
    def init_buffer(self, name, value) -> bool:
        assert name == "inner.scale"
        value.fill_(2.0)
        return True


def test_buffers_are_filled_after_the_meta_device() -> None:
    with torch.device("meta"):
        part, empty = Filled(), Buffered()
    values = part.buffer_values("cpu")
    assert torch.equal(values["inner.scale"], torch.full((3,), 2.0))
    part.set_buffers(values)
    assert torch.equal(part.inner.scale, torch.full((3,), 2.0))
    with pytest.raises(WiringError, match=r"Buffered has the buffer inner\.scale, whose values the meta"):
        empty.buffer_values("cpu")


def test_buffers_with_values_are_copied() -> None:
    part = Buffered()
    values = part.buffer_values("cpu")
    values["inner.scale"].zero_()
    assert torch.equal(part.inner.scale, torch.full((3,), 2.0))


class Shared(Filled):
    """Has one buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.other = torch.nn.Module()
        self.other.register_buffer("scale", self.inner.scale, persistent=False)


def test_a_buffer_of_two_modules_stays_one() -> None:
    with torch.device("meta"):
        part = Shared()
    part.set_buffers(part.buffer_values("cpu"))
    assert part.inner.scale is part.other.scale
    assert torch.equal(part.other.scale, torch.full((3,), 2.0))


def test_a_wrapped_layer_has_the_name_of_its_buffer_without_the_wrapper() -> None:
    with torch.device("meta"):
        part = Filled()
        wrapper = torch.nn.Module()
        wrapper.base_layer = part.inner
        part.inner = wrapper
    assert torch.equal(part.buffer_values("cpu")["inner.base_layer.scale"], torch.full((3,), 2.0))


def test_excluded_buffers_are_left_out() -> None:
    with torch.device("meta"):
        part = Buffered()
    assert part.buffer_values("cpu", {id(part.inner.scale), id(part.inner.none)}) == {}
