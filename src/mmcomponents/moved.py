"""Former and present paths of modules, classes and functions.

Recipes, checkpoints and exported folders name classes by dotted path. `current_path` returns the present path of a
moved class with a warning, so that files of earlier versions stay readable.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_PREFIX = "mmcomponents."

_PACKAGES = {
    "inference.evaluation": "evaluation",
    "inference.evaluation.metrics": "evaluation.metrics",
    "inference.selectors": "evaluation.selectors",
    "data.annotations": "data.convert",
}
"""Former package -> package that exports the same names."""

_MODULES = {
    "checkpoints.adapters": "checkpoints.adapter_weights",
    "checkpoints.decoder": "checkpoints.decoder_families",
    "checkpoints.errors": "checkpoints.checkpoint_error",
    "checkpoints.export": "checkpoints.export_folder",
    "checkpoints.foreign": "checkpoints.transformers_folder",
    "cli.check": "cli.recipes.check",
    "cli.closing": "cli.terminal.closing",
    "cli.data_figures": "cli.terminal.data_figures",
    "cli.data_pack": "cli.data_convert",
    "cli.drawing": "cli.models.synthesis_options",
    "cli.errors": "cli.user_error",
    "cli.evaluate_options": "cli.evaluate",
    "cli.evaluate_tables": "cli.terminal.evaluate_tables",
    "cli.flags": "cli.recipes.flags",
    "cli.loading": "cli.models.model_loading",
    "cli.media": "cli.models.media_inputs",
    "cli.output": "cli.models.folder_output",
    "cli.recipe": "cli.recipes.recipe",
    "cli.run": "cli.trainer",
    "cli.startup": "cli.terminal.startup",
    "cli.tables": "cli.terminal.tables",
    "cli.weights": "cli.models.run_weights",
    **{f"data.convert.{name}": f"data.convert.inputs.{name}" for name in ("chunks", "input_files", "strict_json")},
    "data.ahead": "data.loading.prefetch",
    "data.annotations.budget": "data.convert.budget",
    "data.annotations.checks": "data.convert.checks",
    "data.annotations.chunks": "data.convert.inputs.chunks",
    "data.annotations.draft": "data.convert.draft",
    "data.annotations.forms": "data.convert.annotation_formats",
    "data.annotations.media": "data.convert.media_files",
    "data.annotations.messages": "data.convert.chat_messages",
    "data.annotations.pack": "data.convert.convert",
    "data.annotations.parsing": "data.convert.inputs.strict_json",
    "data.annotations.refused": "data.convert.refused",
    "data.annotations.report": "data.convert.conversion_report",
    "data.annotations.shard": "data.convert.shard_job",
    "data.annotations.sources": "data.convert.inputs.input_files",
    "data.annotations.split": "data.convert.document_split",
    "data.annotations.state": "data.convert.resume_state",
    "data.annotations.unsupported": "data.convert.unsupported",
    "data.annotations.wording": "data.convert.wording",
    "data.annotations.workers": "data.convert.workers",
    "data.augment": "data.media.augmentation",
    "data.collate": "data.loading.collation",
    "data.control_text": "data.chat.special_tokens",
    "data.counting": "data.loading.step_counts",
    "data.critique": "data.chat.critic_prompt",
    "data.dataset": "data.loading.dataset",
    "data.documents": "data.chat.document",
    "data.frames": "data.media.frames",
    "data.grounding": "data.media.boxes",
    "data.groups": "data.packing.groups",
    "data.handwriting": "demos.handwriting.builder",
    "data.handwriting_folder": "demos.handwriting.data_folder",
    "data.handwriting_questions": "demos.handwriting.digit_questions",
    "data.handwriting_scenes": "demos.handwriting.scenes",
    "data.images": "data.media.images",
    "data.index": "data.format.sample_index",
    "data.index_file": "data.format.shard_index",
    "data.indexing": "data.format.indexing",
    "data.inspection.opening": "data.inspection.opened_part",
    "data.inspection.packing": "data.inspection.pack_statistics",
    "data.inspection.page": "data.inspection.html_page",
    "data.inspection.report": "data.inspection.inspection_report",
    "data.inspection.shown": "data.inspection.sample_view",
    "data.inspection.survey": "data.inspection.index_survey",
    "data.inspection.text": "data.inspection.token_text",
    "data.loaders": "data.loading.loaders",
    "data.lookahead": "data.loading.lookahead",
    "data.mixture": "data.packing.mixture",
    "data.opening": "data.loading.opening",
    "data.order": "data.packing.order",
    "data.pairs": "data.packing.answer_pairs",
    "data.placeholders": "data.chat.placeholders",
    "data.plan": "data.packing.pack_plan",
    "data.progress": "data.loading.progress",
    "data.prompts": "data.loading.prompts",
    "data.reasons": "data.format.reasons",
    "data.records": "data.format.records",
    "data.reference_logps": "data.loading.stored_logps",
    "data.refusals": "data.loading.skipped",
    "data.rgb": "data.media.rgb",
    "data.rows": "data.format.columns",
    "data.samples": "data.chat.sample_renderer",
    "data.shards": "data.format.shards",
    "data.sizes": "data.packing.sizes",
    "data.sources": "data.packing.source_options",
    "data.storage.cache": "data.storage.local_copies",
    "data.storage.cloud": "data.storage.remote",
    "data.storage.connections": "data.storage.http",
    "data.tiling": "data.media.tiling",
    "data.tokenizer": "data.chat.tokenizer",
    "data.verdicts": "data.chat.verdicts",
    "data.video": "data.media.video",
    "inference.checking": "evaluation.checkers",
    "inference.choices": "evaluation.choices",
    "inference.conversation": "generation.conversation",
    "inference.critic": "evaluation.critic",
    "inference.drawing": "synthesis.drawing",
    "inference.evaluation.benchmarks": "evaluation.benchmarks",
    "inference.evaluation.evaluate": "evaluation.evaluation",
    "inference.evaluation.intervals": "evaluation.intervals",
    "inference.evaluation.jsonl": "evaluation.readers.jsonl",
    "inference.evaluation.metrics.anls": "evaluation.metrics.anls",
    "inference.evaluation.metrics.base": "evaluation.metrics.base",
    "inference.evaluation.metrics.captions": "evaluation.metrics.captions",
    "inference.evaluation.metrics.checked": "evaluation.metrics.checked",
    "inference.evaluation.metrics.exact_match": "evaluation.metrics.exact_match",
    "inference.evaluation.metrics.grounding": "evaluation.metrics.grounding",
    "inference.evaluation.metrics.multiple_choice": "evaluation.metrics.multiple_choice",
    "inference.evaluation.metrics.relaxed": "evaluation.metrics.relaxed",
    "inference.evaluation.outcome": "evaluation.outcome",
    "inference.evaluation.plot": "evaluation.plot",
    "inference.evaluation.rows": "evaluation.readers.question_rows",
    "inference.evaluation.shards": "evaluation.readers.shard_questions",
    "inference.evaluation.tsv": "evaluation.readers.tsv",
    "inference.generate": "generation.generate_text",
    "inference.inputs": "generation.inputs",
    "inference.journal": "synthesis.journal",
    "inference.numbers": "evaluation.numbers",
    "inference.pairs": "synthesis.pairs",
    "inference.past": "generation.past",
    "inference.preferences": "synthesis.preferences",
    "inference.process_bench": "evaluation.process_bench",
    "inference.questions": "synthesis.questions",
    "inference.rollouts": "synthesis.rollout",
    "inference.sampler": "generation.sampler",
    "inference.scoring": "evaluation.metrics.exact_match",
    "inference.selectors.aggregates": "evaluation.selectors.aggregates",
    "inference.selectors.base": "evaluation.selectors.base",
    "inference.selectors.best_of_n": "evaluation.selectors.best_of_n",
    "inference.selectors.first": "evaluation.selectors.first",
    "inference.selectors.oracle": "evaluation.selectors.oracle",
    "inference.selectors.self_consistency": "evaluation.selectors.self_consistency",
    "inference.step_scores": "synthesis.step_scores",
    "inference.steps": "synthesis.steps",
    "inference.text": "generation.text_stream",
    "nn.foreign": "nn.wrapped",
    "objectives.modes": "nn.modes",
    "objectives.weights": "objectives.weighting",
    "projectors.linear": "projectors.linear_projector",
    "projectors.mlp": "projectors.mlp_projector",
    "training.answer_sheet": "evaluation.answer_sheet",
    "training.checkpoint": "training.final_checkpoint",
    "training.fsdp2": "training.distributed.fsdp2",
    "training.gradient_watch": "training.gradients.gradient_watch",
    "training.non_finite": "training.gradients.non_finite",
    "training.pictures": "evaluation.answer_sheet",
    "training.report": "training.answer_report",
    "training.sharding": "training.distributed.sharding",
    "training.step_scores": "training.critic_metrics",
    "training.watch": "training.gradients.gradient_watch",
    "wiring": "model",
}
"""Former module -> present module."""

_NAMES = {
    ("batch", "nn.runtime"): "Runtime",
    ("data", "data.chat.document"): "render_document",
    ("data", "data.chat.placeholders"): "frame_prompt place_image place_media place_video",
    ("data", "data.chat.special_tokens"): "ConversationError TemplateError check_template",
    ("data", "data.chat.template"): "RenderedChat render_prompt",
    ("data", "data.chat.tokenizer"): "fingerprint",
    ("data", "data.format.indexing"): "IndexReport index_shards",
    ("data", "data.format.stored_sample"): "StoredSample",
    ("data", "data.format.shards"): "find_shards open_shard",
    ("data", "data.loading.collation"): "token_grid",
    ("data", "data.loading.dataset"): "PackDataset",
    ("data", "data.loading.lookahead"): "Lookahead",
    ("data", "data.loading.opening"): "PackSettings open_packs",
    ("data", "data.loading.prompts"): "PromptBatch PromptDataset prompt_batch",
    ("data", "data.media.augmentation"): "JpegRecompression",
    ("data", "data.media.boxes"): "Grounding ParsedGroundings draw_groundings format_grounding parse_groundings",
    (
        "data",
        "data.media.frames",
    ): "DrawnFrames FrameDraw FrameSampling MiddleFrames RandomFrames SameFrames draw_frame_count",
    ("data", "data.media.images"): "NORMALIZATIONS ImageError ImageSource TiledImage decode_image image_size pixels",
    ("data", "data.media.tiling"): "count_tiles",
    ("data", "data.media.video"): "VideoError video_length",
    ("data", "data.packing.mixture"): "Mixture",
    ("data", "data.packing.pack_plan"): "Budgets Pack PackPlan",
    ("data", "demos.handwriting.builder"): "make_handwriting",
    ("inference", "data.chat.critic_prompt"): "critique",
    ("inference", "evaluation.critic"): "Critic Solution",
    ("inference", "evaluation.process_bench"): "evaluate_process",
    ("inference", "evaluation.metrics.exact_match"): "exact_match",
    ("inference", "generation.conversation"): "Conversation",
    ("inference", "generation.generate_text"): "generate stream",
    ("inference", "generation.inputs"): "set_delta",
    ("inference", "generation.past"): "Past",
    ("inference", "generation.sampler"): "Autoregressive Sampler",
    ("inference", "synthesis.steps"): "ProcessSteps WholeAnswer split_steps",
}
"""(former package, present module) -> names that the package exported."""

_EXPORTED = {f"{package}.{name}": module for (package, module), names in _NAMES.items() for name in names.split()}


FORMER_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        **{name: f"images.{name}" for name in ("tile_size", "min_tiles", "max_tiles", "thumbnail")},
        **{name: f"images.{name}" for name in ("normalization", "jpeg_quality")},
        **{name: f"videos.{name}" for name in ("train_frames", "eval_frames", "frame_template")},
        **{name: f"text.{name}" for name in ("system", "control_text", "allowed_tokens")},
        "pack_tokens": "packing.tokens",
        "pack_tiles": "packing.tiles",
        "block": "packing.block",
        **{name: f"loading.{name}" for name in ("num_workers", "worker_timeout", "max_refused")},
        **{name: f"loading.{name}" for name in ("index_folder", "allow_pipe")},
        "prompts_per_batch": "questions.per_batch",
        "test_questions": "questions.limit",
    }
)
"""Former name of a setting, which recipes, flags and Python code may still use -> its name."""


def current_path(path: str) -> str:
    """Returns the present dotted path of a class or function, which is `path` itself if it has not moved.

    Args:
        path: Dotted path, such as `mmcomponents.inference.Autoregressive`.

    Warns:
        FutureWarning: The path has moved; the message names both paths.
    """
    found = _moved(path)
    if found is None:
        return path
    warnings.warn(f"{path} has moved to {found}: the former path will be removed", FutureWarning, stacklevel=2)
    return found


def moved_attribute(module: str, name: str) -> Any:
    """Returns an attribute that a module no longer defines; for the module's `__getattr__`.

    Args:
        module: Dotted path of the module.
        name: Name of the attribute.

    Raises:
        AttributeError: The module never had the attribute.
    """
    found = _moved(f"{module}.{name}")
    if found is None or name.startswith("_"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} has moved to {found}", DeprecationWarning, stacklevel=3)
    present, _, attribute = found.rpartition(".")
    return getattr(importlib.import_module(present), attribute)


def _moved(path: str) -> str | None:
    """Returns the present path of a moved object; None if it has not moved."""
    if not path.startswith(_PREFIX):
        return None
    module, _, name = path.removeprefix(_PREFIX).rpartition(".")
    present = _EXPORTED.get(f"{module}.{name}") or _MODULES.get(module) or _PACKAGES.get(module)
    return f"{_PREFIX}{present}.{name}" if present else None
