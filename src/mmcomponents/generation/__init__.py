"""Text generation.

    prompts, images ── generate, stream, Conversation ──► Sampler(model, batch, Past) ──► token ids ──► text

`Past` carries the KV cache and the last positions from call to call.
"""

from mmcomponents.generation.conversation import Conversation
from mmcomponents.generation.generate_text import generate, stream
from mmcomponents.generation.inputs import set_delta
from mmcomponents.generation.past import Past
from mmcomponents.generation.sampler import Autoregressive, Sampler

__all__ = [
    "Autoregressive",
    "Conversation",
    "Past",
    "Sampler",
    "generate",
    "set_delta",
    "stream",
]
