"""Chat templates that are not a tokenizer's own, by the name that a config gives them.

A template is Jinja, as `transformers` renders it, so that an exported tokenizer carries it and
gives the same text by itself.
"""

from typing import NamedTuple


class Template(NamedTuple):
    """How messages become text, and at which of its tokens the score is read (`chat.READS`)."""

    jinja: str
    read: str


# The system text of every conversation that brings none.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# NeMo-Aligner's (SteerLM's and HelpSteer2's recipes): texts stand as they are between markers, and
# the conversation ends with the marker that labels follow in SteerLM. The score is read at it: at
# its last token, where the tokenizer cuts it into several.
EXTRA_ID = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    f'{{% else %}}{{% set system = "{SYSTEM}" %}}{{% set turns = messages %}}{{% endif %}}'
    r"{{ '<extra_id_0>System\n' + system + '\n' }}"
    "{% for turn in turns %}"
    r"{% if turn['role'] == 'user' %}{{ '<extra_id_1>User\n' + turn['content'] + '\n' }}"
    r"{% elif turn['role'] == 'assistant' %}"
    r"{{ '<extra_id_1>Assistant\n' + turn['content'] + '\n' }}"
    "{% else %}{{ raise_exception('turns are by user or assistant, not ' + turn['role']) }}"
    "{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<extra_id_1>Assistant\n' }}"
    "{% elif turns and turns[-1]['role'] == 'assistant' %}{{ '<extra_id_2>' }}{% endif %}"
)

TEMPLATES = {"extra_id": Template(EXTRA_ID, read="last")}


def choose(name: str) -> Template:
    """The template of a name. Raises ValueError that lists the names there are."""
    if name not in TEMPLATES:
        raise ValueError(
            f"there is no template {name!r}; there are {', '.join(TEMPLATES)}, and '' for the one "
            "recorded with the checkpoint, else the tokenizer's own"
        )
    return TEMPLATES[name]
