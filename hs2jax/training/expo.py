"""ExPO: how far to go beyond a trained reward model, found on validation pairs.

A sweep over factors of `models.merge.expo`, coarse then fine (arXiv 2410.01257 found 1.52 in such a
way). The folder holds model/ (of the chosen factor), items/ (groups scored by the initial, trained
and chosen model) and, until the end, scored.sqlite (outputs of each factor).
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from hs2jax import configs, locks, workdir
from hs2jax.config_rules import parse_weights
from hs2jax.data import corpora, loader
from hs2jax.data.record import Record
from hs2jax.evaluation import comparison, measures
from hs2jax.evaluation import items as scored
from hs2jax.identity import content_key
from hs2jax.model import default_dtype
from hs2jax.models import merge, sharding
from hs2jax.models.checksum import checksum
from hs2jax.reward_model import RewardModel
from hs2jax.store import Store
from hs2jax.training import metrics
from hs2jax.training.convert import open_source
from hs2jax.workdir import row

log = logging.getLogger(__name__)

FOLDS = 5
SCORED = "scored.sqlite"


@locks.released
def expo(config: ml_collections.ConfigDict, folder: Path | str) -> list[dict]:
    """Sweep, or go on where a killed sweep of this folder was. Returns the rows of results.jsonl.

    Raises ValueError or FileNotFoundError for a config that cannot be, naming the key, and for two
    models that cannot be merged, naming what differs.
    """
    folder, started = Path(folder), time.monotonic()
    configs.check(config)
    if (done := workdir.claim(folder, config, [SCORED])) is not None:
        return done

    # Models and data ----------------------------------------------------------------------------
    mesh = sharding.make_mesh(**config.mesh)
    initial, trained = (open_source(x, mesh) for x in (config.initial, config.trained))
    merge.check_alike(initial, trained)
    base = trained.model
    model = RewardModel(
        base.config,
        None,
        base.tokenizer,
        base.outputs,
        parse_weights(config.weights) or base.weights,
        mesh=mesh,
        dtype=configs.dtype(config.dtype) or default_dtype(),
        template=base.template,
        read=base.read,
    )
    scalar = model.scalar_weights()
    if scalar is None:
        raise ValueError(
            f"{trained.name} has the outputs {', '.join(model.outputs)}: say in config.weights how "
            "they make one reward"
        )
    specs = {"validation": config.data} | ({"test": config.test} if config.test else {})
    data, records = {}, {}
    for name, spec in specs.items():
        data[name], records[name] = read(config, spec, model)
        log.info("%s: %s", name, records[name])
    store = Store(folder / SCORED)
    follows_from = [_checksums(initial), _checksums(trained), str(model.dtype)]

    def merged(factor: float):
        model.params = None  # Gone before the next ones come.
        model.params = merge.merge(initial, trained, factor)
        return model

    def items_of(name: str, factor: float) -> list[dict]:
        encoded = [example.encoded for example in data[name].examples]
        ends = np.cumsum([len(each.responses) for each in encoded])[:-1]
        tokens = [ids for each in encoded for ids in (each.prompt, *each.responses)]
        key = content_key(*follows_from, factor, *tokens)
        store.share([key])
        if key not in store:
            outputs = np.concatenate(merged(factor).predict(data[name].examples))
            if store.add({key: {"outputs": outputs}}):
                tables = np.split(outputs, ends)
                bad = [
                    (group.source, of)
                    for group, of, x in zip(data[name].groups, encoded, tables, strict=True)
                    if not np.isfinite(x).all()
                ]
                raise ValueError(f"factor {factor:g}: {model.not_finite('outputs', bad)}")
            workdir.settle(folder)
        return scored.make(data[name], np.split(store.get(key)["outputs"], ends), scalar)

    # The sweep ----------------------------------------------------------------------------------
    measured: dict[float, dict[str, float]] = {}

    def measure(factors: Sequence[float]) -> float:
        for factor in factors:
            measured[factor] = summarize(measures.pairs_of(items_of("validation", factor)))
            log.info("factor %g: %s", factor, metrics.one_line(measured[factor]))
        return choose(measured)

    coarse = coarse_factors(config.factors)
    with jax.set_mesh(mesh):
        reach = {"step": config.fine_step, "reach": config.fine_reach}
        factor = measure(fine_factors(measure(coarse), coarse, **reach))
        factors = {"initial": 0.0, "trained": 1.0, "chosen": factor}
        found = {name: {each: items_of(name, f) for each, f in factors.items()} for name in specs}
        merged(factor).save(folder / "model")

    # What came of it ----------------------------------------------------------------------------
    rows = [row("", "", "factor", factor, headline=True)]
    for name, by_model in found.items():
        for each, items in by_model.items():
            rows += [r | {"method": each} for r in _rows(name, "", items, OF_MODELS)]
            file = f"{each}.jsonl" if name == "validation" else f"{name}-{each}.jsonl"
            if workdir.is_first():
                workdir.write_rows(folder / "items" / file, items)
        rows += _rows(name, "", by_model["trained"], OF_LENGTH)
        before, after = (measures.pairs_of(by_model[each]) for each in ("trained", "chosen"))
        rows.append(gain(name, before, after.right))
    pairs = {f: measures.pairs_of(items_of("validation", f)) for f in coarse if f > 0}
    chosen_for = cross_validate(pairs)
    if chosen_for is not None:
        right = np.array([pairs[f].right[i] for i, f in enumerate(chosen_for)])
        folds = ", ".join(f"{f:g}" for f in np.unique(chosen_for))
        rows.append(gain("held_out", pairs[1.0], right) | {"note": f"the folds chose {folds}"})
    for f in sorted(measured):
        rows += _rows("validation", f"factor/{f:g}", items_of("validation", f), OF_MODELS)
    result = {
        "initial": config.initial,
        "trained": config.trained,
        "outputs": list(model.outputs),
        "weights": model.weights,
        "dtype": np.dtype(model.dtype).name,
        "factor": factor,
        "warnings": [EDGE.format(factor)] * (factor > 1 and factor >= max(coarse)),
        "records": {name: record.to_dict() for name, record in records.items()},
        "seconds": time.monotonic() - started,
    }
    return workdir.finish(folder, config, result, rows, [SCORED])


def read(config, spec: str, model: RewardModel) -> tuple[loader.Prepared, Record]:
    """Tokenise the groups of a specification that have pairs. Raises ValueError without any."""
    record = Record()
    groups = list(corpora.read(spec, on_error=config.on_error, record=record))
    longest = min(config.max_tokens or model.config.max_seq_len, model.config.max_seq_len)
    prepared = loader.prepare(
        groups,
        model.tokenizer,
        attributes=model.outputs,
        # Only a conversation's length counts.
        row_length=longest * max((len(group.responses) for group in groups), default=1),
        max_tokens=longest,
        vocab_size=model.config.vocab_size,
        read=model.read,
        too_long="truncate",
        derive=config.derive or None,
        on_error=config.on_error,
        record=record,
    )
    if not record.pairs:
        raise ValueError(
            f"{spec}: no preference pairs to judge a factor by: {record}. "
            "Ratings become pairs with config.derive"
        )
    return loader.with_pairs(prepared), record


# Factors ------------------------------------------------------------------------------------------


def coarse_factors(factors: Sequence[float]) -> list[float]:
    """Order factors as they are tried: the trained model, the initial one, and those asked for."""
    return [1.0, 0.0, *sorted({float(factor) for factor in factors} - {0.0, 1.0})]


def fine_factors(best: float, coarse: Sequence[float], *, step: float, reach: float) -> list[float]:
    """Lay factors around the best of the coarse ones, without these; none where step is 0."""
    if not step:
        return []
    count = math.floor(reach / step + 1e-9)
    # Rounded, as 1.4 + 2 * 0.02 would be 1.44 and a little.
    around = [round(best + i * step, 9) for i in range(-count, count + 1)]
    return [factor for factor in around if factor > 0 and factor not in coarse]


def choose(measured: Mapping[float, Mapping[str, float]]) -> float:
    """Choose the factor of the highest accuracy; of equal ones that of the lowest loss, then that
    which goes the least far from the trained model. Factor 0 cannot be chosen: it is the initial
    model, there to be compared with."""
    able = [factor for factor in measured if factor > 0]
    return max(able, key=lambda f: (measured[f]["accuracy"], -measured[f]["log_loss"], -abs(f - 1)))


def cross_validate(pairs: Mapping[float, measures.Pairs]) -> np.ndarray | None:
    """Choose a factor for each pair [P] from the pairs of other folds of groups, FOLDS in all; None
    with fewer groups. pairs: by factor, the coarse ones: finer ones lie where all pairs said."""
    group = pairs[1.0].group
    groups = np.unique(group)
    if len(groups) < FOLDS:
        return None
    fold = np.random.default_rng(0).permutation(len(groups)) % FOLDS
    fold_of = fold[np.searchsorted(groups, group)]
    chosen = np.empty(len(group))
    for n in range(FOLDS):
        others = fold_of != n
        chosen[~others] = choose(
            {f: summarize(each._replace(margin=each.margin[others])) for f, each in pairs.items()}
        )
    return chosen


# Numbers ------------------------------------------------------------------------------------------

EDGE = "the factor {:g} lies at the end of the range: try larger ones (config.factors)"
OF_MODELS = ("accuracy", "accuracy_ties_as_half", "margin", "log_loss")
OF_LENGTH = ("longer_wins", "shorter_wins")


def summarize(pairs: measures.Pairs) -> dict[str, float]:
    """Measure accuracy by the strict rule, and the loss of the pairs."""
    return {
        "accuracy": float(pairs.right.mean()),
        "log_loss": float(np.logaddexp(0.0, -pairs.margin).mean()),
    }


def _rows(name: str, part: str, items: Sequence[dict], metrics: Sequence[str]) -> list[dict]:
    """Take some rows of a scored set as those of a part."""
    found = measures.pair_rows(name, items)
    rows = [each for each in found if each["part"] == "" and each["metric"] in metrics]
    return [each | {"part": part} for each in rows]


def gain(name: str, trained: measures.Pairs, right: np.ndarray) -> dict:
    """Make the row of how much more often pairs are right [P] than by the trained model. Those of
    "validation", which chose the factor, cannot tell whether it gained anything."""
    *_, found = comparison.pair_rows(name, "", np.stack([trained.right, right]), trained.group)
    found |= {"metric": "gain", "against": "trained", "headline": name != "validation"}
    if name == "validation":
        del found["reference"], found["better"]
    return found


def _checksums(source: merge.Source) -> str:
    paths = (sharding.path_name(path) for path, _ in jax.tree.leaves_with_path(source.shapes))
    return "-".join(checksum(source.leaf(path)) for path in paths)
