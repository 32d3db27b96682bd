"""Distillation of the embeddings of a teacher, from images and texts that do not belong together."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

import tiny
from contracts.pair import make_task, train
from contracts.tiny_parts import HOLISTIC, STEM, teacher
from mmcomponents.checkpoints import CheckpointError, load
from mmcomponents.component import WiringError
from mmcomponents.data.chat.tokenizer import train_tokenizer
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.nn.runtime import Runtime
from mmcomponents.objectives import Distillation
from mmcomponents.projectors import LlavaProjector
from mmcomponents.testing import Ranks, small_model, small_parts, text_packs
from mmcomponents.testing.case import Case
from mmcomponents.testing.contracts.state_round_trip import write_folder
from mmcomponents.training import SlotOptions
from mmcomponents.training.distributed.fsdp2 import FSDP2Strategy
from mmcomponents.training.objective_check import check_with_folders

STUDENT: dict[str, Any] = {"vision": STEM, "projector": LlavaProjector, "embedder": HOLISTIC}
FROZEN = {name: SlotOptions(trainable=False) for name in ("backbone", "heads")}


def prepared(folder: str) -> Distillation:
    objective = Distillation(folder)
    objective.prepare(small_model(), lambda folder=None: load(folder))
    return objective


def embeddings(model: MultimodalModel, batch: Any) -> torch.Tensor:
    return model(batch, Runtime(needs=("embeds",))).embeds


def unpaired(seed: int) -> Any:
    """Returns a pack of images without text and of texts without images."""
    return tiny.pack([("i", 2)], [("t", 9)], [("i", 1)], [("t", 5)], [("i", 2)], [("t", 12)], seed=seed)


def test_the_loss_is_the_sum_of_two_means_of_cosines() -> None:
    model, batch = small_model(**STUDENT), unpaired(0)
    objective, expected = prepared(teacher()), load(teacher())
    counts = objective.counts(batch)
    assert counts == {"tokens": 46.0, "image_tokens": 20.0, "text_tokens": 26.0}
    text = batch.visual_index < 0
    with torch.no_grad():
        out = objective(model, batch, counts)
        ours, theirs = embeddings(model, batch), embeddings(expected, batch)
        assert torch.equal(theirs[~text], expected.project(expected.encode(batch.images)))
    assert torch.equal(theirs[text], expected.embedder.embedding_weight()[batch.input_ids[text]])
    cosines = (normalize(ours, dim=-1) * normalize(theirs, dim=-1)).sum(-1)
    assert float(out.parts["image"]) == pytest.approx(-float(cosines[~text].mean()), abs=1e-6)
    assert float(out.total) == pytest.approx(-float(cosines[~text].mean() + cosines[text].mean()), abs=1e-6)
    assert float(out.parts["text"]) == pytest.approx(float(out.total) - float(out.parts["image"]), abs=1e-6)


def test_the_words_of_the_teacher_are_a_text_loss_of_minus_one() -> None:
    source = load(teacher())
    model = small_model(**STUDENT | {"embedder": partial(HOLISTIC, num_layers=0)})
    model.embedder.load_state_dict(source.embedder.state_dict())
    objective, batch = prepared(teacher()), tiny.pack([("t", 9)])
    assert float(objective(model, batch, objective.counts(batch)).total) == pytest.approx(-1.0, abs=1e-6)


def test_segments_that_are_no_samples_do_not_count() -> None:
    batch = unpaired(0)
    objective, model = prepared(teacher()), small_model(**STUDENT)
    whole = objective(model, batch, objective.counts(batch)).total
    batch.segment_sample[1] = -1
    assert objective.counts(batch) == {"tokens": 37.0, "image_tokens": 20.0, "text_tokens": 17.0}
    assert abs(objective(model, batch, objective.counts(batch)).total - whole) > 1e-5


def test_a_student_learns_both_kinds() -> None:
    """The cosine with the teacher passes 0.95 within 200 steps, also that of differences from the mean."""
    objective, source = prepared(teacher()), load(teacher())
    model = small_model(**STUDENT, scale=1.0).train()
    own = [p for part in (model.vision, model.projector, model.embedder) for p in part.parameters()]
    optimizer = torch.optim.AdamW(own, lr=1e-2, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=190, pct_start=0.1)
    packs = [unpaired(seed) for seed in range(4)]
    for step in range(190):
        optimizer.zero_grad()
        batch = packs[step % 4]
        objective(model, batch, objective.counts(batch)).total.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        ours, theirs = (torch.cat([embeddings(m.eval(), batch) for batch in packs]) for m in (model, source))
    ours, theirs = normalize(ours, dim=-1), normalize(theirs, dim=-1)  # the loss says nothing about lengths
    image = torch.cat([batch.visual_index >= 0 for batch in packs])
    for kind in (image, ~image):
        assert cosine_similarity(ours[kind], theirs[kind]).mean() > 0.95
        centred = [values[kind] - values[kind].mean(0) for values in (ours, theirs)]
        assert cosine_similarity(*centred).mean() > 0.95


def train_as_rank(rank: int, folder: str, packs: list[Any]) -> list[float]:
    task = {**STUDENT, "objective": partial(Distillation, folder), "slots": FROZEN}
    return train(packs[rank::2], 1, task, strategy=FSDP2Strategy(compute_dtype="fp32"), devices=2)["losses"]


def test_two_ranks_with_a_sharded_teacher_equal_one(two_ranks: Ranks) -> None:
    """One rank has images alone and the other texts alone."""
    packs = [tiny.pack(kind, seed=n) for n in range(3) for kind in ([("i", 2), ("i", 1)], [("t", 7 + n)])]
    task = {**STUDENT, "objective": partial(Distillation, teacher()), "slots": FROZEN}
    one = train(packs, 2, task)
    for losses in two_ranks.run(train_as_rank, teacher(), packs):
        torch.testing.assert_close(losses, one["losses"], rtol=1e-5, atol=1e-5)
    assert not any("teacher" in name for name in one["weights"])


def folder_of(path: Path, **changes: Any) -> str:
    parts = small_parts(**changes)
    return str(write_folder(Case("vision", None, parts, text_packs), small_model(**changes), path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"merger": None, "vision": tiny.vision_factory(patch_size=4)},
            "visual tokens per tile: PixelUnshuffle has 4, and InternViT of the teacher {} has 16",
        ),
        (
            {"vision": tiny.vision_factory(image_size=32, patch_size=8)},
            "side of a tile in pixels: PatchStem has 16, and InternViT of the teacher {} has 32",
        ),
        (
            {"backbone": tiny.backbone_factory(hidden_size=16)},
            "width: HolisticEmbedder has 32, and TokenEmbedder of the teacher {} has 16",
        ),
        (
            {"merger": partial(PixelUnshuffle, rows=4, columns=1)},
            "rows and columns of a visual token in patches: PixelUnshuffle has (2, 2), and PixelUnshuffle of the"
            " teacher {} has (4, 1)",
        ),
        (
            {"merger": partial(PixelUnshuffle, order="v1")},
            "order of the patches of a visual token: PixelUnshuffle has v2, and PixelUnshuffle of the teacher {}"
            " has v1",
        ),
        (
            {"embedder": HOLISTIC},
            "HolisticEmbedder of the teacher {} has 2 layers: the embeddings of a teacher are those of its tokens,"
            " without layers",
        ),
    ],
    ids=["tokens", "tiles", "width", "blocks", "order", "layers"],
)
def test_another_teacher_is_refused_before_weights_exist(tmp_path: Path, changes: Any, message: str) -> None:
    folder = folder_of(tmp_path, **changes)
    task = make_task(**STUDENT, objective=partial(Distillation, folder))
    with pytest.raises(WiringError) as caught:
        task.check()
    assert str(caught.value) == message.format(folder)
    assert task.model is None


def test_a_teacher_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    one, other = (train_tokenizer([text] * 9, 340) for text in ("a cat and a dog", "the mat is red"))
    one.save_pretrained(folder)
    objective, model = Distillation(folder), small_model(**STUDENT)
    one.add_tokens(["<more>"])
    check_with_folders(objective, model, False, one)
    with pytest.raises(WiringError, match=r"Distillation: the tokenizer of .* has the fingerprint \w+, and that"):
        check_with_folders(objective, model, False, other)


def test_a_teacher_is_needed_for_training_alone(tmp_path: Path) -> None:
    task = make_task(**STUDENT, objective=Distillation)
    task.check()
    with pytest.raises(WiringError, match=r"needs the folder of its teacher: set model\.objective\.init_args\.teacher"):
        train([unpaired(0)], 1, {**STUDENT, "objective": Distillation, "slots": FROZEN})
    with pytest.raises(WiringError, match="the teacher of Distillation has no model yet"):
        Distillation(teacher())(small_model(**STUDENT), unpaired(0), {"image_tokens": 1.0, "text_tokens": 1.0})
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        make_task(**STUDENT, objective=partial(Distillation, str(tmp_path / "none"))).check()


def test_a_model_without_embeddings_is_refused() -> None:
    empty = dict.fromkeys(("projector", "embedder", "position", "backbone"))
    with pytest.raises(WiringError, match="Distillation trains embeddings and the embedder slot is empty"):
        make_task(**empty, heads={}, objective=Distillation).check()
