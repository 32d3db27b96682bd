"""Parts that do not fit are refused before a model runs: by what the library compares, and by the parts' own checks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

import tiny
from mmcomponents.batch import FeatureMap, LossOutput, ModelState, PackedBatch, VisualFeatures
from mmcomponents.component import Component, Composition, WiringError
from mmcomponents.compose import Factories
from mmcomponents.embedders import TokenEmbedder
from mmcomponents.fusers import Fuser
from mmcomponents.heads import Head, LMHead, Verbalizer
from mmcomponents.mergers import PixelUnshuffle
from mmcomponents.model import MultimodalModel
from mmcomponents.objectives import MPO, AdaptersOff, NextToken, Objective, ProcessReward
from mmcomponents.projectors import LinearProjector, MLPProjector
from mmcomponents.testing import small_parts
from mmcomponents.testing.training_steps import run_steps
from mmcomponents.training import MultimodalTask, SlotOptions
from mmcomponents.vision import InternViT
from no_language import SLOTS, BoxHead, BoxLoss, IdVision

# Parts as other packages write them.


class Unfold(Head):
    """Logits of the ids under each visual token, `rows` x `columns` of them."""

    def __init__(self, in_features: int, vocab_size: int, rows: int = 2, columns: int = 2, codebook: int = 16) -> None:
        super().__init__()
        self.in_features, self.rows, self.columns, self.codebook = in_features, rows, columns, codebook
        self.linear = nn.Linear(in_features, rows * columns * codebook)
        self.init_weights()

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        return self.linear(state.hidden)

    def check(self, model: Composition) -> None:
        codes = getattr(model.vision, "codebook", None)
        if codes not in (None, self.codebook):
            raise WiringError(f"Unfold has {self.codebook} codes and {type(model.vision).__name__} has {codes}")


class ImageTokens(Objective):
    """Cross-entropy of the ids of a picture, folded `rows` x `columns` into each token."""

    needs_heads = ("image",)

    def __init__(self, rows: int = 2, columns: int = 2, codebook: int = 16) -> None:
        super().__init__()
        self.rows, self.columns, self.codebook = rows, columns, codebook

    def check(self, model: Composition) -> None:
        fold = (self.rows, self.columns)
        for part in (model.merger, model.heads["image"]):
            other = (getattr(part, "rows", None), getattr(part, "columns", None))
            if None not in other and other != fold:
                raise WiringError(f"ImageTokens folds {fold} and {type(part).__name__} {other}")
        codes = getattr(model.vision, "codebook", self.codebook)
        if codes != self.codebook:
            raise WiringError(f"ImageTokens has {self.codebook} codes and {type(model.vision).__name__} has {codes}")

    def counts(self, batch: PackedBatch) -> dict[str, float]:
        return {"weight": 1.0}

    def forward(self, model: Any, batch: PackedBatch, totals: dict[str, float]) -> LossOutput:
        raise NotImplementedError


class ActionHead(Head):
    """Noise of an action."""

    def __init__(self, in_features: int, vocab_size: int, actions: int = 7) -> None:
        super().__init__()
        self.in_features, self.actions = in_features, actions
        self.linear = nn.Linear(in_features, actions)
        self.init_weights()

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        return self.linear(state.hidden)


class Diffusion(ImageTokens):
    """Denoising of actions."""

    needs_heads = ("action",)

    def __init__(self, actions: int = 7) -> None:
        super().__init__()
        self.actions = actions

    def check(self, model: Composition) -> None:
        head = model.heads["action"]
        if head.actions != self.actions:
            raise WiringError(f"Diffusion has actions of {self.actions} and {type(head).__name__} of {head.actions}")


class SetCriterion(BoxLoss):
    """Boxes of some classes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes

    def check(self, model: Composition) -> None:
        classes = model.heads["boxes"].classes
        if classes != self.classes:
            raise WiringError(f"SetCriterion has {self.classes} classes and DetectionHead has {classes}")


class DetectionHead(BoxHead):
    """Boxes with a class."""

    def __init__(self, in_features: int, vocab_size: int | None, classes: int = 3, width: int | None = None) -> None:
        super().__init__(in_features if width is None else width)
        self.classes = classes


class OtherWidth(LMHead):
    """Head that is built for another width than it is given."""

    def __init__(self, in_features: int, vocab_size: int) -> None:
        super().__init__(20, vocab_size)


class FilmMerger(PixelUnshuffle):
    """Merger that is conditioned on a context of the images."""

    context_features = 5

    def check(self, model: Composition) -> None:
        given = getattr(model.vision, "context_features", 0)
        if given != self.context_features:
            raise WiringError(
                f"FilmMerger takes a context of {self.context_features} and {type(model.vision).__name__} gives {given}"
            )


