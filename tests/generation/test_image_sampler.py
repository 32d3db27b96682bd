"""Pictures by next-token prediction. Contracts: tests/contracts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import synergen
import tiny
from mmcomponents.batch import TokenType
from mmcomponents.component import NonFiniteError, WiringError
from mmcomponents.data.chat import SampleRenderer
from mmcomponents.data.chat.kinds import CaptionedPicture
from mmcomponents.data.loading.collation import collate
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.generation import Context, ImageSampler, answer_prompts
from mmcomponents.heads import LMHead
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import ImageTokens

CAPTIONS = ["1 2", "3 4", "5 6", "7 8", "9 0", "2 1", "4 3", "6 5"]


@pytest.fixture(scope="module")
def how() -> SampleRenderer:
    return synergen.renderer()


@pytest.fixture(scope="module")
def learnt(how: SampleRenderer) -> MultimodalModel:
    """A model that has learnt eight pictures of random ids, some of them without their captions."""
    model = synergen.model(0, len(how.tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    objective = ImageTokens()
    for step in range(150):
        samples = [synergen.sample(c, synergen.picture(n), 8 * step + n) for n, c in enumerate(CAPTIONS)]
        batch = synergen.packed(samples, how, dropout=0.1)
        optimizer.zero_grad()
        objective(model, batch, objective.counts(batch)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def context(how: SampleRenderer, seed: int = 0) -> Context:
    return Context(how.tokenizer, generator=torch.Generator().manual_seed(seed))


def levels(model: MultimodalModel, ids: torch.Tensor) -> np.ndarray:
    pixels = model.vision.decode_ids(ids)
    return ((pixels * 0.5 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_that_were_learnt_are_made_again(learnt: Any, how: SampleRenderer, guidance: float) -> None:
    answers = ImageSampler(guidance, temperature=0.0).answer(learnt, synergen.prompts(CAPTIONS, how), context(how))
    expected = levels(learnt, torch.cat([synergen.picture(number).vq_ids for number in range(8)]))
    for answer, pixels in zip(answers, expected, strict=True):
        assert answer.picture.size == (synergen.SIDE, synergen.SIDE)
        assert np.array_equal(np.asarray(answer.picture), pixels)


def test_drawn_ids_have_the_likelihoods_of_training(how: SampleRenderer) -> None:
    """Folds that are fed in one by one give the states of the whole picture, in the blocks for images."""
    model, seen = synergen.model(0, len(how.tokenizer)).double().eval(), []
    head = model.heads["vq_unfold"]
    for layer in model.backbone.layers:
        layer.image_mlp.down_proj.weight.data.mul_(-1.0)
    plain = head.next_logits

    def watched(hidden: Any, last: Any, cell: int, cache: Any) -> Any:
        if cell == 0:
            seen.append(hidden)
        return plain(hidden, last, cell, cache)

    head.next_logits = watched
    drawn: list[torch.Tensor] = []
    cells = model.vision.cells
    model.vision.cells = lambda ids, images=None, origin=None: (drawn.append(ids), cells(ids, images, origin))[1]
    ImageSampler(1.0)(model, synergen.prompts(["1 2"], how), context(how))
    model.vision.cells = cells
    grid = torch.cat([torch.cat(drawn[row : row + 2], dim=2) for row in (0, 2)], dim=1)
    image = replace(synergen.picture(0), vq_ids=grid)
    batch = synergen.packed([synergen.sample("1 2", image)], how)
    at = (batch.layout.token_type == TokenType.IMAGE_GEN).nonzero()[:, 0]
    torch.testing.assert_close(torch.cat(seen), model(batch).hidden[at - 1])


def test_guidance_is_between_and_beyond_both_logits() -> None:
    both = torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    assert torch.equal(ImageSampler(0.0).guide(both), both[1:])
    assert torch.equal(ImageSampler(3.0).guide(both), torch.tensor([[3.0, -4.0]]))
    assert torch.equal(ImageSampler(1.0).guide(both), both)


def test_guided_answers_do_not_depend_on_the_other_prompts(learnt: Any, how: SampleRenderer) -> None:
    sampler = ImageSampler(2.0, temperature=0.0)
    together = sampler.answer(learnt, synergen.prompts(CAPTIONS[:3], how), context(how))
    alone = [sampler.answer(learnt, synergen.prompts([caption], how), context(how))[0] for caption in CAPTIONS[:3]]
    assert together == alone


def test_drawn_pictures_do_not_depend_on_the_other_prompts(how: SampleRenderer) -> None:
    model, sampler = synergen.model(0, len(how.tokenizer)).double().eval(), ImageSampler(1.0)
    prompts = replace(synergen.prompts(CAPTIONS[:3], how), segment_sample=torch.arange(3))
    together = sampler.answer(model, prompts, context(how))
    assert together[0] != together[1]
    for number, caption in enumerate(CAPTIONS[:3]):
        one = replace(synergen.prompts([caption], how), segment_sample=torch.tensor([number]))
        assert sampler.answer(model, one, context(how)) == together[number : number + 1]


def test_pictures_do_not_depend_on_batches_before(how: SampleRenderer) -> None:
    """Without a generator, as in `predict` on any number of ranks, draws depend on the seed of the data and sample."""
    model, sampler = synergen.model(0, len(how.tokenizer)).double().eval(), ImageSampler(1.0)
    prompts = replace(synergen.prompts(CAPTIONS[:3], how), segment_sample=torch.arange(3))
    together = sampler.answer(model, prompts, Context(how.tokenizer))
    torch.manual_seed(5)
    for number, caption in enumerate(CAPTIONS[:3]):
        one = replace(synergen.prompts([caption], how), segment_sample=torch.tensor([number]))
        assert sampler.answer(model, one, Context(how.tokenizer)) == together[number : number + 1]
    assert sampler.answer(model, replace(prompts, seed=1), Context(how.tokenizer)) != together


def test_a_rank_without_questions_answers_the_padding_token(learnt: Any, how: SampleRenderer) -> None:
    empty = collate([], how.tokens_per_tile, how.pad_id)
    assert len(ImageSampler(2.0).answer(learnt, empty, context(how))) == 1


def test_single_tokens_are_drawn_from_the_most_likely_ones(how: SampleRenderer) -> None:
    model = synergen.model(0, len(how.tokenizer))
    prompts = synergen.prompts(["1 2"], how)
    greedy, one = (s.answer(model, prompts, context(how)) for s in (ImageSampler(1.0, 0.0), ImageSampler(1.0, 1.0, 1)))
    assert greedy == one
    other = ImageSampler(1.0).answer(model, prompts, context(how))
    assert other != greedy
    assert other != ImageSampler(1.0).answer(model, prompts, context(how, 1))


def test_a_model_that_cannot_be_guided_is_refused(how: SampleRenderer) -> None:
    model, prompts = synergen.model(0, len(how.tokenizer)), synergen.prompts(["1 2"], how)
    with pytest.raises(WiringError, match=r"has guidance 7\.5 and the model has seen 0 prompts that were left out"):
        ImageSampler().answer(model, prompts, context(how))
    plain = synergen.model(0, len(how.tokenizer), embedder=TokenEmbedder)
    with pytest.raises(WiringError, match=r"has guidance 7\.5 and TokenEmbedder 0 unconditional tokens"):
        ImageSampler().check(plain)
    ImageSampler(1.0).check(plain)


def test_other_models_are_refused(how: SampleRenderer) -> None:
    with pytest.raises(WiringError, match="ImageSampler reads the head 'vq_unfold' and the model has lm"):
        ImageSampler().check(synergen.model(heads={"lm": LMHead}))
    with pytest.raises(WiringError, match="calls next_logits of the head 'lm', which LMHead has not: use VQUnfold"):
        ImageSampler(head="lm").check(synergen.model())
    pixels = tiny.model(heads={"vq_unfold": synergen.model().heads["vq_unfold"]})
    with pytest.raises(WiringError, match="needs vectors of single ids and InternViT has none: use VQEmbedding"):
        ImageSampler().check(pixels)
    with pytest.raises(WiringError, match="needs a tokenizer with <img>, or start_id"):
        ImageSampler(1.0)(synergen.model(), synergen.prompts(["1 2"], how), Context())
    broken = synergen.model(0, len(how.tokenizer))
    broken.heads["vq_unfold"].weight.data.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="the logits of pictures are NaN or infinite at id 1:"):
        ImageSampler(1.0)(broken, synergen.prompts(["1 2"], how), context(how))


def test_settings_that_do_not_fit_are_refused_with_both_numbers(learnt: Any, how: SampleRenderer) -> None:
    vocabulary = learnt.embedder.vocab_size
    with pytest.raises(WiringError, match=f"start_id {vocabulary} and GuidedEmbedder a vocabulary of {vocabulary}"):
        ImageSampler(start_id=vocabulary).check(learnt)
    with pytest.raises(ValueError, match="start_id must be a finite number of at least 0, got -1"):
        ImageSampler(start_id=-1)
    with pytest.raises(ValueError, match=r"temperature must be 0 or at least 0\.0001, got 1e-40"):
        ImageSampler(temperature=1e-40)
    learnt.vision.tokenizer.normalization = "clip"
    with pytest.raises(WiringError, match="pixels of the normalization 'siglip' and VQEmbedding has those of 'clip'"):
        ImageSampler().check(learnt)
    learnt.vision.tokenizer.normalization = None
    length = synergen.prompts(["1 2"], how).num_tokens
    arguments, asked = {"sampler": ImageSampler(1.0), "renderer": how}, ["Generate an image of: 1 2"]
    (picture,) = answer_prompts(
        learnt, how.tokenizer, ["Generate an image of: 1 2"], max_length=length + 5, **arguments
    )
    assert picture.picture is not None
    with pytest.raises(ValueError, match=rf"{length} tokens, with 5 new ones more .* of {length + 4}: .*frames$"):
        answer_prompts(learnt, how.tokenizer, asked, max_length=length + 4, **arguments)


def test_a_model_that_saw_prompts_left_out_has_another_vector(learnt: Any) -> None:
    assert learnt.embedder.unconditional.any()
    assert CaptionedPicture().dropout == 0.1
