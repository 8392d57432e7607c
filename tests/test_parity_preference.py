"""Steps of DPO here, in torch, and by TRL's trainer, from the same weights on the same pairs: equal
losses."""

import copy

import families
import jax
import numpy as np
import pytest
import tiny_models

from hs2jax import configs
from hs2jax.data import loader, packing
from hs2jax.data.chat import Encoded
from hs2jax.data.groups import Group, Pair
from hs2jax.training import optimizer, preference, step, tasks

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

STEPS, CLOSE, BETA = 5, 1e-4, 0.5
SETTINGS = {"learning_rate": 2e-4, "warmup": 0, "weight_decay": 0.5, "b1": 0.9, "b2": 0.98}
SETTINGS |= {"max_grad_norm": 2.5}
VARIANT = families.VARIANTS["Llama 3"]


def pairs():
    """Six prompts with a chosen and a rejected response each, in token ids."""
    rng = np.random.default_rng(5)
    draw = lambda: rng.integers(0, families.PAD, rng.integers(2, 20)).astype(np.int32)  # noqa: E731
    return [(draw(), draw(), draw()) for _ in range(6)]


def our_losses(folder, monkeypatch, **changes):
    """The run's own way, but for texts: the reference kept, a plan of two rows at a time."""
    monkeypatch.setenv("HS2JAX_CACHE", str(folder / "cache"))
    tiny_models.chat_tokenizer().save_pretrained(folder)
    config = configs.defaults("train_policy")
    own = {"objective.kind": "dpo", "objective.beta": BETA, "model.name": str(folder)}
    own |= {"data.row_length": 96, "micro_batch_size": 2, **changes}
    config.update_from_flattened_dict(own)
    config.optimizer.update(SETTINGS)
    task = tasks.make(config, None)
    unknown = np.zeros((2, 1), np.float32)
    examples = []
    for i, (prompt, *sides) in enumerate(pairs()):
        ids = Encoded(prompt, tuple(sides[:: 1 - 2 * (i % 2)]), np.zeros(len(prompt), bool))
        order = [Pair(i % 2, 1 - i % 2, 1.0)]  # The chosen one comes first or second.
        examples.append(packing.Example(ids, unknown, unknown > 0, order))
    groups = [Group(({"role": "user", "content": "?"},), ("a", "b"))] * len(examples)
    data = preference.attach(task, loader.Prepared(groups, examples))
    batches = loader.plan(
        data.examples, row_length=96, layout="shared", batch_size=6, micro_batch_size=2
    )
    tx, _ = optimizer.make(config.optimizer, STEPS)
    options = {"forward": task.forward, "layout": "shared", "dtype": task.model.dtype}
    update = step.make(task.model.config, task.objective, tx, remat=False, **options)
    state, found = step.init_state(task.params, tx), []
    for _ in range(STEPS):
        state, metrics = update(state, {}, batches[0])
        found.append(metrics["loss"])
    return np.asarray(jax.device_get(found))


def log_probabilities(model, prompt, response):
    ids = torch.tensor(np.concatenate([prompt, response]))[None].long()
    table = torch.log_softmax(model(ids).logits.float(), dim=-1)[0, len(prompt) - 1 : -1]
    return table.gather(1, ids[0, len(prompt) :, None]).sum()


def torch_losses(model, beta=BETA):
    """Each conversation by itself, without padding; autograd, and torch's AdamW."""
    reference, found = copy.deepcopy(model), []
    parameters = list(model.parameters())
    kinds = [
        {"params": [x for x in parameters if (x.ndim > 1) == many], "weight_decay": decay}
        for many, decay in ((True, SETTINGS["weight_decay"]), (False, 0.0))
    ]
    betas = (SETTINGS["b1"], SETTINGS["b2"])
    adamw = torch.optim.AdamW(kinds, lr=SETTINGS["learning_rate"], betas=betas, eps=1e-8)
    for _ in range(STEPS):
        leads = []
        for prompt, *sides in pairs():
            with torch.no_grad():
                start = [log_probabilities(reference, prompt, side) for side in sides]
            now = [log_probabilities(model, prompt, side) for side in sides]
            leads.append((now[0] - start[0]) - (now[1] - start[1]))
        loss = -torch.nn.functional.logsigmoid(beta * torch.stack(leads)).mean()
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS["max_grad_norm"])
        adamw.step()
        found.append(loss.item())
    return np.array(found)


def trl_losses(model, folder):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    class Trainer(trl.DPOTrainer):
        """Takes token ids, and tells its losses unrounded."""

        found = ()

        def _prepare_dataset(self, dataset, *_):
            return dataset

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            self.found = (*self.found, loss.item())
            return loss

    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(names, map(np.ndarray.tolist, row), strict=True)) for row in pairs()]
    options = {"learning_rate": SETTINGS["learning_rate"], "lr_scheduler_type": "constant"}
    options |= {
        "weight_decay": SETTINGS["weight_decay"],
        "max_grad_norm": SETTINGS["max_grad_norm"],
    }
    options |= {"adam_beta1": SETTINGS["b1"], "adam_beta2": SETTINGS["b2"], "adam_epsilon": 1e-8}
    options |= {"bf16": False, "gradient_checkpointing": False, "use_cpu": True, "max_length": None}
    options |= {"per_device_train_batch_size": 6, "max_steps": STEPS, "beta": BETA}
    args = trl.DPOConfig(
        str(folder), report_to=[], save_strategy="no", disable_tqdm=True, **options
    )
    tokenizer = tiny_models.chat_tokenizer()
    models = {"model": model, "ref_model": copy.deepcopy(model)}
    data = {"train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
    trainer = Trainer(**models, args=args, **data)
    trainer.train()
    return np.array(trainer.found)


def test_five_steps_of_dpo_have_equal_losses(tmp_path, monkeypatch):
    theirs = families.build(VARIANT)
    folder = families.save(VARIANT, theirs, tmp_path)
    ours = our_losses(folder, monkeypatch)
    for name, losses in (
        ("TRL", trl_losses(copy.deepcopy(theirs), tmp_path / "trl")),
        ("torch", torch_losses(theirs)),
    ):
        worst = np.abs(ours - losses).max()
        print(f"{name}: {losses.round(5).tolist()}, largest difference {worst:.1e}")
        assert worst < CLOSE
    assert ours[0] == pytest.approx(np.log(2), abs=1e-6)
    assert np.abs(np.diff(ours)).min() > 10 * CLOSE, ours  # Something was learned at every step.


def test_a_little_of_another_beta_would_be_seen():
    found = [torch_losses(families.build(VARIANT), beta) for beta in (BETA, 1.01 * BETA)]
    assert np.abs(found[0] - found[1]).max() > CLOSE
