"""Weights of the layers, fitted to human scores, cross-validated, kept in a file.

LAGER (arXiv 2508.03550), section 3.3: one free parameter per used layer, the weights their softmax,
fitted on a validation set while the model stays as it is. `weight_recipes` has the loss and the two
ways to make it small. Axis letters as in `lager`, and N samples, each a reading with its human
score.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hs2jax import workdir
from hs2jax.data import files
from hs2jax.data.groups import FieldError, check_number, check_text, mistyped, show
from hs2jax.judging import lager, weight_recipes
from hs2jax.judging.lager import Preset
from hs2jax.judging.weight_recipes import FitData

RECIPES = ("published", "converged")
HELD_OUT = 0.2  # Of the clusters, to stop early by.


class Fit(NamedTuple):
    """weights: f32 [L'], summing to 1. before, after: the mean loss of all given samples with even
    and with these weights. steps: of the optimizer, until these weights. samples: N.
    """

    weights: np.ndarray
    before: float
    after: float
    steps: int
    samples: int
    recipe: str
    seed: int


class CrossValidation(NamedTuple):
    """Scores of samples by weights they were not fitted on.

    scores: {aggregation: f32 [N]} for those that use weights, each sample by the weights of the
    other folds; levels: the same for what these weights give the other folds on average, 0 where a
    score is one of the scale's values. weights: f32 [folds, L'] and mean: f32 [L'], over folds.
    fold: int [N], the fold each sample was held out in. before, after: the mean loss of the samples
    when held out, with even and with fitted weights.
    """

    scores: dict[str, np.ndarray]
    levels: dict[str, np.ndarray]
    weights: np.ndarray
    mean: np.ndarray
    fold: np.ndarray
    before: float
    after: float

    def on_one_level(self) -> dict[str, np.ndarray]:
        """Return the scores, around one mean in all folds.

        Weights are fitted to people's level, too, which in the other folds is the higher the lower
        it is in the one held out. By that alone the scores as they are would be ordered against
        people's.
        """
        return {
            name: score - self.levels[name] + self.levels[name].mean()
            for name, score in self.scores.items()
        }


def fit(
    logits,
    targets,
    values: Sequence[int],
    preset: Preset,
    *,
    clusters: Sequence | None = None,
    recipe: str = "published",
    seed: int = 0,
) -> Fit:
    """Fit weights that make "lager_w" follow the human scores.

    logits: [N, 2, L + 1, S]. targets: human scores [N], on the scale of `values` [S], fractions
    allowed. The loss of a sample is preset.mix times the cross-entropy of the softmax of the
    aggregated logits, and for the rest the error of its expectation.

    * "published": Adam, rate 0.01, in one pass over the samples in batches of 4, in an order drawn
      from the seed (not the repository's own, which is PyTorch's).
    * "converged": Adam on all samples at once; of up to 1,000 steps the weights with the least loss
      on a fifth of the clusters, drawn from the seed and not fitted on. Step 0, even weights, is
      among them.

    clusters: [N], which samples hang together, such as those of one prompt (default: none do).
    The same arguments give the same weights.
    Raises ValueError for targets outside the scale, readings that are not finite, shapes that do
    not fit, and "converged" with fewer than two clusters.
    """
    data = _fit_data(logits, targets, values, preset)
    N = len(data.targets)
    return _fit(data, np.ones(N, bool), _members(clusters, N), preset, recipe, seed)


def cross_validate(
    logits,
    targets,
    clusters: Sequence,
    values: Sequence[int],
    preset: Preset,
    *,
    folds: int = 5,
    recipe: str = "published",
    seed: int = 0,
) -> CrossValidation:
    """Fit weights on all folds but one, and score that one with them, for each fold.

    Arguments as in `fit`. The samples of a cluster stay in one fold; folds are drawn from the seed.
    Raises ValueError as `fit` does, and unless there are 2 folds or more and a cluster for each.
    """
    data = _fit_data(logits, targets, values, preset)
    N = len(data.targets)
    member = _members(clusters, N)
    fold = draw_folds(member, folds, seed)
    weights = np.stack(
        [_fit(data, fold != f, member, preset, recipe, seed).weights for f in range(folds)]
    )
    scores, levels = ({name: np.zeros(N, np.float32) for name in lager.WEIGHTED} for _ in range(2))
    loss = np.empty(N, np.float32)
    # All samples with the weights of each fold: arrays of one shape need compiling only once.
    for f, each in enumerate(weights):
        held = fold == f
        for name, score in scores.items():
            found = np.asarray(lager.aggregate(logits, values, name, preset, each))
            score[held] = found[held]
            if lager.AGGREGATIONS[name].expectation:
                levels[name][held] = found[~held].mean()
        loss[held] = _losses(each, data, preset)[held]
    before = float(_losses(_even(data), data, preset).mean())
    mean = weights.mean(axis=0)
    return CrossValidation(scores, levels, weights, mean, fold, before, float(loss.mean()))


def draw_folds(clusters: Sequence, folds: int, seed: int, least: int = 2) -> np.ndarray:
    """Draw the fold [N] of each sample, from 0; the samples of a cluster (a prompt) are in one.

    The same clusters and seed give the same folds. Raises ValueError unless there are `least` folds
    or more and a cluster for each.
    """
    member = _members(clusters, len(clusters))
    G = int(member.max(initial=-1)) + 1
    if not least <= folds <= G:
        raise ValueError(
            f"cross-validation in {folds} folds needs at least {least} folds and a cluster (a "
            f"prompt) for each, and there are {G} clusters: give more samples, or fewer folds"
        )
    return np.random.default_rng(seed).permutation(np.arange(G) % folds)[member]


# The file ---------------------------------------------------------------------------------------


def save(
    path: Path | str,
    fitted: Fit,
    *,
    model: str,
    checksum: str,
    template: str,
    preset: Preset,
    scale: Sequence[int],
    data: str,
) -> None:
    """Write weights to a small JSON file, with all that says where they may be used: the model's
    name and checksum, the name of the prompts' template, the scale and data of the fit."""
    content = {
        "model": {"name": model, "checksum": checksum},
        "template": template,
        "preset": dataclasses.asdict(preset),
        "layers": len(fitted.weights),
        "scale": [int(value) for value in scale],
        "weights": [float(weight) for weight in fitted.weights],
        "fitted": {
            "data": data,
            "samples": fitted.samples,
            "recipe": fitted.recipe,
            "seed": fitted.seed,
            "steps": fitted.steps,
            "loss": {"before": fitted.before, "after": fitted.after},
        },
    }
    workdir.write_json(Path(path), content)


def load(
    path: Path | str,
    *,
    checksum: str,
    template: str | None,
    preset: Preset,
    layers: int,
) -> np.ndarray:
    """Load the weights f32 [L'] that `save` wrote, for the very judge they were fitted for.

    template: None takes weights of any, as the paper does, which fits them once for a model and
    uses them with other prompts and scales. layers: L', as many as the preset uses. Of the preset,
    `layers` and `norm` must be those of the fit: they say what the weights multiply, and the rest
    how they were found.
    Raises ValueError where the judge is another one, naming all that differs, and for a malformed
    file, naming the field.
    """
    path = Path(path)
    try:
        saved = _parse(files.decode(path.read_bytes()))
    except FieldError as error:
        raise ValueError(
            f"{path}, field '{error.field}': {error.what}. It is no file of layer weights as "
            "they are saved: fit them again"
        ) from None
    here = {
        "model.checksum": checksum,
        "template": saved["template"] if template is None else template,
        "layers": layers,
        "preset.layers": preset.layers,
        "preset.norm": preset.norm,
    }
    differ = [f"{k} is {saved[k]!r} there and {v!r} here" for k, v in here.items() if saved[k] != v]
    if differ:
        raise ValueError(
            f"{path} has weights for another judge, {saved['model.name']}: {'; '.join(differ)}. "
            "Fit weights for this one, or use it as they were fitted"
        )
    return np.array(saved["weights"], np.float32)


def _parse(row: dict) -> dict:
    """The fields of a file of weights, by their paths. Raises FieldError."""
    saved = {"layers": row.get("layers")}
    for field in ("model.name", "model.checksum", "template", "preset.layers", "preset.norm"):
        outer, _, name = field.rpartition(".")
        inside = row.get(outer) if outer else row
        if not isinstance(inside, dict):
            raise mistyped(outer, "an object", inside)
        saved[field] = check_text(inside.get(name), field)
    weights = row.get("weights")
    if not isinstance(weights, list):
        raise mistyped("weights", "a list", weights)
    saved["weights"] = [check_number(w, f"weights[{i}]", 0, 1) for i, w in enumerate(weights)]
    if saved["layers"] != len(weights):
        what = f"expected {show(saved['layers'])} numbers, as 'layers' says, found {len(weights)}"
        raise FieldError("weights", what, "wrong length")
    if abs(sum(saved["weights"]) - 1) > 1e-3:
        what = f"expected numbers that sum to 1, found a sum of {sum(saved['weights']):g}"
        raise FieldError("weights", what, "out of range")
    return saved


# The fit ----------------------------------------------------------------------------------------


def _fit_data(logits, targets, values, preset: Preset) -> FitData:
    targets, values = np.asarray(targets, np.float64), np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2 or (np.diff(values) <= 0).any():
        raise ValueError(f"a scale is two or more rising values, got {values.tolist()}")
    shape = np.shape(logits)
    if len(shape) != 4 or targets.shape != shape[:1] or not shape[0] or shape[3] != len(values):
        raise ValueError(
            f"expected logits [N, 2, L + 1, S], targets [N] and values [S] with N above 0, got "
            f"shapes {shape}, {targets.shape} and {values.shape}"
        )
    outside = ~((values[0] <= targets) & (targets <= values[-1]))
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"target {i} is {targets[i]:g}, outside the scale from {values[0]:g} to "
            f"{values[-1]:g}: shift or rescale the human scores, and leave out samples without one"
        )
    layers = lager.used_layers(logits, preset)
    if not (finite := np.isfinite(layers).all(axis=(1, 2))).all():
        raise ValueError(
            f"the reading of sample {int(finite.argmin())} has logits that are not finite: leave "
            "such samples out, or read them in float32"
        )
    if preset.whole_targets:
        targets = values[np.searchsorted(values, targets, side="right") - 1]
    # A value's label falls evenly to 0 at its neighbours, so that the labels' mean is the target.
    labels = np.stack([np.interp(targets, values, one) for one in np.eye(len(values))], axis=-1)
    return FitData(layers, *(jnp.asarray(x, jnp.float32) for x in (targets, labels, values)))


