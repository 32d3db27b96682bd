"""LangBridge: span, rank, transfer to another width, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from mmcomponents.batch import FeatureMap, VisualFeatures
from mmcomponents.checkpoints import CheckpointError, load_initial
from mmcomponents.checkpoints.initial import takes_from
from mmcomponents.component import WiringError
from mmcomponents.projectors import LangBridge, LiveLangBridge, Projector, SoftmaxLangBridge
from mmcomponents.shared_vocabulary import SharedVocabulary, VocabularyError
from mmcomponents.testing import small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder

V, IN, HIDDEN = 20, 24, 28
Make = Callable[..., Projector]


def rows(width: int, seed: int = 1) -> Tensor:
    return torch.randn(V, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a projector over a vocabulary file of its own."""

    def made(width: int = 32, kind: type = LangBridge, table: Tensor | None = None, **changes: object) -> Projector:
        words = tuple(f"w{n}" for n in range(V))
        order = changes.pop("order", range(V))
        table = rows(width) if table is None and "rows" not in changes else table
        name = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        ids = torch.arange(V) + 3
        SharedVocabulary(tuple(words[n] for n in order), ids, "abc", changes.pop("rows", table)).save(name)
        sizes = {"vocabulary": str(name), "num_words": V, "hidden_features": HIDDEN} | changes
        return kind(IN, width, **sizes)

    return made


def features(seed: int = 0) -> VisualFeatures:
    tokens = torch.randn(3, 8, IN, generator=torch.Generator().manual_seed(seed))
    return VisualFeatures([FeatureMap(tokens, (2, 4))])


def test_tokens_lie_in_the_span_of_the_words_and_nowhere_else(make: Make) -> None:
    bridge = make()  # V = 20 < 32: the span is a proper subspace
    tokens, table = bridge(features()).flatten(0, 1), bridge.table
    found = tokens @ torch.linalg.pinv(table) @ table
    torch.testing.assert_close(found, tokens, rtol=1e-5, atol=1e-5)
    other = torch.randn_like(tokens)
    assert (other @ torch.linalg.pinv(table) @ table - other).abs().max() > 0.1
    assert torch.linalg.matrix_rank(tokens) == V  # 24 tokens of at most 20 dimensions


def test_the_product_is_in_fp32_under_autocast(make: Make) -> None:
    bridge = make()
    with torch.autocast("cpu", torch.bfloat16):
        coefficients = bridge.coefficients(features().primary.tokens)
        found = bridge(features())
    assert found.dtype == coefficients.dtype == torch.bfloat16
    assert torch.equal(found, (coefficients.float() @ bridge.table).bfloat16())
    assert not torch.equal(found, coefficients @ bridge.table.bfloat16())


def test_a_state_moves_to_another_width_without_change(make: Make) -> None:
    narrow, wide = make(32), make(48)
    wide.load_state_dict(narrow.state_dict())
    for name, value in narrow.state_dict().items():
        assert torch.equal(value, wide.state_dict()[name])
    x = features()
    coefficients = narrow.coefficients(x.primary.tokens)
    assert torch.equal(coefficients, wide.coefficients(x.primary.tokens))
    assert wide(x).shape == (3, 8, 48)
    torch.testing.assert_close(wide(x), coefficients @ rows(48))


def test_rotated_embeddings_give_rotated_tokens(make: Make) -> None:
    turn = torch.linalg.qr(rows(32, seed=5).T @ rows(32, seed=6)).Q
    plain, turned = make(), make(table=rows(32) @ turn)
    turned.load_state_dict(plain.state_dict())
    torch.testing.assert_close(turned(features()), plain(features()) @ turn, rtol=1e-4, atol=1e-4)


def test_words_in_another_order_are_refused(make: Make) -> None:
    plain, other = make(), make(order=[1, 0, *range(2, V)])
    with pytest.raises(VocabularyError, match=r"LangBridge are for other words, .* order .* digest \w+ and"):
        other.load_state_dict(plain.state_dict())
    state = {name: value for name, value in plain.state_dict().items() if name != "word_digest"}
    other.load_state_dict(state, strict=False)
    assert not torch.allclose(other(features()), plain(features()) @ torch.eye(32)[torch.randperm(32)])


def test_no_embedding_is_in_a_state(make: Make) -> None:
    for kind in (LangBridge, LiveLangBridge, SoftmaxLangBridge):
        state = make(kind=kind).state_dict()
        assert {name.partition(".")[0] for name in state} == {"fc1", "fc2", "fc3", "word_digest"}
        assert not any(value.shape[:1] == (V,) and value.shape[1:] == (32,) for value in state.values())


