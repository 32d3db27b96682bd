"""The data of a run as a LightningDataModule: packs to train and validate on, prompts to test with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule

from mmcomponents.batch import PackedBatch
from mmcomponents.data.augment import JpegRecompression
from mmcomponents.data.chat import ControlText
from mmcomponents.data.counting import StepCounts
from mmcomponents.data.dataset import PackDataset
from mmcomponents.data.errors import DataError
from mmcomponents.data.frames import DrawnFrames, MiddleFrames, SameFrames
from mmcomponents.data.images import Normalization
from mmcomponents.data.index import Index
from mmcomponents.data.loaders import PackLoader, RankPacks, one_pass
from mmcomponents.data.lookahead import Lookahead
from mmcomponents.data.mixture import Mixture, TokenShare
from mmcomponents.data.model_check import check_model
from mmcomponents.data.opening import PackSettings, check_text_alone, open_packs, open_pairs, source_tilings
from mmcomponents.data.pairs import PairsOnce
from mmcomponents.data.placeholders import FRAME_TEMPLATE
from mmcomponents.data.plan import BLOCK, Bookmark, Budgets, Pack
from mmcomponents.data.progress import PackProgress, batches_trained
from mmcomponents.data.prompts import PromptBatch, PromptDataset, one_question_each
from mmcomponents.data.reference_logps import StoredLogps, check_undisturbed
from mmcomponents.data.refusals import Refusals, Watched
from mmcomponents.data.samples import SampleRenderer
from mmcomponents.data.shards import find_shards
from mmcomponents.data.sources import SourceOptions, by_number
from mmcomponents.data.tiling import Tiling
from mmcomponents.data.tokenizer import load_tokenizer
from mmcomponents.data.verdicts import check_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class PackedDataModule(LightningDataModule):
    """Reads shards into packs.

    Training runs over an endless stream of packs, planned from the index of the shards: rank r of w takes every w-th.
    Lightning's epoch is as many batches as the plan's first epoch has. What a checkpoint holds is the number of packs
    that all ranks have used; the run goes on there, with any number of ranks and workers.

    Args:
        tokenizer: Folder of the tokenizer.
        tokens_per_tile: Rows of the visual table that a tile becomes, which the model's vision and merger decide.
        train: Shards to train on: files, patterns or folders.
        val: Shards to validate on, in one pass without shuffling.
        test: Shards whose questions are asked one by one, by `test` and `predict`.
        predict: Shards of which `predict` computes the log-probabilities of pairs of answers, in one pass, instead of
            asking the questions of `test`; samples that are no pairs are left out.
        tile_size: Side of a tile in pixels.
        min_tiles: Least tiles of an image.
        max_tiles: Most tiles of a sample's images together, thumbnails not counted.
        thumbnail: Whether an image of several tiles has a thumbnail of the whole behind them.
        normalization: Mean and deviation of the colours: imagenet, clip or siglip.
        pack_tokens: Most tokens of a pack.
        pack_tiles: Most tiles of a pack, thumbnails counted; None: no limit.
        system: System text for conversations that have none; None: no system block.
        delta_log2: V2PE's choices of k in training, delta = 2**-k; None: the position part's own delta.
        num_workers: Processes that read, for each loader.
        seed: Of shuffling and drawing.
        block: Samples that are packed together.
        max_refused: Largest share of samples that may be unusable.
        prompts_per_batch: Most questions of a test batch.
        test_questions: Questions asked in a test, from the first samples on; None: all.
        control_text: What becomes of a text that spells out a token of the template: "encode", it stays text, or
            "refuse", the sample is left out, named and counted.
        sources: What is different for single sources of the training data, by name.
        token_share: In which ratio text and multimodal training data stand, counted in tokens; None: as it comes.
        jpeg_quality: Least and largest quality at which each tile of a training image is re-compressed; InternVL takes
            75 to 100. None: it is not.
        train_frames: Fewest and most frames of a video in training, drawn for each; InternVL takes 8 to 32.
        eval_frames: Frames of a video in validation and tests.
        frame_template: Text of one frame; the indices must have been made with the same.
        index_folder: Where the indices lie; None: beside the shards.
        allow_pipe: Whether a `pipe:COMMAND` among the shards may run its shell command.
        verdicts: The positive and the negative word of a critic's training data, such as ["+", "-"], each one token.
            Every sample of train and val is then a chat in which the assistant says nothing but one of them. The text
            reads the positive word everywhere, as a critic does when it scores all steps in one forward, before any
            verdict is known; the true words are the only targets, see `data.verdicts`.
        reference_logps: Folder with log-probabilities of the pairs under a reference model, which `predict` has written
            (`training.ReferenceLogps`). They belong to undisturbed inputs: `jpeg_quality` and `delta_log2` have to be
            off, and training takes the frames of `eval_frames` too.
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
            "seed": (seed, 0),
            "block": (block, 1),
            "eval_frames": (eval_frames, 1),
        }
        for name, (value, least) in at_least.items():
            if value < least:
                raise ValueError(f"data.{name} must be at least {least}, not {value}")
        if not 0 <= max_refused <= 1:
            raise ValueError(f"data.max_refused is a share between 0 and 1, not {max_refused}")
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
        self.num_workers, self.seed, self.max_refused = num_workers, seed, max_refused
        self.prompts_per_batch, self.test_questions = prompts_per_batch, test_questions
        self._datasets: dict[str, PackDataset | PromptDataset] = {}
        self._refusals: dict[str, Refusals] = {}
        self._mixture: Mixture | None = None
        self._pairs: PairsOnce | None = None
        self._progress = PackProgress()
        self._resumed_plan: str | None = None
        self._takes_images = True  # unless `check_model` says otherwise
        if val is None:
            # Lightning takes a method that is not overridden for the absence of data, and warns about an empty list.
            self.val_dataloader = super().val_dataloader  # type: ignore[method-assign]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded when it is first asked for."""
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def renderer(self) -> SampleRenderer:
        """What becomes of a sample: the settings that training, tests and free prompts share."""
        how = (self.tiling, self.normalization, self.system, self.control_text, self.frame_template)
        return SampleRenderer(self.tokenizer, self.tokens_per_tile, *how)

    @property
    def mixture(self) -> Mixture | None:
        """What the epochs of the training data consist of; None before `setup`."""
        return self._mixture

    @property
    def train_packs(self) -> PackDataset:
        """The packs of the training data; after `setup("fit")`."""
        return self._packs("train")

    @property
    def predict_pairs(self) -> PairsOnce | None:
        """The pairs that `predict` reads; None where it asks questions, and before `setup("predict")`."""
        return self._pairs

    @property
    def source_names(self) -> list[str]:
        """Names of the training data's sources, in the order of their numbers in a pack; empty before `setup`."""
        return list(self._packs("train").index.sources) if "train" in self._datasets else []

    def validation_prompts(self, count: int) -> PromptBatch | None:
        """One question of each of the first validation samples with an image; None without validation data.

        They are the same each time: the first question of the first sample, the second of the second, and so on round.
        """
        if "val" not in self._datasets:
            return None
        return one_question_each(PromptDataset(self._packs("val").index, self.renderer, count), count)

    def check_model(
        self,
        tokens_per_tile: int | None,
        image_size: int | None,
        vocab_size: int,
        image_token_id: int | None = None,
        verdict_ids: tuple[int, int] | None = None,
    ) -> None:
        """Makes sure that data and model fit, before either is built.

        Args:
            tokens_per_tile: Rows that the model makes of a tile; None: it takes no images.
            image_size: Side of the tiles that the encoder was made for.
            vocab_size: Rows of the word table.
            image_token_id: Id that the model takes for the place of a visual row.
            verdict_ids: Token ids that a head reads as positive and negative verdict; None: there is no such head.

        Raises:
            DataError: A word of `verdicts` is no single token.
            TemplateError: The tokenizer lacks tokens of the chat template.
            ValueError: They do not fit; with both numbers.
        """
        ours = (self.tokenizer, self.tokenizer_path, self.tokens_per_tile, self.tiling.tile_size)
        check_model(*ours, tokens_per_tile, image_size, vocab_size, image_token_id, self.verdicts, verdict_ids)
        self._takes_images = tokens_per_tile is not None

    def setup(self, stage: str) -> None:
        """Opens the indices that a stage needs and plans the packs."""
        asked = "test" if self.shards["predict"] is None else "predict"
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (asked,)}[stage]
        for part in wanted:
            optional = part == "val" and stage == "fit"
            if part not in self._datasets and not (optional and self.shards[part] is None):
                self._open(part)
        if stage == "fit":
            self._progress.forget_other_run(self.trainer)

    def _open(self, part: str) -> None:
        where = self.shards[part]
        if where is None:
            raise DataError(f"the recipe's data names no shards for {part}: set data.{part}")
        shards = find_shards(where, self.allow_pipe)
        index = Index.open(shards, self.tokenizer, self.index_folder, self.frame_template)
        if not self._takes_images:
            check_text_alone(index, part)
        refusals = self._refusals[part] = Refusals(part, len(index), self.max_refused)
        if part == "test":
            tilings = source_tilings(by_number(self._evaluation(index).sources, index.sources), self.tiling)
            how = (self.prompts_per_batch, self.test_questions, self.eval_frames, tilings)
            self._datasets[part] = PromptDataset(index, self.renderer, *how)
            refusals.check_plan(index, [])
            return
        if part == "predict":
            self._datasets[part], self._pairs = open_pairs(index, self.renderer, self._evaluation(index))
            refusals.check_plan(index, self._pairs.refused)
            return
        packs, mixture = self.plan_part(part, index)
        unscored = list[tuple[int, str]]()
        if self.reference_folder is not None:
            packs.reference = StoredLogps.open(self.reference_folder, index, packs.sizes)
            unscored = packs.reference.unscored(index, {sample for sample, _ in mixture.refused})
        refusals.check_plan(index, [*mixture.refused, *unscored])
        self._datasets[part] = packs
        if part == "train":
            self._mixture = mixture

    def plan_part(self, part: str, index: Index) -> tuple[PackDataset, Mixture]:
        """Plans the packs of train or val, whatever share of the samples cannot be used.

        Raises:
            DataError: They cannot be packed at all.
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
        """An evaluation sees each sample once, as large as in training; it need not have all of training's sources."""
        known = {name: option for name, option in self.sources.items() if name in index.sources}
        sources = {name: SourceOptions(max_tiles=option.max_tiles) for name, option in known.items()}
        how = (self.budgets, self.seed, self.block)
        return PackSettings(*how, shuffle=False, frames=self.eval_frames, sources=sources, verdicts=self.verdicts)

    def train_dataloader(self) -> Lookahead:
        """The rank's packs, with the totals of each optimizer step."""
        dataset = self._packs("train")
        self._progress.adopt(self.trainer, dataset.plan.epoch_length())
        loader = PackLoader(dataset, self._next_packs, self._epoch_length(), self.num_workers)
        counts = StepCounts(self._refusals["train"], len(dataset.index.sources), self.budgets)
        return Lookahead(loader, self._window, lambda batch: counts.of(batch, self.trainer), counts.reduce, self._place)

    def val_dataloader(self) -> Watched[PackedBatch]:
        """The validation packs, each on one rank."""
        return self._packs_once("val")

    def test_dataloader(self) -> Watched[PromptBatch]:
        """The test questions, each on one rank."""
        dataset, (rank, world) = self._datasets["test"], self._ranks()
        assert isinstance(dataset, PromptDataset)
        items = one_pass(len(dataset), rank, world)
        return Watched(PackLoader(dataset, lambda: items, len(items), self.num_workers), self._refusals["test"])

    def predict_dataloader(self) -> Watched[PackedBatch] | Watched[PromptBatch]:
        """The pairs of `predict`, each on one rank, or the test questions."""
        return self.test_dataloader() if self.shards["predict"] is None else self._packs_once("predict")

    def _packs_once(self, part: str) -> Watched[PackedBatch]:
        dataset, (rank, world) = self._packs(part), self._ranks()
        items = one_pass(dataset.plan.packs_in_epoch(0), rank, world)
        packs = [None if number is None else dataset.plan.pack(number) for number in items]
        return Watched(PackLoader(dataset, lambda: packs, len(packs), self.num_workers), self._refusals[part])

    def state_dict(self) -> dict[str, Any]:
        """The packs that all ranks have used: the same on each of them."""
        if "train" not in self._datasets:
            return {}
        used, plan = self._progress.used(self.trainer), self._packs("train").plan
        # Of a pack that was read: nothing is planned for it, which the thread that reads may be doing just now.
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
        """Goes on behind the packs that were used."""
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
        """The packs of this rank that are left of the epoch; asked for when the first batch is."""
        plan, (rank, world), (done, length) = self._packs("train").plan, self._ranks(), self._place()
        if self._resumed_plan not in (None, plan.fingerprint()):
            logger.warning("the data or its settings changed since the checkpoint: samples may repeat or be missed")
        self._resumed_plan = None
        return RankPacks(plan, self._progress.used(self.trainer) + rank, world, length - done)

    def _window(self) -> int:
        return 1 if self.trainer is None else int(self.trainer.accumulate_grad_batches)
