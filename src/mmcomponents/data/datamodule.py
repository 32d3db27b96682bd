"""LightningDataModule with packs for training and validation, and prompts for tests."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmcomponents.data.base import DataModule, Part
from mmcomponents.data.chat.kinds import Kinds, RecordKind, ScoredSteps
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import find_shards
from mmcomponents.data.loading.dataset import PackDataset, check_delta_log2
from mmcomponents.data.loading.opening import (
    PackSettings,
    check_text_alone,
    check_tiles,
    open_packs,
    open_pairs,
    source_tilings,
)
from mmcomponents.data.loading.prompts import PromptBatch, PromptDataset
from mmcomponents.data.loading.skipped import SkippedSamples
from mmcomponents.data.loading.stored_logps import StoredLogps, check_undisturbed
from mmcomponents.data.model_check import check_model
from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.base import Packer
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.source_options import SourceOptions, by_number
from mmcomponents.data.settings import (
    ImageSettings,
    LoadingSettings,
    PackingSettings,
    QuestionSettings,
    TextSettings,
    VideoSettings,
    at_least,
    check_types,
    takes,
    with_former,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_IMAGES, _VIDEOS, _TEXT = ImageSettings(), VideoSettings(), TextSettings()
_PACKING, _LOADING, _QUESTIONS = PackingSettings(), LoadingSettings(), QuestionSettings()


class PackedDataModule(DataModule):
    """Loads shards as packs, planned from the index of the shards.

    Settings are in groups; the former names of `data.settings.FORMER_SETTINGS`, such as `pack_tokens` for
    `packing.tokens`, are still accepted.

    Args:
        tokenizer: Folder of the tokenizer; "byte-level" for data without text.
        tokens_per_tile: Visual tokens per tile, as the model's vision encoder and merger produce them. None: those of
            the model, see `check_model`.
        train: Training shards: files, patterns or folders.
        val: Validation shards, read in one pass without shuffling.
        test: Shards whose questions `test` and `predict` use as separate prompts.
        predict: Shards of which `predict` computes the log-probabilities of pairs of answers, in one pass, instead of
            answering the questions of `test`; samples that are not pairs are left out.
        images: Tiles of images.
        videos: Frames of videos.
        text: Texts of conversations.
        packing: Size of packs.
        loading: Reading of shards.
        questions: Questions of `test` and `predict`.
        seed: Random seed.
        delta_log2: V2PE's choices of k in training, delta = 2**-k; None: the position encoding's own delta.
        sources: Options of single sources of the training data, by name.
        token_share: Ratio of text tokens to multimodal tokens in training; None: as in the data.
        kinds: Record kinds, of which exactly one must match a sample; None: chat, document and pair. The indices must
            be made with the same kinds.
        packer: Distributes samples over packs; None: `BalancedPacker`.
        verdicts: The positive and the negative verdict word of a critic's training data, such as ["+", "-"], each a
            single token. Every sample of train and val must then be a chat in which each assistant turn is one of them.
            All input verdicts are the positive word, as when a critic scores all steps in one forward, before any
            verdict is known; the true words are the only targets, see `ScoredSteps`.
        reference_logps: Folder with log-probabilities of the pairs under a reference model, written by `predict`
            (`training.ReferenceLogps`). They are valid for inputs without augmentation: `images.jpeg_quality` and
            `delta_log2` must be off, and training uses `videos.eval_frames` too.
        former: Settings by their former names.

    Raises:
        TypeError: There is no such argument.
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        tokenizer: str,
        tokens_per_tile: int | None = None,
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        predict: list[str] | str | None = None,
        images: ImageSettings = _IMAGES,
        videos: VideoSettings = _VIDEOS,
        text: TextSettings = _TEXT,
        packing: PackingSettings = _PACKING,
        loading: LoadingSettings = _LOADING,
        questions: QuestionSettings = _QUESTIONS,
        seed: int = 0,
        delta_log2: list[int] | None = None,
        sources: dict[str, SourceOptions] | None = None,
        token_share: TokenShare | None = None,
        kinds: list[RecordKind] | None = None,
        packer: Packer | None = None,
        verdicts: list[str] | None = None,
        reference_logps: str | None = None,
        **former: Any,
    ) -> None:
        given = {"images": images, "videos": videos, "text": text, "packing": packing}
        groups = with_former(given | {"loading": loading, "questions": questions}, former)
        super().__init__(groups["loading"])
        self.images: ImageSettings = groups["images"]
        self.videos: VideoSettings = groups["videos"]
        self.text: TextSettings = groups["text"]
        self.packing: PackingSettings = groups["packing"]
        self.questions: QuestionSettings = groups["questions"]
        at_least("seed", seed, 0)
        if tokens_per_tile is not None:
            at_least("tokens_per_tile", tokens_per_tile, 1)
        check_delta_log2(delta_log2)
        for name, option in (sources or {}).items():
            takes(f"sources.{name}", option, SourceOptions)
            check_types(f"sources.{name}", option)
            option.check(name)
        if token_share is not None:
            takes("token_share", token_share, TokenShare)
            check_types("token_share", token_share)
            token_share.check()
        self.tokenizer_path = tokenizer
        self._tokens_per_tile = tokens_per_tile
        self.shards = {"train": train, "val": val, "test": test, "predict": predict}
        self.predict_part = "test" if predict is None else "predict"
        self.seed, self.delta_log2, self.packer = seed, delta_log2, packer
        self.sources, self.token_share = sources or {}, token_share
        if packer is not None:
            takes("packer", packer, Packer)
        self.kinds = Kinds(kinds)
        scored = [kind for kind in self.kinds.kinds if isinstance(kind, ScoredSteps)]
        if scored and verdicts is not None:
            raise ValueError("data.verdicts and ScoredSteps in data.kinds are the same setting; give one of them")
        self.steps = ScoredSteps(verdicts) if verdicts is not None else next(iter(scored), None)
        self.reference_folder = reference_logps
        if reference_logps is not None:
            check_undisturbed({"images.jpeg_quality": self.images.jpeg_quality, "delta_log2": delta_log2})
        self._mixture: Mixture | None = None
        self._pairs: PairsOnce | None = None
        self._takes_images = self._places_images = True  # until `check_model` is called

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens per tile; if none are given, those of the trainer's model.

        Raises:
            DataError: None are given, and there is no model.
        """
        check = getattr(getattr(self.trainer, "lightning_module", None), "check", None)
        if self._tokens_per_tile is None and check is not None:
            check(self)
        if self._tokens_per_tile is None:
            raise DataError("data.tokens_per_tile is not set, and there is no model to take it from")
        return self._tokens_per_tile

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded on first use."""
        return load_tokenizer(self.tokenizer_path, self.text.allowed_tokens)

    @cached_property
    def renderer(self) -> SampleRenderer:
        """The renderer that training, tests and free prompts share."""
        return SampleRenderer(
            self.tokenizer,
            self.tokens_per_tile,
            tiling=self.images.tiling(),
            normalization=self.images.normalization,
            system=self.text.system,
            control_text=self.text.control_text,
            frame_template=self.videos.frame_template,
            typed_by=self.kinds.kinds,
        )

    @property
    def mixture(self) -> Mixture | None:
        """The mixture of the training data; None before `setup`."""
        return self._mixture

    @property
    def train_packs(self) -> PackDataset:
        """The packs of the training data; available after `setup("fit")`."""
        packs = self.packs("train")
        assert isinstance(packs, PackDataset)
        return packs

    @property
    def predict_pairs(self) -> PairsOnce | None:
        """The pairs that `predict` reads; None if it answers questions, and before `setup("predict")`."""
        return self._pairs

    def validation_prompts(self, count: int) -> PromptBatch | None:
        """Returns one question of each of the first validation samples with an image; None without validation data.

        The choice is fixed, see `PromptDataset.one_question_each`.
        """
        if "val" not in self._datasets:
            return None
        packs = self.packs("val")
        assert isinstance(packs, PackDataset)
        return PromptDataset(packs.index, self.renderer, count, seed=self.seed).one_question_each(count)

    def check_model(
        self,
        tokens_per_tile: int | None,
        image_size: int | None,
        vocab_size: int | None,
        image_token_id: int | None = None,
        verdict_ids: tuple[int, int] | None = None,
    ) -> None:
        """Checks that data and model fit, before either is built; takes `tokens_per_tile` from the model if it is None.

        Args:
            tokens_per_tile: Visual tokens per tile of the model; None if it takes no images.
            image_size: Side in pixels of the tiles that the vision encoder expects; None without one.
            vocab_size: Vocabulary size of the model; None if it has no language side.
            image_token_id: Token id of the model's image placeholder.
            verdict_ids: Token ids of the positive and the negative verdict of the model's head; None without such a
                head.

        Raises:
            DataError: A word of `verdicts` is not a single token.
            TemplateError: The tokenizer lacks tokens of the chat template.
            ValueError: Data and model do not fit; the message has both numbers.
        """
        if self._tokens_per_tile is None:
            self._tokens_per_tile = tokens_per_tile or 1  # without images the number has no meaning
        check_model(
            self.tokenizer,
            self.tokenizer_path,
            data_tokens_per_tile=self.tokens_per_tile,
            tile_size=self.images.tile_size,
            tokens_per_tile=tokens_per_tile,
            image_size=image_size,
            vocab_size=vocab_size,
            image_token_id=image_token_id,
            verdicts=None if self.steps is None else self.steps.words,
            verdict_ids=verdict_ids,
        )
        self._takes_images, self._places_images = image_size is not None, tokens_per_tile is not None

    def open(self, part: Part) -> PackDataset | PromptDataset | None:
        """Opens the indices of a part and plans its packs; None if the part has no shards."""
        index = self.open_index(part)
        if index is None:
            return None
        if not self._takes_images:
            check_text_alone(index, part)
        skipped = SkippedSamples(part, len(index), self.loading.max_refused)
        if part == "test":
            skipped.check_plan(index, [])
            tiling = self.images.tiling()
            prompts = PromptDataset(
                index,
                self.renderer,
                prompts_per_batch=self.questions.per_batch,
                questions=self.questions.limit,
                frames=self.videos.fixed(),
                tilings=source_tilings(by_number(self._evaluation(index).sources, index.sources), tiling),
                seed=self.seed,
            )
            if not prompts.turns:
                raise DataError(f"none of the {len(index)} samples of data.test has a question")
            return prompts
        if part == "predict":
            packs, self._pairs = open_pairs(index, self.renderer, self._evaluation(index))
            skipped.check_plan(index, self._pairs.refused)
            return packs
        packs, mixture = self.plan_part(part, index)
        unscored = list[tuple[int, str]]()
        if self.reference_folder is not None:
            packs.reference = StoredLogps.open(self.reference_folder, index, packs.sizes)
            unscored = packs.reference.unscored(index, {sample for sample, _ in mixture.refused})
        skipped.check_plan(index, [*mixture.refused, *unscored])
        if part == "train":
            self._mixture = mixture
        return packs

    def open_index(self, part: Part) -> Index | None:
        """Opens the indices of a part, with the record kinds of the run; None if it has no shards.

        Raises:
            DataError: An index is missing, of another tokenizer or of other tiles, or a verdict is not a single token.
        """
        if self.shards[part] is None:
            return None
        kinds = self.kinds
        if self.steps is not None and part in ("train", "val"):
            self.steps.verdicts(self.tokenizer)
            kinds = Kinds([self.steps, *self.kinds.third_party])
        shards = find_shards(self.shards[part] or [], self.loading.allow_pipe)
        template = self.videos.frame_template
        index = Index.open(shards, self.tokenizer, self.loading.index_folder, template, kinds)
        if self._takes_images and self._places_images and self._tokens_per_tile is not None:
            check_tiles(index, self.images.tile_size, self._tokens_per_tile)
        return index

    def plan_part(self, part: Part, index: Index) -> tuple[PackDataset, Mixture]:
        """Plans the packs of train or val, without the limit on skipped samples.

        Raises:
            DataError: The data cannot be packed.
        """
        try:
            return open_packs(index, self.renderer, self._training() if part == "train" else self._evaluation(index))
        except DataError as error:
            raise DataError(f"the {part} data cannot be packed: {error}") from error

    def _training(self) -> PackSettings:
        return PackSettings(
            self.packing.budgets(),
            self.seed,
            self.packing.block,
            frames=self.videos.drawn() if self.reference_folder is None else self.videos.fixed(),
            sources=self.sources,
            share=self.token_share,
            delta_log2=self.delta_log2,
            jpeg=self.images.jpeg(),
            packer=self.packer,
            is_training=True,
        )

    def _evaluation(self, index: Index) -> PackSettings:
        """Returns settings for one pass over the samples, with the tiles of training for those sources that it has."""
        known = {name: option for name, option in self.sources.items() if name in index.sources}
        return PackSettings(
            self.packing.budgets(),
            self.seed,
            self.packing.block,
            shuffle=False,
            frames=self.videos.fixed(),
            sources={name: SourceOptions(max_tiles=option.max_tiles) for name, option in known.items()},
            packer=self.packer,
        )
