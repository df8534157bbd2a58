"""Tokenizers: train a Unigram one, load an existing one, and facts about the pieces of either.

Training is sentencepiece's, because the trainer of the `tokenizers` library gives another vocabulary each time it
runs. The normalizer is that of the finished tokenizer: text is normalised by it first and sentencepiece left to change
nothing, so the two cannot disagree.
"""

import copy
import hashlib
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from megamini.data.corpus.chunks import cut_text
from megamini.errors import UserError

# RoBERTa's ids: its position ids start behind the pad id, so every tokenizer made here has each role at the same id.
SPECIAL_PIECES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
BYTE_PIECES = 256
LEAST_VOCABULARY = 400
SENTENCE_CHARACTERS = 1_000  # at most 4,000 bytes: sentencepiece leaves out lines above 4,192
TRAINER_THREADS = 8  # fixed, since the order of sentencepiece's sums, and so the vocabulary, depends on it
NEVER_MATCHED = -1_000.0  # score of pieces that text must not match by spelling them: specials and bytes
ASCII = "".join(map(chr, range(0x21, 0x7F)))
# What separates words: white space, control characters, and sentencepiece's own mark for a space. The joiners
# U+200C and U+200D stay, unlike in nmt_nfkc: Persian and Indic words and emoji need them.
SEPARATORS = r"[\s\x00-\x1f\x7f-\x9f\u2581\u200b\u2028\u2029\ufeff]+"


def normalizer() -> normalizers.Normalizer:
    """NFKC, then every run of white space and control characters to one space, none at either end."""
    return normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(SEPARATORS), " "), normalizers.Strip()],
    )


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """A mark for the space in front of each word; no piece reaches from one word into the next."""
    return pre_tokenizers.Metaspace(prepend_scheme="always")


# --- training -------------------------------------------------------------------------------------------------------


