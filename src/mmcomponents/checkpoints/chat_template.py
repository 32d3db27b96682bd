"""Jinja chat template for transformers and servers, equivalent to `mmcomponents.data.chat.template`."""

from __future__ import annotations

import json

from mmcomponents.data.chat.placeholders import VIDEO_PLACEHOLDER
from mmcomponents.data.chat.special_tokens import END, IMAGE_CONTEXT, START

_SYSTEM = """\
{%- if not messages or messages[0]['role'] != 'system' %}
{{- '@start@system\\n' + @system@ + '@end@\\n' }}
{%- endif %}
"""

_TURNS = """\
{%- for message in messages %}
{{- '@start@' + message['role'] + '\\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}
{{- '@image@\\n' }}
{%- elif part['type'] == 'video' %}
{{- '@video@\\n' }}
{%- elif part['type'] == 'text' %}
{{- part['text'] }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '@end@\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '@start@assistant\\n' }}
{%- endif %}
"""


def chat_template(system: str | None) -> str:
    """Returns the Jinja template.

    A message's content is a text, or a list of parts of type image, video and text. An image becomes one
    `<IMG_CONTEXT>` and a line break; the processor expands it to one per visual token, enclosed in the image tags.

    Args:
        system: System text for conversations without a system message. None: no system block.
    """
    names = {"@start@": START, "@end@": END, "@image@": IMAGE_CONTEXT, "@video@": VIDEO_PLACEHOLDER}
    text = _TURNS if system is None else _SYSTEM + _TURNS
    for name, token in names.items():
        text = text.replace(name, token)
    return text if system is None else text.replace("@system@", json.dumps(system))
