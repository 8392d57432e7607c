"""Chat templates that are not a tokenizer's own, by the name that a config gives them.

A template is Jinja, as `transformers` renders it, so that an exported tokenizer carries it and
gives the same text by itself.
"""

import copy
import logging
import re
from collections.abc import Iterable, Mapping

from hs2jax.data.formats import ATTRIBUTES

log = logging.getLogger(__name__)

# The system text of every conversation that brings none.
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# In this order NeMo-Aligner writes the values of attributes: OpenAssistant's, then HelpSteer's.
ORDER = ("quality", "toxicity", "humor", "creativity", *ATTRIBUTES)
MARKERS = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")


def _nemo(end: str) -> str:
    """NeMo-Aligner's form: texts stand as they are between markers, and `end` is the marker that
    follows the conversation's last turn, where it is the assistant's."""
    return (
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
        f"{{% elif turns and turns[-1]['role'] == 'assistant' %}}{{{{ '{end}' }}}}{{% endif %}}"
    )


# Of reward models (SteerLM's and HelpSteer2's recipes): the conversation ends with the marker that
# attribute values follow in SteerLM. The score is read at it: at its last token, where the
# tokenizer cuts it into several.
EXTRA_ID = _nemo("<extra_id_2>")

# Of policies (SteerLM, arXiv 2310.05344): the marker of the next turn ends the assistant's.
STEERLM = _nemo("<extra_id_1>")

# With the token of the text that the score is read at (`chat.READS`).
TEMPLATES = {"extra_id": (EXTRA_ID, "last"), "steerlm": (STEERLM, "last")}


def choose(name: str) -> tuple[str, str]:
    """Look up a template by name. Raises ValueError that lists the names there are."""
    if name not in TEMPLATES:
        raise ValueError(
            f"there is no template {name!r}; there are {', '.join(TEMPLATES)}, and '' for the one "
            "recorded with the checkpoint, else the tokenizer's own"
        )
    return TEMPLATES[name]


def is_nemo(template: str) -> bool:
    """Tell whether a chat template writes turns with NeMo's markers."""
    return "<extra_id_1>Assistant" in template


def in_order(attributes: Iterable[str]) -> list[str]:
    """Sort names of attributes in NeMo's order, others behind them by name."""
    return sorted(attributes, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))


def condition_text(tokenizer, condition: Mapping[str, int]) -> str:
    """Write the line between the assistant's header and a response that is asked to have these
    attribute values; "" where none is asked for. Under a template without NeMo's markers it is
    plain text. Attributes are in the order of `in_order`.
    """
    if not condition:
        return ""
    marker = MARKERS[2] if is_nemo(tokenizer.get_chat_template()) else ""
    return marker + ",".join(f"{n}:{condition[n]}" for n in in_order(condition)) + "\n"


def without_thought(tokenizer):
    """Return a tokenizer whose chat template lets the assistant answer at once: the same one, or a
    copy where its template has thoughts that can be turned off (`enable_thinking`), or opens one in
    the generation prompt, which is then closed. It is said in the log."""
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return tokenizer
    changed = copy.deepcopy(tokenizer)
    if re.search(r"\benable_thinking\b", template):
        changed.chat_template = template = "{% set enable_thinking = false %}" + template
    turns = [{"role": "user", "content": "a"}]
    try:
        text = changed.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception:  # Templates raise what they like; it is told where a text is rendered.
        return tokenizer
    if opened := re.search(
        r"([<\[])(\w*(?:think|thought|reason)\w*)([>\]])\s*$", text, re.IGNORECASE
    ):
        end = "\\n\\n{}/{}{}\\n\\n".format(*opened.groups())
        changed.chat_template = (
            f"{template}{{% if add_generation_prompt %}}{{{{ '{end}' }}}}{{% endif %}}"
        )
    if changed.chat_template == tokenizer.chat_template:
        return tokenizer
    log.info("the judge's chat template opens a thought: it is turned off, so that it answers")
    return changed
