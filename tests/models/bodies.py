"""Small bodies of every family with weights that are nowhere trivial, a tokenizer for them, and recipes."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from megamini.recipes.recipe import Recipe

ENCODERS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "bert", "modernbert")
DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gpt_neox")
FAMILIES = (*ENCODERS, *DECODERS)
UNTIED = ("llama", "gpt_neox")
VOCAB, WIDTH, LAYERS, LENGTH = 120, 64, 4, 24
SIZES = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
# Sliding windows shorter than the blocks, and full attention only in every third layer.
# Decoders: heads that share keys and values, heads wider than the width asks for, and both kinds of output matrices.
EXTRA = {
    "modernbert": {"local_attention": 8},
    "llama": {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": True},
    "gemma": {"num_key_value_heads": 1, "head_dim": 24, "tie_word_embeddings": True},
    "gpt_neox": {"tie_word_embeddings": False},
}


def auto_class(family):
    return AutoModelForCausalLM if family in DECODERS else AutoModelForMaskedLM


def small_config(family, **changes):
    values = {"vocab_size": VOCAB, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, **SIZES}
    if family == "modernbert":
        values |= {"cls_token_id": 0, "sep_token_id": 2}
    return AutoConfig.for_model(family, **{**values, **EXTRA.get(family, {}), **changes})


def small_model(family, **changes):
    """A model as if trained: also norms and biases differ from where they start."""
    torch.manual_seed(0)
    model = auto_class(family).from_config(small_config(family, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def small_tokenizer():
    """A word-level tokenizer of VOCAB pieces with RoBERTa's special ids."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"w{n}" for n in range(VOCAB - 5))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{role}_token": t for role, t in roles.items()})


def small_recipe(exits=(), head_weights=None, **model):
    plain = "causal" if model.get("family") in DECODERS else "mlm"
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"exits": list(exits), **model},
            "data": {"path": "data"},
            "objective": {"method": "minijoint" if exits else plain, "head_weights": head_weights},
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"duration": "10 updates", "warmup": "1 updates"},
            "training": {"global_batch": 4, "micro_batch": 4, "precision": "fp32"},
        }
    )


def small_batch(blocks=3, masked=5, padded=False):
    """(input_ids, flattened positions, labels, attention mask or None)."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCAB, (blocks, LENGTH), generator=draw)
    mask = None
    if padded:
        ids[-1, 16:] = 1
        mask = (ids != 1).long()
    positions = torch.cat([torch.randperm(16, generator=draw)[:masked] + row * LENGTH for row in range(blocks)])
    labels = torch.randint(5, VOCAB, (blocks * masked,), generator=draw)
    return ids, positions, labels, mask
