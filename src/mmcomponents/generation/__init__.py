"""Text generation.

    prompts, images ── generate, stream, Conversation ──► Sampler(model, batch, context) ──► answers

`Autoregressive` answers with text, token by token, `ImageSampler` and `GuidedGeneration` with pictures. Other samplers
may answer with either or with values.

`Past` carries the KV cache and the last positions from call to call.
"""

from mmcomponents.generation.action_samplers import DDIM, DirectActions
from mmcomponents.generation.base import Answer, Context, Sampler
from mmcomponents.generation.conversation import Conversation
from mmcomponents.generation.generate_text import generate, stream
from mmcomponents.generation.guided_generation import GuidedGeneration
from mmcomponents.generation.image_sampler import ImageSampler
from mmcomponents.generation.inputs import set_delta
from mmcomponents.generation.past import Past
from mmcomponents.generation.picture_editor import PictureEditor
from mmcomponents.generation.prompt_answers import answer_prompts
from mmcomponents.generation.sampler import Autoregressive
from mmcomponents.generation.top_boxes import TopBoxes

__all__ = [
    "DDIM",
    "Answer",
    "Autoregressive",
    "Context",
    "Conversation",
    "DirectActions",
    "GuidedGeneration",
    "ImageSampler",
    "Past",
    "PictureEditor",
    "Sampler",
    "TopBoxes",
    "answer_prompts",
    "generate",
    "set_delta",
    "stream",
]
