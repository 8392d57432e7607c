"""The shape of a decoder-only transformer: sizes, constants, and what kind of layers it has.

`models.hf.config` makes one from Hugging Face's `config.json`, and the other way round.
"""

import dataclasses

import numpy as np

from hs2jax.models import rope

FULL, SLIDING = "full_attention", "sliding_attention"
# What may be kept of a layer whose rest is computed again in the backward pass: the results of
# projections, and of attention's kernel.
KEPT = ("q", "k", "v", "attention", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and constants of one model. Hashable, so that it can be a static argument of `jit`.

    Sizes count elements (`intermediate_size` is that of the feed-forward layer, `max_seq_len` the
    longest sequence in tokens that the model was made for). `eos_ids` may hold several ids.
    `tied`: the vocabulary's output weights are its embeddings. `language_head` is False where
    there are no output weights at all, as in an untied checkpoint saved with a reward head.

    `sliding_window`: how many tokens back, itself included, a token sees in the layers whose
    `layer_types` is SLIDING; None and () where no layer could have one. `rope_local_base`: the
    rotary base of those layers, where it is another. `rotary_fraction`: the part of each head that
    is rotated.
    `query_pre_attn_scalar`: attention's logits are divided by its square root; None is the head's
    size. `attn_logit_softcap`, `final_logit_softcap`: c in c tanh(x / c), on attention's and the
    vocabulary's logits.
    `qk_norm`: queries and keys are normalised per head. `post_norms`: the outputs of attention
    and of the feed-forward layer are normalised too. `norm_plus_one`: norms multiply by one plus
    their weight. `layer_norm`: they subtract the mean and have a bias. `scaled_embedding`: the
    embeddings are multiplied by the square root of `hidden_size`.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_epsilon: float = 1e-6
    rope_base: float = 10000.0
    rope_scaling: rope.Scaling | None = None
    rope_local_base: float | None = None
    rotary_fraction: float = 1.0
    max_seq_len: int = 2048
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    query_pre_attn_scalar: int | None = None
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_plus_one: bool = False
    layer_norm: bool = False
    scaled_embedding: bool = False
    gated: bool = True
    tied: bool = False
    language_head: bool = True
    activation: str = "silu"
    family: str = "llama"
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    @property
    def sliding(self) -> tuple[bool, ...]:
        """True for each layer with the window; empty where no layer could have one."""
        return tuple(kind == SLIDING for kind in self.layer_types)

    @property
    def has_lm_head(self) -> bool:
        """True where the parameters hold a leaf `lm_head`, output weights of their own."""
        return self.language_head and not self.tied

    def without_lm_head(self) -> "Config":
        """The same without output weights of the decoder's own, which no reward needs."""
        return dataclasses.replace(self, language_head=False) if self.has_lm_head else self

    @property
    def rotary_size(self) -> int:
        """The number of a head's elements that are rotated, from the first."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def attention_scale(self) -> float:
        """The factor of attention's logits; YaRN's is here, of queries and keys together."""
        scaled = 1.0 if self.rope_scaling is None else self.rope_scaling.attention**2
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5 * scaled

    def frequencies(self) -> np.ndarray:
        """Radians per position, float32: [rotary_size // 2], or one row per layer where layers
        differ."""
        full = rope.frequencies(self.rotary_size, self.rope_base, self.rope_scaling)
        if self.rope_local_base is None:
            return full
        local = rope.frequencies(self.rotary_size, self.rope_local_base)
        return np.where(np.array(self.sliding)[:, None], local, full)

    def forward_flops(self, tokens: int, visible: int, logits: int = 0) -> int:
        """Count the floating-point operations of a forward pass, two for each multiplication: those
        of the layers' weights for each token, attention's for each of the `visible` pairs of a
        query and a key that it sees, and the vocabulary's for so many logits. A backward pass takes
        twice as many."""
        D, N, K, H = self.hidden_size, self.num_heads, self.num_kv_heads, self.head_dim
        weights = 2 * D * H * (N + K) + (3 if self.gated else 2) * D * self.intermediate_size
        layers = self.num_layers * (2 * tokens * weights + 4 * visible * N * H)
        return layers + 2 * logits * D * self.vocab_size