class TwoMaps(Fuser):
    """Fuser of two maps, whatever it is given."""

    def __init__(self, in_features: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = (24, 24), 24

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        return VisualFeatures([FeatureMap(features.primary.tokens, features.primary.hw)])


class Halved(Fuser):
    """Fuser that halves the grid."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = self.out_features = in_features

    def grid(self, hw: tuple[int, int]) -> tuple[int, int]:
        if hw[0] % 8:
            raise ValueError(f"a map of {hw[0]} rows cannot be halved")
        return hw[0] // 8, hw[1] // 2

    def forward(self, features: VisualFeatures) -> VisualFeatures:
        return features


class Wordless(TokenEmbedder):
    """Embedder without an embedding weight."""

    def embedding_weight(self) -> None:  # type: ignore[override]
        """Returns None."""


class LooksBack(MLPProjector):
    """Projector that reads the embedding weight."""

    needs_embedding_weight = True


class TiedElsewhere(Unfold):
    """A tied head whose `tie` does nothing."""

    is_tied = True


class MapsToWords(BoxHead):
    """Likelihoods from a map."""

    def weighted_nll(self, hidden: Tensor, labels: Tensor, row_weights: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Misspelt(BoxHead):
    """Head that needs a field that does not exist."""

    needs = ("visuals",)


class ReadsTokens(Head):
    """Head of the visual tokens, of a width of its own."""

    needs = ("visual_tokens",)

    def __init__(self, in_features: int, vocab_size: int, width: int = 16) -> None:
        super().__init__()
        self.in_features = width

    def forward(self, state: ModelState, batch: PackedBatch) -> Tensor:
        return state.visual_tokens


class ReadsEmbeds(ReadsTokens):
    """Head of the embeddings."""

    needs = ("embeds",)


BLIND = {"vision": None, "merger": None, "projector": None}
MAPS = {"vision": tiny.vision_factory(levels=(1, 2)), "merger": None}
IMAGE_HEAD = {"heads": {"image": Unfold}, "objective": ImageTokens}
DETECTION = {**SLOTS, "heads": {"boxes": DetectionHead}, "objective": SetCriterion}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an objective that folds other ids than the merger": (
        IMAGE_HEAD | {"merger": partial(PixelUnshuffle, rows=2, columns=4), "objective": partial(ImageTokens, 4, 2)},
        r"ImageTokens folds \(4, 2\) and PixelUnshuffle \(2, 4\)",
    ),
    "an objective that folds other ids than its head": (
        IMAGE_HEAD | {"heads": {"image": partial(Unfold, rows=1)}},
        r"ImageTokens folds \(2, 2\) and Unfold \(1, 2\)",
    ),
    "an objective with another codebook than the encoder": (
        IMAGE_HEAD | {"vision": IdVision, "heads": {"image": Unfold}, "objective": partial(ImageTokens, codebook=32)},
        "ImageTokens has 32 codes and IdVision has 16",
    ),
    "a head with another codebook than the encoder": (
        IMAGE_HEAD | {"vision": partial(IdVision, codebook=99)},
        "Unfold has 16 codes and IdVision has 99",
    ),
    "an objective with another action width than its head": (
        {"heads": {"action": partial(ActionHead, actions=6)}, "objective": Diffusion},
        "Diffusion has actions of 7 and ActionHead of 6",
    ),
    "an objective with other classes than its head": (
        DETECTION | {"objective": partial(SetCriterion, 80)},
        "SetCriterion has 80 classes and DetectionHead has 3",
    ),
    "a head of another width than the merger's map": (
        DETECTION | {"heads": {"boxes": partial(DetectionHead, width=24)}},
        "PixelUnshuffle gives maps of width 96 and DetectionHead takes 24",
    ),
    "a head of another width than the encoder's map": (
        DETECTION | {"merger": None, "heads": {"boxes": partial(DetectionHead, width=96)}},
        "InternViT gives maps of width 24 and DetectionHead takes 96",
    ),
    "a head of one map beside two": (
        DETECTION | MAPS | {"heads": {"boxes": partial(DetectionHead, width=24)}},
        r"InternViT gives maps of width \(24, 24\) and DetectionHead takes 24",
    ),
    "a head of maps that was built for hidden states": (
        {"heads": {"lm": LMHead, "boxes": DetectionHead}},
        "PixelUnshuffle gives maps of width 96 and DetectionHead takes 32",
    ),
    "a head of maps without an encoder": (
        BLIND | {"heads": {"lm": LMHead, "boxes": DetectionHead}},
        r"the head boxes \(DetectionHead\) reads visual features and the vision slot is empty",
    ),
    "a head of visual tokens without an encoder": (
        BLIND | {"heads": {"lm": LMHead, "tokens": ReadsTokens}},
        r"the head tokens \(ReadsTokens\) reads visual tokens and the vision slot is empty",
    ),
    "a head of visual tokens of another width": (
        {"heads": {"lm": LMHead, "tokens": ReadsTokens}},
        "MLPProjector gives tokens of width 32 and ReadsTokens takes 16",
    ),
    "a head of visual tokens that are those of the merger": (
        {**SLOTS, "heads": {"tokens": ReadsTokens}, "objective": BoxLoss},
        "PixelUnshuffle gives tokens of width 96 and ReadsTokens takes 16",
    ),
    "a head of embeddings of another width": (
        {"heads": {"lm": LMHead, "embeds": ReadsEmbeds}},
        "TokenEmbedder gives width 32 and ReadsEmbeds takes 16",
    ),
    "a head of embeddings without an embedder": (
        {**SLOTS, "heads": {"embeds": ReadsEmbeds}},
        r"the head embeds \(ReadsEmbeds\) reads embeddings and the embedder slot is empty",
    ),
    "a head of hidden states without a backbone": (
        {**SLOTS, "heads": {"lm": partial(Unfold, rows=2)}},
        r"the head lm \(Unfold\) reads hidden states and the backbone slot is empty",
    ),
    "a head of hidden states of another width": (
        {"heads": {"lm": OtherWidth}},
        "DecoderLM gives hidden states of width 32 and OtherWidth takes 20",
    ),
    "a head that needs a field that does not exist": (
        {"heads": {"lm": LMHead, "boxes": Misspelt}},
        r"the head boxes \(Misspelt\) needs 'visuals', and the model's state has visual, visual_tokens, embeds, hidden",
    ),
    "two maps into a projector of one": (
        MAPS | {"projector": lambda width, out: LinearProjector(24, out)},
        r"InternViT gives maps of width \(24, 24\) and LinearProjector takes 24",
    ),
    "two maps into a merger of one": (
        MAPS | {"merger": PixelUnshuffle},
        r"PixelUnshuffle takes one feature map and is given 2: \(24, 24\)",
    ),
    "one map into a fuser of two": (
        {"fuser": TwoMaps},
        r"InternViT gives maps of width 24 and TwoMaps takes \(24, 24\)",
    ),
    "a fuser that cannot take the grid": (
        {"fuser": Halved},
        "InternViT makes a map of 4 x 4 of a tile of 16 pixels, which Halved cannot take: a map of 4 rows cannot",
    ),
    "a merger that cannot take the grid": (
        {"merger": partial(PixelUnshuffle, rows=3)},
        "InternViT makes a map of 4 x 4 of a tile of 16 pixels, which PixelUnshuffle cannot take: PixelUnshuffle",
    ),
    "a merger without its context": (
        {"merger": FilmMerger},
        "FilmMerger takes a context of 5 and InternViT gives 0",
    ),
    "a projector without the embedding weight": (
        {"projector": LooksBack, "embedder": Wordless},
        "LooksBack needs the embedding weight and Wordless has none",
    ),
    "a tied head without an embedding weight": (
        {"heads": {"lm": partial(LMHead, tied=True)}, "embedder": Wordless},
        "LMHead is tied to the embedding weight and Wordless has none",
    ),
    "a tied head of another package without an embedding weight": (
        {"heads": {"lm": TiedElsewhere}, "embedder": Wordless},
        "TiedElsewhere is tied to the embedding weight and Wordless has none",
    ),
    "a tied head of another vocabulary": (
        {"heads": {"lm": lambda width, size: LMHead(width, size + 1, tied=True)}},
        r"LMHead is tied and has a weight of \[65, 32\], the embedding weight is \[64, 32\]",
    ),
    "a backbone without an embedder": (
        {"embedder": None},
        "the backbone DecoderLM has no input: the embedder slot is empty",
    ),
    "next-token prediction with a head without likelihoods": (
        {"heads": {"lm": Unfold}},
        "NextToken calls weighted_nll of the head 'lm', which Unfold does not have: use LMHead",
    ),
    "next-token prediction without a backbone": (
        {**SLOTS, "heads": {"lm": MapsToWords}},
        r"NextToken reads hidden states for the head 'lm' \(MapsToWords\) and the backbone slot is empty",
    ),
    "preferences with a head without likelihoods": (
        {"heads": {"lm": Unfold}, "objective": MPO},
        "MPO calls nll of the head 'lm', which Unfold does not have: use LMHead",
    ),
    "a process reward with a head without verdicts": (
        {"objective": ProcessReward},
        r"ProcessReward needs verdicts, which the head 'lm' \(LMHead\) does not compute: use Verbalizer",
    ),
    "adapters as the reference of a model without any": (
        {"objective": partial(MPO, reference=AdaptersOff)},
        "AdaptersOff disables adapters and the model has none",
    ),
    "adapters as the reference of a model that is trained otherwise": (
        {
            "objective": partial(MPO, reference=AdaptersOff),
            "slots": {"backbone": SlotOptions(adapter=LoraConfig(r=2, target_modules=["q_proj"]))},
        },
        r"AdaptersOff uses the model without adapters as the reference, and \d+ other weights are trained too",
    ),
    "an objective of a head that the model does not have": (
        {"objective": partial(NextToken, head="words")},
        "NextToken reads the head 'words' and the model has lm",
    ),
}


def make(**changes: Any) -> MultimodalTask:
    own = {name: changes.pop(name) for name in ("objective", "slots") if name in changes}
    return MultimodalTask(**small_parts(**changes), **own, vocab_size=tiny.VOCAB, image_token_id=tiny.IMAGE_TOKEN)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_in_one_line_that_names_both(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(WiringError, match=message) as refused:
        make(**changes).check()
    assert "\n" not in str(refused.value)


RIGHT: dict[str, dict[str, Any]] = {
    "ids that are folded alike": IMAGE_HEAD | {"vision": IdVision},
    "actions of one width": {"heads": {"action": ActionHead}, "objective": Diffusion},
    "boxes of a map": DETECTION,
    "boxes of a map, without a merger": DETECTION | {"merger": None},
    "boxes beside a language model": {"heads": {"lm": LMHead, "boxes": partial(DetectionHead, width=96)}},
    "visual tokens beside a language model": {"heads": {"lm": LMHead, "tokens": partial(ReadsTokens, width=32)}},
    "verdicts": {"heads": {"lm": partial(Verbalizer, token_ids=(3, 5))}, "objective": ProcessReward},
    "adapters alone": {
        "objective": partial(MPO, reference=AdaptersOff),
        "slots": {
            "backbone": SlotOptions(adapter=LoraConfig(r=2, target_modules=["q_proj"])),
            **{name: SlotOptions(trainable=False) for name in ("vision", "projector", "embedder", "heads")},
        },
    },
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_fits_is_accepted(name: str) -> None:
    make(**RIGHT[name]).check()


def test_an_objective_is_checked_without_the_command_too() -> None:
    task = make(heads={"action": partial(ActionHead, actions=6)}, objective=Diffusion)
    with pytest.raises(WiringError, match="Diffusion has actions of 7 and ActionHead of 6"):
        run_steps(task, [tiny.pack([("t", 3)])], 1)


def test_each_part_is_asked_once_with_the_whole_model() -> None:
    asked: list[tuple[str, Any]] = []

    class Asks(MLPProjector):
        def check(self, model: Composition) -> None:
            asked.append((type(self).__name__, model))

    class AsksToo(LMHead):
        def check(self, model: Composition) -> None:
            asked.append((type(self).__name__, model))

    with torch.device("meta"):
        model = tiny.model(projector=Asks(4 * tiny.VISION, tiny.WIDTH), heads={"lm": AsksToo(tiny.WIDTH, tiny.VOCAB)})
    assert [(name, id(seen)) for name, seen in asked] == [("Asks", id(model)), ("AsksToo", id(model))]
    assert Component.check(model.vision, model) is None


def test_an_embedder_without_a_backbone_takes_what_the_projector_gives() -> None:
    parts = {"vision": tiny.vision(), "merger": PixelUnshuffle(24), "embedder": TokenEmbedder(64, 32)}
    assert MultimodalModel(**parts, projector=MLPProjector(96, 32)).embedder.hidden_size == 32
    with pytest.raises(WiringError, match="MLPProjector gives tokens of width 20 and TokenEmbedder takes 32"):
        MultimodalModel(**parts, projector=MLPProjector(96, 20))


class Demanding(LinearProjector):
    def __init__(self, in_features: int, out_features: int, depth: int) -> None:
        super().__init__(in_features, out_features)


def test_a_constructor_that_takes_something_else_is_named() -> None:
    parts = small_parts(projector=Demanding)
    with pytest.raises(WiringError, match=r"the projector Demanding cannot be built for 96, 32: TypeError: .*'depth'"):
        Factories(**parts).build(tiny.VOCAB, None)
    with pytest.raises(WiringError, match=r"the vision InternViT cannot be built: TypeError: .*'num_layer'"):
        Factories(**small_parts(vision=partial(InternViT, num_layer=3))).build(tiny.VOCAB, None)


@pytest.mark.parametrize("kind", [LinearProjector, MLPProjector])
def test_projectors_of_one_map_name_several(kind: Any) -> None:
    with pytest.raises(WiringError, match=rf"{kind.__name__} takes one feature map and is given 2: \(24, 24\)"):
        kind((24, 24), 32)