def test_weights_of_the_softmax_are_a_mean(make: Make) -> None:
    bridge = make(kind=SoftmaxLangBridge)
    weights = bridge.coefficients(features().primary.tokens)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 8))
    tokens = bridge(features())
    assert (tokens >= bridge.table.min(0).values - 1e-5).all()
    assert (tokens <= bridge.table.max(0).values + 1e-5).all()
    assert weights.std(-1).mean() > 0.01  # it does not start uniform


def test_coefficients_of_another_kind_start_nothing(make: Make) -> None:
    plain, live, softmax = (make(kind=kind) for kind in (LangBridge, LiveLangBridge, SoftmaxLangBridge))
    pairs = [(a, b) for a in (plain, live, softmax) for b in (plain, live, softmax) if a is not b and takes_from(a, b)]
    assert pairs == [(plain, live), (live, plain)]


def test_the_live_table_is_the_present_embedding_weight(make: Make) -> None:
    bridge = make(kind=LiveLangBridge)
    weight = torch.randn(40, 32, requires_grad=True)
    found = bridge(features(), weight)
    torch.testing.assert_close(found, bridge.coefficients(features().primary.tokens) @ weight[torch.arange(V) + 3])
    found.sum().backward()
    assert weight.grad[:3].count_nonzero() == 0
    assert weight.grad[3 : V + 3].count_nonzero(-1).min() > 0


def test_first_tokens_have_the_size_of_words(make: Make) -> None:
    bridge = make(num_words=V)
    assert bridge(features()).detach().std() / bridge.table.std() == pytest.approx(0.65, abs=0.25)


def test_sizes_are_checked(make: Make) -> None:
    with pytest.raises(VocabularyError, match=r"LangBridge has num_words 21, and .*safetensors has 20"):
        make(num_words=21)
    with pytest.raises(WiringError, match=r"gives tokens of width 48 and .* has embeddings of width 32"):
        make(48, table=rows(32))
    with pytest.raises(VocabularyError, match=r"needs the embeddings of the words, and .* has none"):
        make(rows=None)
    make(rows=None, kind=LiveLangBridge)
    with pytest.raises(VocabularyError, match="there is no shared vocabulary nowhere"):
        make(vocabulary="nowhere")
    path = make().vocabulary
    high = SharedVocabulary.read(path)
    SharedVocabulary(high.words, high.ids + 60, "abc").save(Path(path))
    with pytest.raises(WiringError, match=r"LiveLangBridge has a word with the id 82 .* TokenEmbedder has 64 tokens"):
        small_model(projector=lambda i, o: LiveLangBridge(i, o, path, V, HIDDEN))


def test_the_meta_device_needs_the_file_only_for_values(make: Make, tmp_path: Path) -> None:
    path = make().vocabulary
    with torch.device("meta"):
        bridge = LangBridge(IN, 32, str(tmp_path / "later"), V, HIDDEN)
        here = LangBridge(IN, 32, path, V, HIDDEN)
    assert bridge.table.is_meta
    assert here.table.is_meta
    with pytest.raises(VocabularyError, match="there is no shared vocabulary"):
        bridge.buffer_values("cpu")
    assert torch.equal(here.buffer_values("cpu")["table"], rows(32))


def test_a_trained_projector_starts_a_model_of_another_width(make: Make, tmp_path: Path) -> None:
    first, second = make(32), make(48)
    kind = {
        bridge.out_features: partial(LangBridge, vocabulary=bridge.vocabulary, num_words=V, hidden_features=HIDDEN)
        for bridge in (first, second)
    }
    parts = small_parts(projector=kind[32])
    (tmp_path / "m").mkdir()
    folder = write_folder(Case("projector", kind[32], parts, text_packs), small_model(**parts), tmp_path / "m")
    wide = small_model(seed=3, projector=kind[48], backbone=tiny.backbone_factory(hidden_size=48))
    load_initial(wide, {"projector": folder}, trust_remote_code=True)
    assert torch.equal(wide.projector.fc3.weight, small_model(**parts).projector.fc3.weight)
    assert torch.equal(wide.projector.table, rows(48))
    mixed = make(48, order=[1, 0, *range(2, V)])
    other = small_model(
        projector=partial(kind[48], vocabulary=mixed.vocabulary),
        backbone=tiny.backbone_factory(hidden_size=48),
    )
    with pytest.raises(CheckpointError, match="another order"):
        load_initial(other, {"projector": folder}, trust_remote_code=True)
