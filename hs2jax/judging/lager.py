"""One score from the logits of every layer at the score's place (LAGER, arXiv 2508.03550).

Pure functions in float32, of NumPy's arrays; `combine` also of JAX's. Axis letters, behind any
leading axes: 2 for intermediate states without and with the model's final norm (`NORMS`), L + 1
entries of a model with L layers (0 is the embedding output, the last one is after the final norm in
both), S candidate answers.

The paper and its published repository are not of one mind; where they differ is a `Preset`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NORMS = ("none", "final")
LAYERS = {"all": slice(None), "without_last": slice(-1)}


class Aggregation(NamedTuple):
    """A way from layers to a score.

    of: what is aggregated, "logits" or "probabilities" of all used layers or those of the
    "last". weighted: by fitted weights, else evenly. expectation: else the likeliest value.
    """

    of: str
    weighted: bool
    expectation: bool


# In the order of the paper's Table 2, under the names of the repository.
AGGREGATIONS = {
    "lager_w": Aggregation("logits", True, True),
    "prob_weighted_agg_e": Aggregation("probabilities", True, True),
    "logits_agg_weighted_max": Aggregation("logits", True, False),
    "prob_weighted_agg_max": Aggregation("probabilities", True, False),
    "lager_wo": Aggregation("logits", False, True),
    "prob_agg_e": Aggregation("probabilities", False, True),
    "logits_agg_max": Aggregation("logits", False, False),
    "prob_agg_max": Aggregation("probabilities", False, False),
    "e_score": Aggregation("last", False, True),
    "direct": Aggregation("last", False, False),
}
WEIGHTED = tuple(name for name, each in AGGREGATIONS.items() if each.weighted)
CROSS_LAYER = ("lager_w", "lager_wo")  # The paper's own, fitted and even.
LAST_LAYER = ("e_score", "direct")


@dataclass(frozen=True)
class Preset:
    """One reading of the method.

    Attributes:
        layers: "all" L + 1 entries, or "without_last", as the repository has it.
        norm: "final": intermediate states pass the model's final norm before the unembedding, as a
            logit lens has it; or "none".
        double_softmax: take the expectation of aggregated probabilities after one more softmax (of
            their sum, or of their weighted mean), which flattens them; else that of the mixture.
        error: of the expected score, "absolute" or "squared", when weights are fitted.
        mix: the share of cross-entropy in that loss; the error has the rest.
        whole_targets: fit to a fractional human score as to the value of the scale below it; else
            cross-entropy shares it out between the two values beside it.
        place: of a score in what a judge writes: see `judging.written.answered`.
    """

    layers: str
    norm: str
    double_softmax: bool
    error: str
    mix: float
    whole_targets: bool = False
    place: str = "statement"


# The repository learns the mix as a sigmoid that starts at 0.5, but reads it once per epoch, and
# trains for one: so it stays what it is at the start. The paper (section 3.3) gives no value.
MIX = 1 / (1 + math.exp(-0.5))

# Recommended: with the final norm on every layer SmolLM2-135M's even score did least badly on two
# sets of ratings, and its tuned score on one of them (experiments/lager). None follows people.
PRESETS = {
    "paper": Preset("all", "none", False, "absolute", MIX),
    "repository": Preset("without_last", "none", True, "squared", MIX, True, "last_token"),
    "recommended": Preset("all", "final", False, "squared", MIX),
}


def used_layers(logits, preset: Preset):
    """Select what a preset aggregates: logits [..., 2, L + 1, S] -> f32 [..., L', S].

    L' is L + 1, or L without the last.
    """
    return _of_norm(logits, preset)[..., LAYERS[preset.layers], :]


def aggregate(logits, values, aggregation: str, preset: Preset, weights=None):
    """Score each reading: logits [..., 2, L + 1, S] and values [S] -> f32 [...].

    Formulas of LAGER, section 3.2 and Table 2. values: what each candidate stands for, such as 1
    to 5. aggregation: one of `AGGREGATIONS`; "e_score" and "direct" read the last entry, whatever
    the preset. weights: [L'], summing to 1, which only those in `WEIGHTED` use. Of equally likely
    values the first one is taken. A reading that is not finite gives NaN.
    Raises ValueError for missing weights, or weights of another number of layers.
    """
    way, values = AGGREGATIONS[aggregation], np.asarray(values, np.float32)
    if way.of == "last":
        over_values = _of_norm(logits, preset)[..., -1, :]
    else:
        layers = used_layers(logits, preset)
        if way.of == "probabilities":
            layers = _softmax(layers)
        if way.weighted and weights is None:
            raise ValueError(f"{aggregation} needs the layers' weights: fit or load them first")
        over_values = combine(layers, weights if way.weighted else None)
        if way.of == "probabilities" and preset.double_softmax and not way.weighted:
            over_values = over_values * layers.shape[-2]  # The repository sums them.
    if not way.expectation:
        likeliest = values[np.argmax(over_values, axis=-1)]
        return np.where(np.isfinite(over_values).all(axis=-1), likeliest, np.float32("nan"))
    if way.of != "probabilities" or preset.double_softmax:
        over_values = _softmax(over_values)
    return (over_values * values).sum(axis=-1)


def scores(logits, values, preset: Preset, weights=None) -> dict[str, np.ndarray]:
    """The scores f32 [...] by each aggregation, in the order of the paper's Table 2; those that are
    weighted only with weights [L']. Arguments as for `aggregate`."""
    return {
        name: aggregate(logits, values, name, preset, weights)
        for name in AGGREGATIONS
        if weights is not None or name not in WEIGHTED
    }


def distribution(logits, preset: Preset, weights=None):
    """Softmax of the aggregated logits [..., 2, L + 1, S] -> f32 [..., S], evenly or by weights.

    Its expectation is "lager_wo" or "lager_w". Raises ValueError as `aggregate` does.
    """
    return _softmax(combine(used_layers(logits, preset), weights))


def combine(layers, weights=None):
    """Weighted sum over layers: [..., L', S] and weights [L'], None for even ones -> [..., S].

    A product and a sum, as accelerators may round a matrix product's arguments to fewer bits.
    """
    used, array = layers.shape[-2], layers.__array_namespace__()
    weights = np.full(used, 1 / used) if weights is None else weights
    weights = array.asarray(weights, array.float32)
    if weights.shape != (used,):
        raise ValueError(
            f"weights has shape {weights.shape}, but the preset uses {used} layers: they belong to "
            "another model or preset"
        )
    return (layers * weights[:, None]).sum(axis=-2)


def _of_norm(logits, preset: Preset):
    """[..., L + 1, S]: each layer's logits, the greatest of which is made 0.

    No score depends on a constant that is added to a layer's candidates, and raw logits may be
    tens of thousands, of which float32 would keep few decimals in a sum.
    """
    chosen = np.asarray(logits, np.float32)[..., NORMS.index(preset.norm), :, :]
    with np.errstate(invalid="ignore"):  # An infinite one gives NaN.
        return chosen - chosen.max(axis=-1, keepdims=True)


def _softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
