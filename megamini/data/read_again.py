"""What the library makes of a tokenizer that lies in the folder of a model: of some families another one."""

import tempfile

from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from megamini.data.tokenizer import encoder
from megamini.errors import UserError

PROBE = "The quick brown fox; Übermäßig große Häuser, déjà vu. Привет, мир! 你好 123"
# Families beside whose models `AutoTokenizer` (transformers 5.23) reads any tokenizer as the family's own, whatever
# tokenizer_config.json says.
_READ_AS_OWN = ("qwen2",)


def gives_the_same(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether both give the same ids for `PROBE`."""
    return encoder(tokenizer).encode(PROBE).ids == encoder(other).encode(PROBE).ids


def advice_for(model_type: str) -> str:
    """What to do where a tokenizer is read as another; empty for families of which that is not known."""
    if model_type not in _READ_AS_OWN:
        return ""
    return f"; AutoTokenizer reads any tokenizer of a {model_type} model as Qwen's own: use family qwen3 with another"


def check_read_again(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str) -> None:
    """Raise `UserError`, which begins with `where`, for a tokenizer that no exported model of that configuration could
    have: whoever loads it would read text by other pieces. Cheap for families that read every tokenizer as it is."""
    if config.model_type not in _READ_AS_OWN:
        return
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not gives_the_same(tokenizer, again):
        raise UserError(f"{where}: the model could not be exported with this tokenizer{advice_for(config.model_type)}")
