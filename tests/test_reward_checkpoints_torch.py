"""Reward checkpoints, by others and by us, give the scores that transformers alone gives."""

import dataclasses

import numpy as np
import pytest
import tiny
import tiny_models

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import families  # noqa: E402 (it needs torch)

from hs2jax.reward_model import RewardModel  # noqa: E402

pytestmark = pytest.mark.parity

CLOSE = {"rtol": 0, "atol": 1e-4}
TALKS = [
    tiny.talk("Where?", "Paris."),
    [
        {"role": "system", "content": "Be brief."},
        *tiny.talk("How do I bake bread?", "In an oven. \n"),
    ],
    [
        *tiny.talk("Two?", "2"),
        *tiny.talk("Please write a short poem.", "\n\nThe waves come in,\nthe waves go out."),
    ],
]
# One variant of each family that transformers has classes of its own for.
VARIANTS = {each.classes.config: each for each in reversed(families.VARIANTS.values())}
del VARIANTS["InternLM3Config"]


def markers_tokenizer():
    """Like Nemotron's: it has the extra_id template's markers as tokens."""
    markers = ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
    return tiny_models.chat_tokenizer(("<|im_start|>", "<unk>", "<|im_end|>", *markers))


def built(variant, tokenizer, pad=None, **changes):
    """A model of the tokenizer's size, with the id of its pad token if there is one."""
    changes["pad_token_id"] = None if pad is None else tokenizer.convert_tokens_to_ids(pad)
    return families.build(variant, vocab_size=len(tokenizer), **changes)


def their_scores(model, tokenizer):
    """As model cards do it: each talk alone, [talks, outputs]."""
    options = {"return_tensors": "pt", "return_dict": True}
    with torch.no_grad():
        found = [model(**tokenizer.apply_chat_template(talk, **options)).logits for talk in TALKS]
    return np.concatenate(found)


def their_scores_of_texts(model, tokenizer):
    """As some cards do it: the text, its BOS cut off, for the tokenizer to put it there again."""
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in TALKS]
    texts = [text.removeprefix(tokenizer.bos_token) for text in texts]
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    return np.concatenate(found)


def assert_exported(ours, folder, expected):
    """Export `ours`: transformers alone gives these scores, padded to one batch at either side."""
    ours.save(folder)
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(folder, attn_implementation="eager")
    # Not AutoTokenizer: for some families it makes their usual tokenizer instead of the saved one.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer.apply_chat_template(
            TALKS, padding=True, return_tensors="pt", return_dict=True
        )
        assert not batch["attention_mask"].all()
        with torch.no_grad():
            np.testing.assert_allclose(model(**batch).logits.numpy(), expected, **CLOSE)


def our_scores(model):
    return np.array([list(score.outputs.values()) for score in model.score(TALKS)])


@pytest.mark.parametrize(
    ("name", "make", "pad"),
    [
        # ChatML: read at the line break behind the end of the turn.
        *((name, tiny.tokenizer, "<|endoftext|>") for name in VARIANTS),
        # Llama 3: read at the end of the turn, or before it where that is the pad.
        ("LlamaConfig", tiny.bos_tokenizer, "<|end|>"),
        ("LlamaConfig", tiny.bos_tokenizer, "<|eot|>"),
        ("Gemma2Config", tiny.bos_tokenizer, "<|eot|>"),
    ],
)
def test_a_classifier_by_others(tmp_path, name, make, pad):
    variant, tokenizer = VARIANTS[name], make()
    theirs = built(variant, tokenizer, pad, head=True, id2label={0: "LABEL_0"})
    families.save(variant, theirs, tmp_path / "in")
    tokenizer.save_pretrained(tmp_path / "in")
    expected = their_scores(theirs, tokenizer)

    ours = RewardModel.load(tmp_path / "in")
    assert ours.outputs == ("reward",)
    np.testing.assert_allclose(our_scores(ours), expected, **CLOSE)
    if pad == "<|end|>":
        np.testing.assert_allclose(their_scores_of_texts(theirs, tokenizer), expected, **CLOSE)
    else:  # With that pad it is the same token.
        at_the_turn = our_scores(dataclasses.replace(ours, read="end_of_turn"))
        assert np.abs(at_the_turn - expected).max() > 1e-2

    assert_exported(ours, tmp_path / "out", expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("known", [True, False], ids=["by name", "when told"])
def test_a_reward_in_row_0_of_lm_head(tmp_path, tied, known):
    tokenizer = tiny.bos_tokenizer()
    theirs = built(families.VARIANTS["Llama 3.1, scaled rope"], tokenizer, tie_word_embeddings=tied)
    folder = tmp_path / ("Llama-3.1-Nemotron-70B-Reward-HF" if known else "model")
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    once = {"max_new_tokens": 1, "do_sample": False}
    once |= {"output_scores": True, "return_dict_in_generate": True}
    expected = []
    for talk in TALKS:  # As its model card does it.
        batch = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True)
        expected.append([theirs.generate(**batch, **once).scores[0][0][0].item()])

    ours = RewardModel.load(folder if known else f"{folder}#lm_head[0]")
    np.testing.assert_allclose(our_scores(ours), expected, **CLOSE)
    assert_exported(ours, tmp_path / "out", expected)


@pytest.mark.parametrize("make", [tiny.tokenizer, tiny.bos_tokenizer, markers_tokenizer])
def test_a_model_of_ours_with_the_extra_id_template(tmp_path, make):
    tokenizer = make()
    # Of many positions, since one of these tokenizers cuts text into bytes.
    theirs = built(families.VARIANTS["Llama 3"], tokenizer, max_position_embeddings=1024)
    theirs.save_pretrained(tmp_path / "in")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "in")
    ours = RewardModel.load(tmp_path / "in", outputs=("a", "b"), template="extra_id")
    expected = our_scores(ours)
    assert_exported(ours, tmp_path / "out", expected)
    assert np.ptp(expected, axis=0).min() > 1e-3
