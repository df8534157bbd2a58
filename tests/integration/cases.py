"""What a parity run trains: small enough for seconds, with every setting that could break an engine in reach."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

UPDATES, WARMUP, GLOBAL_BATCH, BLOCK_LENGTH = 20, 5, 8, 32
LEARNING_RATE = 5e-3
VALIDATE_EVERY, FORGET_EVERY, REMEMBER_LAST = 7, 5, 5
MASK_SHARE, HIGH_MASK_SHARE, LOWERED_AFTER = 0.15, 0.4, 11
FAMILIES = ("roberta", "xlm-roberta", "xlm-roberta-xl", "bert", "modernbert")
DECODERS = ("llama", "qwen2", "qwen3", "gemma", "gpt_neox")
UNTIED = ("llama", "gpt_neox")

_BODY = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
# Blocks longer than the window, so that ModernBERT's sliding layers see less than its full ones.
_BODY_OF_FAMILY = {"modernbert": {"local_attention": 16}} | {
    # Two heads that share keys and values, and output matrices of both kinds.
    family: {"tie_word_embeddings": family not in UNTIED} | ({"num_key_value_heads": 1} if family != "gpt_neox" else {})
    for family in DECODERS
}
# 401 pieces x 33: an odd number of elements, which no even number of ranks divides.
_ODD_BODY = {"num_attention_heads": 3, "hidden_size": 33}


@dataclass(frozen=True)
class Case:
    """One run. `stage` None is the plain engine, in one process."""

    family: str = "roberta"
    stage: int | None = 2
    accumulation: int = 1
    checkpointing: bool = False
    precision: str = "fp32"
    exits: tuple[int, ...] = (2,)
    head_weights: tuple[float, ...] | None = None
    forgetting: bool = False
    odd: bool = False
    minipost: bool = False
    """Over a checkpoint of the family: 1 layer and 1 bridge layer."""
    lora: bool = False
    """Low-rank updates of a checkpoint of the family, and its token matrices."""
    tokens_alone: bool = False
    """Token matrices of a checkpoint of the family."""
    lowered: bool = False
    """The mask share is high at first, and from update LOWERED_AFTER on what it else is all along."""
    separators: bool = True
    """Of decoders: whether the token behind each document is predicted."""
    clip_norm: float = 0.5
    eps: float = 1e-6
    """Of AdamW."""
    ranks: int = 2
    muon: bool = False
    offload: bool = False
    """Optimizer states in the host's memory, and what moves them there."""

    def __str__(self) -> str:
        marks = [self.family, "plain" if self.stage is None else f"zero{self.stage}", self.precision]
        marks += [f"{self.ranks}ranks", f"accumulation{self.accumulation}"]
        marks += ["checkpointing"] * self.checkpointing + ["forgetting"] * self.forgetting + ["odd"] * self.odd
        marks += ["lora"] * self.lora + ["tokens"] * self.tokens_alone
        marks += ["minipost"] * self.minipost + ["muon"] * self.muon + ["lowered"] * self.lowered
        marks += ["offload"] * self.offload + ["textonly"] * (not self.separators)
        marks += [f"eps{self.eps:g}"] * (self.eps != 1e-6)
        marks += [f"exits{'and'.join(map(str, self.exits)) or 'none'}", f"clip{self.clip_norm:g}"]
        return "-".join(marks)

    @property
    def causal(self) -> bool:
        return self.family in DECODERS

    @property
    def over_checkpoint(self) -> bool:
        return self.minipost or self.lora or self.tokens_alone

    @property
    def vocab_size(self) -> int:
        return 401 if self.odd else 400

    def recipe(self, data: Path, runs: Path) -> dict[str, Any]:
        """The recipe's values; the run directory is runs / str(self). A checkpoint to start from is beside the data."""
        body = {**_BODY, **_BODY_OF_FAMILY.get(self.family, {}), **(_ODD_BODY if self.odd else {})}
        plain = "causal" if self.causal else "mlm"
        objective = {"method": "minijoint" if self.exits else plain, "head_weights": self.head_weights}
        model = {"family": self.family, "config": body, "exits": self.exits, "dropout": 0.0}
        if self.minipost:
            model = {"from_checkpoint": str(data / self.family), "exits": (1,), "bridge_layers": 1, "dropout": 0.0}
            objective = {"method": "minipost"}
        elif self.over_checkpoint:
            model = {"from_checkpoint": str(data / self.family), "dropout": 0.0}
            objective = {"method": "lora", "lora": {"rank": 4}} if self.lora else {"method": "embeddings"}
        if self.forgetting:
            objective["forgetting"] = {
                "every": f"{FORGET_EVERY} updates",
                "none_in_last": f"{REMEMBER_LAST} updates",
            }
        if not self.separators:
            objective["predict_separators"] = False
        if self.lowered:
            high = {"share": HIGH_MASK_SHARE, "until": f"{LOWERED_AFTER} updates"}
            objective["mask_share"] = [high, {"share": MASK_SHARE}]
        return {
            "name": str(self),
            "model": model,
            "data": {"path": str(data), "workers": 0},
            "objective": objective,
            "optimizer": {
                "name": "muon" if self.muon else "adamw",
                "learning_rate": LEARNING_RATE,
                "weight_decay": 0.1,
                "clip_norm": self.clip_norm,
                "eps": self.eps,
            },
            "schedule": {"duration": f"{UPDATES} updates", "warmup": f"{WARMUP} updates", "final_share": 0.1},
            "training": {
                "global_batch": GLOBAL_BATCH,
                "micro_batch": GLOBAL_BATCH // self.ranks // self.accumulation,
                "precision": self.precision,
                "seed": 3,
                "activation_checkpointing": self.checkpointing,
                "runs": str(runs),
            },
            "telemetry": {"every": 1, "validate_every": f"{VALIDATE_EVERY} updates", "peak_tflops": 1.0},
        }
