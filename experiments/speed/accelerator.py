"""Time reward-model training of a whole 1B and of LoRA on 8B, on a GPU, TPU or CPU.

    pip install -e ".[cuda]" torch transformers peft && python experiments/speed/accelerator.py

Bradley-Terry on pairs of conversations of 4,096 tokens, of which 2,048 are the pair's prompt, in
bfloat16. Weights and tokens are random, by the published configs: nothing is downloaded. Tokens are
those of both conversations. "hs2jax shared" computes a prompt once, "hs2jax unshared" and "torch
flash" each conversation by itself; the latter is `transformers` with PyTorch's flash attention,
bfloat16 autocast (LoRA: bfloat16 weights) and fused AdamW. It takes part where torch sees a GPU,
and on CPU without the kernel where it is asked for by `--who`.

MFU is of useful operations: those of the layers' weights for each token that its layout has to
compute, and of attention's causal half, three forward passes of them (LoRA: two); nothing for what
is computed again (`--remat`) and none for padding, of which there is none.
"""

import functools
import json
import statistics
from pathlib import Path

import contenders

# bfloat16 TFLOP/s without sparsity, by the beginning of what devices are called.
PEAKS = {
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "NVIDIA A100": 312,
    "NVIDIA L4": 121,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v5": 459,
    "TPU v6 lite": 918,
}
WORKS = {"1B": "Llama-3.2-1B-Instruct", "8B LoRA": "Llama-3.1-8B-Instruct"}
RANK = 16
TOY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 256}
TOY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def main() -> None:
    flags = contenders.parser(__doc__, pairs=False)
    flags.add_argument("--tokens", type=int, default=4096, help="of a conversation")
    flags.add_argument("--prompt_tokens", type=int, default=2048, help="of them")
    flags.add_argument("--pairs", type=int, default=8, help="of a step, one at a time")
    flags.add_argument("--rounds", type=int, default=5, help="steps that count")
    flags.add_argument("--remat", type=int, default=1, help="compute layers again, in both")
    flags.add_argument("--teraflops", type=float, default=0, help="the peak of all devices")
    flags.add_argument("--toy", action="store_true", help="two narrow layers, to try the script")
    names = ("hs2jax shared", "hs2jax unshared", *(["torch flash"] if torch_sees_gpu() else []))
    contenders.race(flags, RUNS, names, dict.fromkeys(WORKS, "tokens"), prepare)


def torch_sees_gpu() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available()


def prepare(folder, flags) -> dict:
    """Write each model's config.json."""
    from hs2jax.models.hf import hub

    known = json.loads(Path(hub.__file__).with_name("published.json").read_text())
    for work, name in WORKS.items():
        config = known[f"meta-llama/{name}"] | (TOY if flags.toy else {})
        (folder / work).mkdir()
        (folder / work / "config.json").write_text(json.dumps(config))
    return dict.fromkeys(WORKS, 2 * flags.pairs * flags.tokens)


def useful(work: str, folder, flags, *, shared: bool) -> int:
    """Count the operations of a step that MFU is of."""
    from hs2jax.models.hf import hub

    prompt = flags.prompt_tokens if shared else 0
    visible = flags.tokens * (flags.tokens + 1) - prompt * (prompt + 1) // 2
    once = hub.config_of(str(folder / work)).forward_flops(2 * flags.tokens - prompt, visible)
    return flags.pairs * once * (2 if "LoRA" in work else 3)


def mfu(flops: int, seconds: list[float], flags, device: str, devices: int = 1) -> str:
    """Say what share of the devices' peak is used for useful operations."""
    peaks = (each for name, each in PEAKS.items() if device.startswith(name))
    if not (peak := flags.teraflops or devices * next(peaks, 0)):
        return f"{device}, peak unknown: --teraflops"
    share = flops / statistics.median(seconds) / (peak * 1e12)
    return f"MFU {share:.1%} of {peak:g} TFLOP/s"


