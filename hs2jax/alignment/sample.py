"""Sampling: samples.jsonl, a row for each prompt and attribute setting.

    {"source", "prompt", "condition": {"helpfulness": 4, ...}, "responses": [texts],
     "tokens": [[ids], ...], "finished": [bool, ...], "log_proposal": [nats, ...]}

log_proposal is log Q'(y|a,x), the sum over a response's tokens as the model itself has it, whatever
temperature and truncation it was sampled with. Responses from elsewhere have neither it nor tokens;
`hs2jax weigh` finds both. Those to an instruction, which is not in the prompt that is kept, have
"instruction" instead of it. Read the file as "sampled:FILE"; the stages of alignment leave out, and
count, responses that say nothing, which elsewhere are malformed (config.data.on_error).
"""

from collections.abc import Sequence

from hs2jax import config_rules
from hs2jax.alignment import server, sources, stage
from hs2jax.data import corpora
from hs2jax.data.groups import Group
from hs2jax.data.record import Record
from hs2jax.identity import content_key
from hs2jax.language_model import LanguageModel
from hs2jax.models import sampler, sharding
from hs2jax.workdir import row


@stage.verb
def sample(config, run: stage.Run) -> list[dict]:
    """Sample responses to prompts, with or without attributes that they should have."""
    below = f"\n\n{config.instruction}" if config.instruction else ""
    groups = requests(config, below, run.record)
    if config.responses:
        source = sources.of_file(config, run.record)
    elif config.server:
        source = server.connect(config)
    else:
        model = run.load(LanguageModel, config.model.name, config.model.template)
        source = sources.of_model(model, config)
    groups = source.fitting(groups, run.record)
    if not groups:
        raise ValueError(f"config.data: nothing of {config.data} can be answered: {run.record}")
    # Random numbers follow from a group's number.
    keys = [
        content_key(source.identity, list(group.prompt), group.condition, number)
        for number, group in enumerate(groups)
    ]
    about = ("samples", groups, keys, chunk(config), source.answer)
    answers = run.each(*about, alone=source.alone)
    samples = []
    for group, found in zip(groups, answers, strict=True):
        if found is None:
            continue
        *earlier, last = group.prompt
        prompt = [*earlier, {**last, "content": last["content"].removesuffix(below)}]
        head = {"source": group.source, "prompt": prompt, "condition": dict(group.condition)}
        if below:  # And log_proposal is of another prompt.
            found = {name: x for name, x in found.items() if name != "log_proposal"}
            found["instruction"] = config.instruction
        samples.append(head | found)
    run.write("samples.jsonl", samples)
    return results(samples)


def chunk(config) -> int:
    """Return how many groups are sampled, and kept, at a time: many times as many responses as are
    in a batch, since no others take the places of a chunk's last ones."""
    responses = 16 * sampler.ROWS * sharding.row_devices(sharding.mesh_of(config.mesh))
    return max(responses // config.n, 1)


def requests(config, below: str, record: Record) -> list[Group]:
    """Make a group of each prompt and attribute setting, with a text below its last turn; what they
    have as responses means nothing."""
    asked = [config_rules.parse_condition(text) for text in config.conditions]
    found, how = [], {"on_error": config.on_error, "record": record}
    for group in corpora.read(config.data, prompts=True, **how):
        *earlier, last = group.prompt
        prompt = (*earlier, {**last, "content": last["content"] + below})
        found += [
            Group(prompt, group.responses[:1], source=group.source, condition=condition)
            for condition in asked
        ]
    return found


def results(samples: Sequence[dict]) -> list[dict]:
    """Count rows, responses, those that were cut, and tokens."""
    responses = sum(len(each["responses"]) for each in samples)
    unfinished = sum(not ended for each in samples for ended in each.get("finished", ()))
    tokens = sum(len(ids) for each in samples for ids in each.get("tokens", ()))
    return [
        row("", "", "rows", len(samples)),
        row("", "", "responses", responses, headline=True),
        row("", "", "unfinished", unfinished, n=responses, headline=bool(unfinished)),
        row("", "", "tokens", tokens, n=responses),
    ]
