"""Loading: planned packs become batches of a training step.

    Pack ── PackDataset (read, render) ── collate ──► PackedBatch ── PackLoader ── Lookahead ──► batch with totals

Prompts for generation, skipped samples and the progress of a run are here as well.
"""

from mmcomponents.data.chat.rendered_sample import RenderedSample
from mmcomponents.data.loading.collation import collate
from mmcomponents.data.loading.dataset import PackDataset
from mmcomponents.data.loading.lookahead import Lookahead
from mmcomponents.data.loading.numbered_packs import Packs
from mmcomponents.data.loading.opening import PackSettings, open_packs
from mmcomponents.data.loading.prompts import PromptBatch, PromptDataset, Prompts, prompt_batch
from mmcomponents.data.media.images import TiledImage

__all__ = [
    "Lookahead",
    "PackDataset",
    "PackSettings",
    "Packs",
    "PromptBatch",
    "PromptDataset",
    "Prompts",
    "RenderedSample",
    "TiledImage",
    "collate",
    "open_packs",
    "prompt_batch",
]