def ours(work: str, how: str, folder, flags) -> contenders.Timed:
    import jax

    from hs2jax import configs, planned
    from hs2jax.data import loader
    from hs2jax.models import sharding

    config = configs.defaults("plan")
    config.base = base = configs.defaults("train_reward_model")
    rest = flags.tokens - flags.prompt_tokens
    config.group_tokens, config.prompt_tokens = flags.prompt_tokens + 2 * rest, flags.prompt_tokens
    base.model.name, base.model.remat = str(folder / work), bool(flags.remat)
    base.data.layout = "shared" if how == "shared" else "padded"
    base.data.row_length = config.group_tokens if how == "shared" else 2 * flags.tokens
    base.batch_size, base.lora.rank = flags.pairs, RANK if "LoRA" in work else 0
    mesh = sharding.make_mesh()
    base.micro_batch_size = sharding.row_devices(mesh)
    one = planned.training(config, mesh)
    state, frozen, _ = one.given
    state = zeros(state) | {"params": draw(state["params"])}
    frozen = draw(frozen)
    group = planned.example(config, 1)
    batches = loader.plan(
        [group] * flags.pairs,
        row_length=base.data.row_length,
        layout=base.data.layout,
        batch_size=flags.pairs,
        micro_batch_size=base.micro_batch_size,
    )
    batch = sharding.place_rows(batches[0], mesh, axis=1)

    def step(_):
        nonlocal state
        state, metrics = one.run(state, frozen, batch)
        return [float(metrics["loss"])]  # Waits for the devices.

    with jax.set_mesh(mesh):
        seconds = contenders.timed(flags.rounds, step).seconds
    flops = useful(work, folder, flags, shared=how == "shared")
    where = jax.devices()[0].device_kind, jax.device_count()
    return contenders.Timed(seconds, note=mfu(flops, seconds, flags, *where))


def draw(shapes):
    """Make random arrays, or 0 where there are no fractions, of shapes in their places."""
    import jax
    import jax.numpy as jnp

    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))

    def make(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jax.jit(lambda: jnp.zeros(x.shape, x.dtype), out_shardings=x.sharding)()
        normal = jax.jit(
            lambda key: 0.02 * jax.random.normal(key, x.shape, x.dtype), out_shardings=x.sharding
        )
        return normal(next(keys))

    return jax.tree.map(make, shapes)


def zeros(shapes):
    import jax
    import jax.numpy as jnp

    places = jax.tree.map(lambda x: x.sharding, shapes)
    fill = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), out_shardings=places
    )
    return fill()


def of_torch(work: str, how: str, folder, flags) -> contenders.Timed:
    import torch
    import transformers

    lora, gpu = "LoRA" in work, torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    config = transformers.AutoConfig.from_pretrained(
        folder / work, num_labels=1, pad_token_id=0, use_cache=False
    )
    with device:
        model = transformers.AutoModelForSequenceClassification.from_config(
            config,
            dtype=torch.bfloat16 if lora else torch.float32,
            attn_implementation="sdpa",
        )
    if flags.remat:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora:
        import peft

        model.enable_input_require_grads()
        about = {"target_modules": "all-linear", "modules_to_save": ["score"]}
        model = peft.get_peft_model(model, peft.LoraConfig("SEQ_CLS", r=RANK, **about))
    model.train()
    trained = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=gpu)
    shape = (flags.pairs, 2, flags.tokens)
    ids = torch.randint(1, config.vocab_size, shape, device=device)
    flash = torch.nn.attention.SDPBackend.FLASH_ATTENTION

    def step(_):
        for pair in ids:
            with torch.autocast(device.type, torch.bfloat16):
                chosen, rejected = model(input_ids=pair).logits[:, 0].float()
            loss = -torch.nn.functional.logsigmoid(chosen - rejected) / len(ids)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return [float(loss)]  # Waits for the device.

    with torch.nn.attention.sdpa_kernel(flash) if gpu else torch.enable_grad():
        seconds = contenders.timed(flags.rounds, step).seconds
    flops = useful(work, folder, flags, shared=False)
    name = torch.cuda.get_device_name() if gpu else "cpu"
    return contenders.Timed(seconds, note=mfu(flops, seconds, flags, name))


RUNS = {
    (work, whose): functools.partial(run, work)
    for work in WORKS
    for whose, run in (("hs2jax", ours), ("torch", of_torch))
}

if __name__ == "__main__":
    main()