def _members(clusters: Sequence | None, N: int) -> np.ndarray:
    """The number of each sample's cluster, from 0."""
    if clusters is None:
        return np.arange(N)
    if len(clusters) != N:
        raise ValueError(f"there are {len(clusters)} clusters for {N} samples; name one for each")
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def _fit(
    data: FitData, train: np.ndarray, member: np.ndarray, preset: Preset, recipe: str, seed: int
) -> Fit:
    """train: bool [N]. All arrays keep N entries, so that folds share compiled programs."""
    rng = np.random.default_rng(seed)
    if recipe == "published":
        order = rng.permutation(np.flatnonzero(train))
        batch = weight_recipes.BATCH
        batches = np.full((-(-len(train) // batch), batch), -1)
        batches.flat[: len(order)] = order
        weights, steps = weight_recipes.published(data, batches, preset)
    elif recipe == "converged":
        groups = rng.permutation(np.unique(member[train]))
        if len(groups) < 2:
            raise ValueError(
                "the recipe 'converged' holds out a part of the clusters (prompts) and needs at "
                f"least 2, got {len(groups)}: give more samples, or use 'published'"
            )
        held = train & np.isin(member, groups[: max(1, round(HELD_OUT * len(groups)))])
        weights, steps = weight_recipes.converged(data, train & ~held, held, preset)
    else:
        raise ValueError(f"recipe is {recipe!r}; it must be one of {', '.join(RECIPES)}")
    weights = np.asarray(weights)
    before, after = (
        float(_losses(each, data, preset)[train].mean()) for each in (_even(data), weights)
    )
    return Fit(weights, before, after, int(steps), int(train.sum()), recipe, seed)


def _even(data: FitData) -> np.ndarray:
    used = data.layers.shape[1]
    return np.full(used, 1 / used, np.float32)


def _losses(weights: np.ndarray, data: FitData, preset: Preset) -> np.ndarray:
    return np.asarray(weight_recipes.losses(weights, data, preset))
