"""LightningDataModule with packs for training and validation, and prompts for tests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from lightning.pytorch import LightningDataModule
from torch.utils.data import Dataset

from mmcomponents.batch import PackedBatch
from mmcomponents.data.chat.placeholders import FRAME_TEMPLATE
from mmcomponents.data.chat.sample_renderer import SampleRenderer
from mmcomponents.data.chat.special_tokens import ControlText
from mmcomponents.data.chat.tokenizer import load_tokenizer
from mmcomponents.data.chat.verdicts import check_words
from mmcomponents.data.errors import DataError
from mmcomponents.data.format.sample_index import Index
from mmcomponents.data.format.shards import find_shards
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.loading.loaders import WORKER_TIMEOUT, PackLoader, RankPacks, one_pass
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.data.loading.opening import PackSettings, check_text_alone, open_packs, open_pairs, source_tilings
from mmcomponents.data.loading.progress import PackProgress, batches_trained
from mmcomponents.data.loading.prompts import PromptBatch, PromptDataset
from mmcomponents.data.loading.skipped import SkippedSamples, Watched
from mmcomponents.data.loading.step_counts import StepCounts
from mmcomponents.data.loading.stored_logps import StoredLogps, check_undisturbed
from mmcomponents.data.media.augmentation import JpegRecompression
from mmcomponents.data.media.frames import DrawnFrames, MiddleFrames, SameFrames
from mmcomponents.data.media.images import Normalization
from mmcomponents.data.media.tiling import Tiling
from mmcomponents.data.model_check import check_model
from mmcomponents.data.packing.answer_pairs import PairsOnce
from mmcomponents.data.packing.mixture import Mixture, TokenShare
from mmcomponents.data.packing.pack_plan import BLOCK, Bookmark, Budgets, Pack
from mmcomponents.data.packing.source_options import SourceOptions, by_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

B = TypeVar("B")


class PackedDataModule(LightningDataModule):
    """Loads shards as packs.

    Training iterates over an endless sequence of packs, planned from the index of the shards: rank r of w uses every
    w-th. An epoch of Lightning has as many batches as the plan's first epoch. A checkpoint holds the number of packs
    that all ranks have used; a run resumes there, with any number of ranks and workers.

    Args:
        tokenizer: Folder of the tokenizer.
        tokens_per_tile: Visual tokens per tile, as the model's vision encoder and merger produce them.
        train: Training shards: files, patterns or folders.
        val: Validation shards, read in one pass without shuffling.
        test: Shards whose questions `test` and `predict` use as separate prompts.
        predict: Shards of which `predict` computes the log-probabilities of pairs of answers, in one pass, instead of
            answering the questions of `test`; samples that are not pairs are left out.
        tile_size: Side of a tile in pixels.
        min_tiles: Smallest number of tiles of an image.
        max_tiles: Largest number of tiles of all images of a sample, without thumbnails.
        thumbnail: Whether to append a thumbnail to the tiles of an image with several.
        normalization: Mean and deviation of the colours: imagenet, clip or siglip.
        pack_tokens: Largest number of tokens of a pack.
        pack_tiles: Largest number of tiles of a pack, with thumbnails; None: no limit.
        system: System text for conversations that have none; None: no system block.
        delta_log2: V2PE's choices of k in training, delta = 2**-k; None: the position encoding's own delta.
        num_workers: Number of worker processes of each loader; 0: a thread of the process itself reads.
        worker_timeout: Seconds after which a run ends if a worker process returns nothing, because it is stopped or
            waits for a file; 0: no limit.
        seed: Random seed.
        block: Number of samples that are packed together.
        max_refused: Largest share of samples that may be skipped.
        prompts_per_batch: Largest number of questions in a test batch.
        test_questions: Number of test questions, taken from the first samples; None: all.
        control_text: Handling of a text that spells out a token of the template: "encode" tokenizes it as ordinary
            text, "refuse" skips the sample.
        sources: Options of single sources of the training data, by name.
        token_share: Ratio of text tokens to multimodal tokens in training; None: as in the data.
        jpeg_quality: Smallest and largest quality for the re-compression of each tile of a training image; InternVL
            uses 75 to 100. None: no re-compression.
        train_frames: Smallest and largest number of frames of a video in training, drawn for each; InternVL uses 8 to
            32.
        eval_frames: Number of frames of a video in validation and tests.
        frame_template: Text of one frame; must be the one that the indices were made with.
        index_folder: Folder of the indices; None: beside the shards.
        allow_pipe: Whether a `pipe:COMMAND` among the shards may run its shell command. A recipe cannot set it, only
            the flag `--data.allow_pipe true`.
        verdicts: The positive and the negative verdict word of a critic's training data, such as ["+", "-"], each a
            single token. Every sample of train and val must then be a chat in which each assistant turn is one of them.
            All input verdicts are the positive word, as when a critic scores all steps in one forward, before any
            verdict is known; the true words are the only targets, see `data.verdicts`.
        reference_logps: Folder with log-probabilities of the pairs under a reference model, written by `predict`
            (`training.ReferenceLogps`). They are valid for inputs without augmentation: `jpeg_quality` and
            `delta_log2` must be off, and training uses `eval_frames` too.
    """

    def __init__(
        self,
        tokenizer: str,
        tokens_per_tile: int,
        train: list[str] | str | None = None,
        val: list[str] | str | None = None,
        test: list[str] | str | None = None,
        predict: list[str] | str | None = None,
        tile_size: int = 448,
        min_tiles: int = 1,
        max_tiles: int = 12,
        thumbnail: bool = True,
        normalization: Normalization = "imagenet",
        pack_tokens: int = 16384,
        pack_tiles: int | None = 48,
        system: str | None = None,
        delta_log2: list[int] | None = None,
        num_workers: int = 2,
        worker_timeout: float = WORKER_TIMEOUT,
        seed: int = 0,
        block: int = BLOCK,
        max_refused: float = 0.01,
        prompts_per_batch: int = 64,
        test_questions: int | None = None,
        control_text: ControlText = "encode",
        sources: dict[str, SourceOptions] | None = None,
        token_share: TokenShare | None = None,
        jpeg_quality: tuple[int, int] | None = None,
        train_frames: tuple[int, int] = (8, 32),
        eval_frames: int = 16,
        frame_template: str = FRAME_TEMPLATE,
        index_folder: str | None = None,
        allow_pipe: bool = False,
        verdicts: list[str] | None = None,
        reference_logps: str | None = None,
    ) -> None:
        super().__init__()
        at_least = {
            "num_workers": (num_workers, 0),
            "worker_timeout": (worker_timeout, 0),
            "seed": (seed, 0),
            "block": (block, 1),
            "eval_frames": (eval_frames, 1),
        }
        for name, (value, least) in at_least.items():
            if not value >= least:
                raise ValueError(f"data.{name} must be at least {least}, not {value}")
        if not 0 <= max_refused <= 1:
            raise ValueError(f"data.max_refused must be a share between 0 and 1, got {max_refused}")
        for name, option in (sources or {}).items():
            option.check(name)
        if token_share is not None:
            token_share.check()
        self.tokenizer_path = tokenizer
        self.tokens_per_tile = tokens_per_tile
        self.shards = {"train": train, "val": val, "test": test, "predict": predict}
        self.tiling = Tiling(min_tiles, max_tiles, tile_size, thumbnail)
        self.normalization: Normalization = normalization
        self.budgets, self.block = Budgets(pack_tokens, pack_tiles), block
        self.system, self.delta_log2 = system, delta_log2
        self.sources, self.token_share = sources or {}, token_share
        try:
            self.jpeg = None if jpeg_quality is None else JpegRecompression(*jpeg_quality)
            self.train_frames, self.eval_frames = DrawnFrames(*train_frames), SameFrames(MiddleFrames(eval_frames))
        except ValueError as error:
            raise ValueError(f"data.jpeg_quality, train_frames or eval_frames: {error}") from error
        self.frame_template, self.index_folder, self.allow_pipe = frame_template, index_folder, allow_pipe
        self.control_text: ControlText = control_text
        self.verdicts = None if verdicts is None else check_words(verdicts)
        self.reference_folder = reference_logps
        if reference_logps is not None:
            check_undisturbed({"jpeg_quality": jpeg_quality, "delta_log2": delta_log2})
        self.num_workers, self.worker_timeout = num_workers, worker_timeout
        self.seed, self.max_refused = seed, max_refused
        self.prompts_per_batch, self.test_questions = prompts_per_batch, test_questions
        self._datasets: dict[str, PackDataset | PromptDataset] = {}
        self._skipped: dict[str, SkippedSamples] = {}
        self._mixture: Mixture | None = None
        self._pairs: PairsOnce | None = None
        self._progress = PackProgress()
        self._resumed_plan: str | None = None
        self._takes_images = True  # until `check_model` is called
        if val is None:
            # Lightning takes a method that is not overridden as the absence of data, and warns about an empty list.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded on first use."""
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def renderer(self) -> SampleRenderer:
        """The renderer that training, tests and free prompts share."""
        return SampleRenderer(
            self.tokenizer,
            self.tokens_per_tile,
            tiling=self.tiling,
            normalization=self.normalization,
            system=self.system,
            control_text=self.control_text,
            frame_template=self.frame_template,
        )

    @property
    def mixture(self) -> Mixture | None:
        """The mixture of the training data; None before `setup`."""
        return self._mixture

    @property
    def train_packs(self) -> PackDataset:
        """The packs of the training data; available after `setup("fit")`."""
        return self._packs("train")

    @property
    def predict_pairs(self) -> PairsOnce | None:
        """The pairs that `predict` reads; None if it answers questions, and before `setup("predict")`."""
        return self._pairs

    @property
    def source_names(self) -> list[str]:
        """Names of the training sources in the order of their numbers; empty before `setup`."""
        return list(self._packs("train").index.sources) if "train" in self._datasets else []

    def validation_prompts(self, count: int) -> PromptBatch | None:
        """Returns one question of each of the first validation samples with an image; None without validation data.

        The choice is fixed, see `PromptDataset.one_question_each`.
        """
        if "val" not in self._datasets:
            return None
        return PromptDataset(self._packs("val").index, self.renderer, count).one_question_each(count)

    def check_model(
        self,
        tokens_per_tile: int | None,
        image_size: int | None,
        vocab_size: int,
        image_token_id: int | None = None,
        verdict_ids: tuple[int, int] | None = None,
    ) -> None:
        """Checks that data and model fit, before either is built.

        Args:
            tokens_per_tile: Visual tokens per tile of the model; None if it takes no images.
            image_size: Side in pixels of the tiles that the vision encoder expects.
            vocab_size: Vocabulary size of the model.
            image_token_id: Token id of the model's image placeholder.
            verdict_ids: Token ids of the positive and the negative verdict of the model's head; None without such a
                head.

        Raises:
            DataError: A word of `verdicts` is not a single token.
            TemplateError: The tokenizer lacks tokens of the chat template.
            ValueError: Data and model do not fit; the message has both numbers.
        """
        check_model(
            self.tokenizer,
            self.tokenizer_path,
            data_tokens_per_tile=self.tokens_per_tile,
            tile_size=self.tiling.tile_size,
            tokens_per_tile=tokens_per_tile,
            image_size=image_size,
            vocab_size=vocab_size,
            image_token_id=image_token_id,
            verdicts=self.verdicts,
            verdict_ids=verdict_ids,
        )
        self._takes_images = tokens_per_tile is not None

    def setup(self, stage: str) -> None:
        """Opens the indices that a stage needs and plans the packs."""
        predicted = "test" if self.shards["predict"] is None else "predict"
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (predicted,)}[stage]
        for part in wanted:
            optional = part == "val" and stage == "fit"
            if part not in self._datasets and not (optional and self.shards[part] is None):
                self._open(part)
        if stage == "fit":
            self._progress.forget_other_run(self.trainer)

    def _open(self, part: str) -> None:
        where = self.shards[part]
        if where is None:
            raise DataError(f"the recipe has no {part} shards: set data.{part}")
        shards = find_shards(where, self.allow_pipe)
        index = Index.open(shards, self.tokenizer, self.index_folder, self.frame_template)
        if not self._takes_images:
            check_text_alone(index, part)
        skipped = self._skipped[part] = SkippedSamples(part, len(index), self.max_refused)
        if part == "test":
            self._datasets[part] = PromptDataset(
                index,
                self.renderer,
                prompts_per_batch=self.prompts_per_batch,
                questions=self.test_questions,
                frames=self.eval_frames,
                tilings=source_tilings(by_number(self._evaluation(index).sources, index.sources), self.tiling),
            )
            skipped.check_plan(index, [])
            return
        if part == "predict":
            self._datasets[part], self._pairs = open_pairs(index, self.renderer, self._evaluation(index))
            skipped.check_plan(index, self._pairs.refused)
            return
        packs, mixture = self.plan_part(part, index)
        unscored = list[tuple[int, str]]()
        if self.reference_folder is not None:
            packs.reference = StoredLogps.open(self.reference_folder, index, packs.sizes)
            unscored = packs.reference.unscored(index, {sample for sample, _ in mixture.refused})
        skipped.check_plan(index, [*mixture.refused, *unscored])
        self._datasets[part] = packs
        if part == "train":
            self._mixture = mixture

    def plan_part(self, part: str, index: Index) -> tuple[PackDataset, Mixture]:
        """Plans the packs of train or val, without the limit on skipped samples.

        Raises:
            DataError: The data cannot be packed.
        """
        if part == "train":
            settings = PackSettings(
                self.budgets,
                self.seed,
                self.block,
                frames=self.train_frames if self.reference_folder is None else self.eval_frames,
                sources=self.sources,
                share=self.token_share,
                delta_log2=self.delta_log2,
                jpeg=self.jpeg,
                verdicts=self.verdicts,
            )
        else:
            settings = self._evaluation(index)
        try:
            return open_packs(index, self.renderer, settings)
        except DataError as error:
            raise DataError(f"the {part} data cannot be packed: {error}") from error

    def _evaluation(self, index: Index) -> PackSettings:
        """Returns settings for one pass over the samples, with the tiles of training for those sources that it has."""
        known = {name: option for name, option in self.sources.items() if name in index.sources}
        return PackSettings(
            self.budgets,
            self.seed,
            self.block,
            shuffle=False,
            frames=self.eval_frames,
            sources={name: SourceOptions(max_tiles=option.max_tiles) for name, option in known.items()},
            verdicts=self.verdicts,
        )

    def train_dataloader(self) -> Lookahead:
        """Returns the loader of this rank's packs, with the totals of each optimizer step."""
        dataset = self._packs("train")
        self._progress.adopt(self.trainer, dataset.plan.epoch_length())
        loader = self._loader(dataset, self._next_packs, self._epoch_length())
        counts = StepCounts(self._skipped["train"], len(dataset.index.sources), self.budgets)
        return Lookahead(loader, self._window, lambda batch: counts.of(batch, self.trainer), counts.reduce, self._place)

    def val_dataloader(self) -> Watched[PackedBatch]:
        """Returns the loader of the validation packs, each on one rank."""
        return self._packs_once("val")

    def test_dataloader(self) -> Watched[PromptBatch]:
        """Returns the loader of the test questions, each on one rank."""
        dataset, (rank, world) = self._datasets["test"], self._ranks()
        assert isinstance(dataset, PromptDataset)
        items = one_pass(len(dataset), rank, world)
        return Watched(self._loader(dataset, lambda: items, len(items)), self._skipped["test"])

    def predict_dataloader(self) -> Watched[PackedBatch] | Watched[PromptBatch]:
        """Returns the loader of the pairs of `predict`, each on one rank, or of the test questions."""
        return self.test_dataloader() if self.shards["predict"] is None else self._packs_once("predict")

    def _packs_once(self, part: str) -> Watched[PackedBatch]:
        dataset, (rank, world) = self._packs(part), self._ranks()
        items = one_pass(dataset.plan.packs_in_epoch(0), rank, world)
        packs = [None if number is None else dataset.plan.pack(number) for number in items]
        return Watched(self._loader(dataset, lambda: packs, len(packs)), self._skipped[part])

    def _loader(self, dataset: Dataset[B], items: Callable[[], Iterable[Any]], length: int) -> PackLoader[B]:
        return PackLoader(dataset, items, length, self.num_workers, self.worker_timeout)

    def state_dict(self) -> dict[str, Any]:
        """Returns the progress in packs, equal on all ranks."""
        if "train" not in self._datasets:
            return {}
        used, plan = self._progress.used(self.trainer), self._packs("train").plan
        # The bookmark is that of a pack already read, so that planning is not done in two threads at once.
        read = max(self._progress.packs, used - self._ranks()[1])
        return {
            "packs": used,
            "batches": batches_trained(self.trainer),
            "world": self._ranks()[1],
            "begin": self._progress.begin,
            "plan": plan.fingerprint(),
            "bookmark": tuple(plan.bookmark(read)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the progress, so that training continues after the packs that were used."""
        self._progress.load(*(int(state_dict.get(name, 0)) for name in ("packs", "batches", "world", "begin")))
        self._resumed_plan = state_dict.get("plan")
        plan = self._packs("train").plan if "train" in self._datasets else None
        if plan is not None and self._resumed_plan == plan.fingerprint() and "bookmark" in state_dict:
            plan.open_at(Bookmark(*state_dict["bookmark"]))

    def _packs(self, part: str) -> PackDataset:
        dataset = self._datasets[part]
        assert isinstance(dataset, PackDataset)
        return dataset

    def _ranks(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _epoch_length(self) -> int:
        return -(-self._packs("train").plan.epoch_length() // self._ranks()[1])

    def _place(self) -> tuple[int, int]:
        return self._progress.place(self.trainer, self._epoch_length())

    def _next_packs(self) -> Iterable[Pack]:
        """Returns the remaining packs of the epoch on this rank; called when the first batch is requested."""
        plan, (rank, world), (done, length) = self._packs("train").plan, self._ranks(), self._place()
        if self._resumed_plan not in (None, plan.fingerprint()):
            logger.warning("the data or its settings changed since the checkpoint: samples may be repeated or missed")
        self._resumed_plan = None
        return RankPacks(plan, self._progress.used(self.trainer) + rank, world, length - done)

    def _window(self) -> int:
        return 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)
