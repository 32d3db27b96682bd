"""The chat template as transformers and servers read it: what `mmcomponents.data.chat` renders, in Jinja."""

from __future__ import annotations

import json

from mmcomponents.data.chat import END, IMAGE_CONTEXT, START
from mmcomponents.data.placeholders import VIDEO_PLACEHOLDER

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
    """The template, in Jinja.

    A message's content is a text, or a list of parts of type image, video and text. An image becomes one
    `<IMG_CONTEXT>` and a line break; the processor puts as many of them there, in their tags, as the image has rows.

    Args:
        system: Text of a system block for conversations that bring none; None: no block.
    """
    names = {"@start@": START, "@end@": END, "@image@": IMAGE_CONTEXT, "@video@": VIDEO_PLACEHOLDER}
    text = _TURNS if system is None else _SYSTEM + _TURNS
    for name, token in names.items():
        text = text.replace(name, token)
    return text if system is None else text.replace("@system@", json.dumps(system))
