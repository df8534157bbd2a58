"""Text of single languages, and an English tokenizer, for the tests of changed vocabularies."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megamini.data.tokenizer import train_unigram
from tests.data.texts import SENTENCES

ENGLISH = (Path(__file__).parents[2] / "integration/prose.txt").read_text(encoding="utf-8")
GERMAN = 2 * (
    " ".join(SENTENCES[3:6])
    + " "
    + "Die Mühle am Fluss hat sich seit der Flut im letzten Frühling nicht mehr gedreht. Niemand hatte den Kindern "
    "gesagt, warum die Glocken so früh läuteten. Eine gute Karte zeigt weniger als das Land, und darum hilft sie. "
)
RUSSIAN = 2 * (
    " ".join(SENTENCES[6:9])
    + " "
    + "Мельница у реки не работает с весеннего паводка. Никто не сказал детям, почему так рано звонят колокола. "
    "Хорошая карта показывает меньше, чем страна, и потому она помогает. "
)
CHINESE = " ".join(SENTENCES[9:12])


def english_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return train_unigram([ENGLISH], 600, 1.0, folder / "sample.txt")


def without_bytes(pieces: dict[str, float], **metaspace) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer as others make them: unknown characters are one token, whose price is the lowest score's."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = [(piece, 0.0) for piece in specials] + list(pieces.items())
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace)
    roles = dict(zip(("bos", "pad", "eos", "unk", "mask"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{f"{role}_token": one for role, one in roles.items()})


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def vocabulary_of(tokenizer) -> list:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