def train_unigram(
    texts: Iterable[str], vocab_size: int, character_coverage: float, sample_file: Path, exactly: bool = True
) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of exactly `vocab_size` pieces, specials and bytes included; equal texts, equal tokenizers.

    `sample_file` is scratch space for the normalised text. Characters outside `character_coverage` are read as bytes,
    so no character is lost. exactly: raise UserError when the text does not yield that many pieces; else there are
    fewer then. Raises UserError when the text needs more.
    """
    normalize = normalizer().normalize_str
    with sample_file.open("w", encoding="utf-8") as sample:
        for text in texts:
            for sentence in cut_text(normalize(text), SENTENCE_CHARACTERS):
                sample.write(sentence.strip() + "\n")
    return _as_fast_tokenizer(_train_sentencepiece(sample_file, vocab_size, character_coverage, exactly))


def _train_sentencepiece(sample_file: Path, vocab_size: int, character_coverage: float, exactly: bool = True) -> bytes:
    model = io.BytesIO()
    pieces = {f"{role}_piece": piece for role, piece in SPECIAL_PIECES.items() if role != "mask"}
    ids = {f"{role}_id": number for number, role in enumerate(SPECIAL_PIECES) if role != "mask"}
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(sample_file),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            hard_vocab_limit=exactly,
            normalization_rule_name="identity",
            required_chars=ASCII,
            control_symbols=[SPECIAL_PIECES["mask"]],
            num_threads=TRAINER_THREADS,
            minloglevel=2,
            **pieces,
            **ids,
        )
    except RuntimeError as error:
        raise UserError(_vocabulary_advice(str(error), vocab_size)) from None
    return model.getvalue()


def _vocabulary_advice(message: str, vocab_size: int) -> str:
    if largest := re.search(r"set it to a value <= (\d+)", message):
        return (
            f"--vocab-size {vocab_size}: the text yields no more than {largest[1]} pieces; "
            + (f"ask for at most {largest[1]}, or " if int(largest[1]) >= LEAST_VOCABULARY else "")
            + "bring more text"
        )
    if needed := re.search(r"(\d+) vs (\d+)", message):
        least = max(map(int, needed.groups())) + BYTE_PIECES + len(SPECIAL_PIECES)
        return f"--vocab-size {vocab_size}: too few for the characters of the text; ask for more than {least}"
    return f"--vocab-size {vocab_size}: no vocabulary can be made from this text: {message}"


def _as_fast_tokenizer(sentencepiece_model: bytes) -> PreTrainedTokenizerFast:
    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    bos, pad, eos, unk, mask = SPECIAL_PIECES.values()

    def score(number: int) -> float:
        spelled = not (model.is_control(number) or model.is_byte(number) or model.is_unknown(number))
        return model.get_score(number) if spelled else NEVER_MATCHED

    vocabulary = [(model.id_to_piece(number), score(number)) for number in range(model.get_piece_size())]
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=ids[unk], byte_fallback=True))
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, ids[bos]), (eos, ids[eos])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        cls_token=bos,
        eos_token=eos,
        sep_token=eos,
        pad_token=pad,
        unk_token=unk,
        mask_token=AddedToken(mask, lstrip=True, special=True, normalized=False),
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


# --- loading and saving ---------------------------------------------------------------------------------------------


def load_tokenizer(name: str | Path, decoder: bool = False) -> PreTrainedTokenizerBase:
    """An existing tokenizer: a local folder, or a name on the hub.

    decoder: it is for one, which needs no mask, and whose texts may begin, and be padded, with what ends them.
    Raises UserError when there is none, when it is not a fast one, or lacks one of cls/bos, sep/eos and pad, or mask
    and one of these: with all but mask it may be a decoder's.
    """
    folder = Path(name)
    if (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        # The library would take the class of config.json instead, whose ids may be others.
        raise UserError(f"{name}: has a tokenizer.json but no tokenizer_config.json; without it ids may differ")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:
        # Whatever a broken folder makes the library raise, it comes from what the user named.
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: no tokenizer can be loaded from there: {reason}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{name}: only a Python ('slow') tokenizer; save a fast one (tokenizer.json) there")
    if len(tokenizer) <= len(special_ids(tokenizer)):  # what the library makes up where it finds no files
        raise UserError(f"{name}: the tokenizer there has only special pieces; is tokenizer.json missing?")
    if (last := max(tokenizer.get_vocab().values())) >= len(tokenizer):
        raise UserError(
            f"{name}: the tokenizer has {len(tokenizer)} pieces with ids up to {last}, so some ids have no piece; "
            "save it with ids from 0 on without gaps"
        )
    roles = special_roles(tokenizer)
    if decoder and roles["eos"] is not None:
        for role in ("bos", "pad"):
            if roles[role] is None:
                setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(roles["eos"]))
        roles = special_roles(tokenizer)
    missing = [role for role, number in roles.items() if number is None and role != "unk"]
    if missing not in ([], ["mask"]):
        raise UserError(
            f"{name}: the tokenizer has no {' and no '.join(missing)} token; pretraining needs bos or cls, "
            "eos or sep, pad and mask"
        )
    return tokenizer


def has_tokenizer(name: str | Path) -> bool:
    """Whether a local folder holds any file of a tokenizer; of a name on the hub, yes."""
    folder = Path(name)
    return not folder.is_dir() or any(
        file for pattern in ("tokenizer*", "vocab*", "*.model") for file in folder.glob(pattern)
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path, texts: list[str]) -> None:
    """Save for `AutoTokenizer`, load again, and compare the ids of `texts`: equal, or UserError."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    before, after = encoder(tokenizer), encoder(AutoTokenizer.from_pretrained(directory, trust_remote_code=False))
    for text in texts:
        if before.encode(text).ids != after.encode(text).ids:
            raise UserError(f"{directory}: the saved tokenizer gives other ids than its source for {text[:40]!r}")


def encoder(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy of the tokenizer's Rust part that neither truncates nor pads, and reads a special token that text spells,
    such as `<s>` in a web page, as text."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = True
    return own


def encode(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """What the tokenizer makes of texts, of which none spells a special token: `<mask>` in a manual is text, as it is
    in the blocks that models learn from. `options`: as the tokenizer's own."""
    return tokenizer(*texts, split_special_tokens=True, **options)


def for_prompts(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer without the token that it puts behind a text, for a decoder is to go on there. One that puts none
    there comes back itself."""
    roles, ids = special_roles(tokenizer), tokenizer("a")["input_ids"]
    if ids[-1] != roles["eos"]:
        return tokenizer
    own = copy.deepcopy(tokenizer)
    begins = ids[0] == roles["bos"]
    bos = tokenizer.convert_ids_to_tokens(roles["bos"])
    start = f"{bos} " if begins else ""
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start}$A", pair=f"{start}$A $B", special_tokens=[(bos, roles["bos"])] if begins else []
    )
    return own


def is_word_by_word(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the ids of a text are those of its words one after the other, as for tokenizers made here.

    Each word gets its own mark for the space, and NFKC composes nothing across white space.
    """
    reference = Tokenizer(models.Unigram())
    reference.normalizer, reference.pre_tokenizer = normalizer(), pre_tokenizer()
    ours, theirs = (json.loads(one.to_str()) for one in (reference, tokenizer.backend_tokenizer))
    return all(ours[part] == theirs[part] for part in ("normalizer", "pre_tokenizer"))


# --- facts ----------------------------------------------------------------------------------------------------------


def special_roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Role -> id, None if the tokenizer has none. bos is what opens a sequence (cls if there is one), eos what closes
    it (sep if there is one)."""
    ids = {
        role: getattr(tokenizer, f"{role}_token_id", None)
        for role in ("cls", "bos", "sep", "eos", "pad", "unk", "mask")
    }

    def either(first: str, second: str) -> int | None:
        return ids[first] if ids[first] is not None else ids[second]

    return {
        "bos": either("cls", "bos"),
        "pad": ids["pad"],
        "eos": either("sep", "eos"),
        "unk": ids["unk"],
        "mask": ids["mask"],
    }


def pad_alone(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the pad token; None where it has another role as well, as in many tokenizers of decoders: what is done
    to pads would be done to that."""
    roles = special_roles(tokenizer)
    pad = roles.pop("pad")
    return None if pad in roles.values() else pad


def special_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Every special id, that of the unknown token included, ascending [S] int64."""
    return np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)


def piece_bytes(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """UTF-8 bytes of text that each piece stands for [V] int32; 0 for special pieces and unused ids."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = component_types(backend["pre_tokenizer"]) | component_types(backend["decoder"])
    added = {entry["content"] for entry in backend["added_tokens"]}
    specials = set(special_ids(tokenizer).tolist())
    sizes = np.zeros(len(tokenizer), np.int32)
    for piece, number in tokenizer.get_vocab().items():
        if number in specials:
            continue
        if piece in added:
            sizes[number] = len(piece.encode())
        elif "ByteLevel" in kinds:
            sizes[number] = len(piece)
        elif backend["model"]["type"] == "WordPiece":
            prefix = backend["model"]["continuing_subword_prefix"]
            sizes[number] = len(piece.removeprefix(prefix).encode()) + (not piece.startswith(prefix))
        elif "ByteFallback" in kinds and re.fullmatch(r"<0x[0-9A-F]{2}>", piece):
            sizes[number] = 1
        else:
            sizes[number] = len(piece.replace("▁", " ").encode())
    return sizes


def component_types(part: Any) -> set[str]:
    """Every `type` named in a part of tokenizer.json."""
    if isinstance(part, dict):
        named = {part["type"]} if isinstance(part.get("type"), str) else set()
        return named.union(*map(component_types, part.values()))
    return set().union(*map(component_types, part)) if isinstance(part, list) else set()


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over the vocabulary and all that turns text into ids; equal for equal tokenizers wherever they lie."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        **{part: backend[part] for part in ("model", "normalizer", "pre_tokenizer")},
    }
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
