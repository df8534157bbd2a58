"""Cases of real people's packs and the models they are plugged into."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.packs.plugged_export import load_any_model, plugged_card
from megamini.data.tokenizer import special_roles
from megamini.errors import UserError
from megamini.models.export import export_checkpoint
from megamini.models.lineage import lineage_of
from tests.models import bodies
from tests.models.bodies import ENCODERS, VOCAB, WIDTH, small_model, small_tokenizer

TOKENIZER = small_tokenizer()


def make_pack(model, tokenizer=TOKENIZER, own=TOKENIZER, language="de", details=None):
    draw = torch.Generator().manual_seed(1)
    matrix, bias = torch.randn(len(tokenizer), WIDTH, generator=draw), torch.randn(len(tokenizer), generator=draw)
    return LanguagePack(language, matrix, bias, tokenizer, lineage_of(model, own), details or {"method": "mini"})


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16, torch.float16])
def test_a_pack_fits_its_model_in_any_precision(family, stored, loaded, tmp_path):
    model = small_model(family)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] *= 1e-6  # below what fp16 holds in full
    pack = make_pack(model)
    model.to(stored).save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=loaded)
    plug(model, TOKENIZER, pack)
    assert torch.equal(model.get_input_embeddings().weight, pack.token_embeddings.to(loaded))


@pytest.mark.parametrize("loaded", [torch.bfloat16, torch.float16])
def test_a_model_trained_since_is_refused_in_any_precision(loaded):
    model = small_model("roberta")
    pack = make_pack(model)
    model.config.megamini = {"lineage": pack.lineage}  # what it was, as an export declares
    with torch.no_grad():
        model.get_input_embeddings().weight[7, 3] += 0.5
    with pytest.raises(UserError, match="other token embeddings"):
        plug(model.to(loaded), TOKENIZER, pack)


def test_packs_of_an_earlier_version_fit_as_before_and_say_what_to_do_in_fp16():
    model = small_model("roberta")
    pack = make_pack(model)
    del pack.lineage["also_sha256"]
    with pytest.raises(UserError, match="load the model in fp32"):
        plug(copy.deepcopy(model).half(), TOKENIZER, pack)
    plug(model, TOKENIZER, pack)


def test_numbers_too_large_for_the_model_are_refused():
    model = small_model("roberta")
    pack = make_pack(model)
    pack.token_embeddings[9, 9] = 1e6
    before = copy.deepcopy(model.half().state_dict())
    with pytest.raises(UserError, match=r"too large for torch\.float16"):
        plug(model, TOKENIZER, pack)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- what a pack holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["token_embeddings", "output_bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_pack_with_numbers_that_are_none_is_one_line(name, value, tmp_path):
    make_pack(small_model("roberta")).save(tmp_path / "de")
    change_tensors(tmp_path / "de", lambda tensors: tensors[name].view(-1)[7:9].fill_(value))
    with pytest.raises(UserError, match=r"^[^\n]*embeddings.safetensors[^\n]*no finite numbers[^\n]*$"):
        plug(small_model("roberta"), TOKENIZER, tmp_path / "de")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(output_bias=torch.zeros(7)),
        lambda t: t.update(output_bias=torch.zeros(VOCAB, 1)),
        lambda t: t.update(token_embeddings=torch.zeros(VOCAB)),
        lambda t: t.update(token_embeddings=torch.zeros(VOCAB, WIDTH, dtype=torch.int64)),
        lambda t: t.update(token_embeddings=torch.zeros(0, WIDTH)),
    ],
)
def test_rows_that_do_not_fit_each_other_are_one_line(change, tmp_path):
    make_pack(small_model("roberta")).save(tmp_path / "de")
    change_tensors(tmp_path / "de", change)
    with pytest.raises(UserError, match=r"^[^\n]*$"):
        plug(small_model("roberta"), TOKENIZER, tmp_path / "de")


def test_a_pack_learned_into_nan_is_not_written():
    pack = make_pack(small_model("roberta"))
    broken = torch.full_like(pack.token_embeddings, float("nan"))
    with pytest.raises(UserError, match="no finite numbers"):
        LanguagePack("de", broken, pack.output_bias, TOKENIZER, pack.lineage)


def change_tensors(folder, change):
    """Change a pack's rows, and sign them anew, as a run that diverged would have."""
    import hashlib

    path = folder / "embeddings.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    rewrite(folder, embeddings_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def rewrite(folder, **values):
    path = folder / "pack.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    [
        {"language": "../../x"},
        {"language": "/tmp/x"},
        {"language": "<script>alert(1)</script>"},
        {"language": None},
        {"language": ["de"]},
        {"lineage": "x"},
        {"lineage": {"embeddings_sha256": 5, "tokenizer_sha256": "x"}},
        {"lineage": {"embeddings_sha256": "x", "tokenizer_sha256": "x", "also_sha256": [5]}},
        {"ledger": {"tokens": "many"}},
        {"ledger": {"flops": -1}},
        {"ledger": []},
        {"text": ["x"]},
        {"text": [{"licence": "MIT"}]},
        {"body": "x"},
        {"format": None},
        {"format": "<b>"},
    ],
)
def test_a_description_that_is_none_of_ours_is_one_line(values, tmp_path):
    make_pack(small_model("roberta")).save(tmp_path / "de")
    rewrite(tmp_path / "de", **values)
    with pytest.raises(UserError, match=r"^[^\n]*pack\.json: [^\n]*$"):
        LanguagePack.load(tmp_path / "de")


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"format": ' + b"1" * 9000 + b"}", b"\xff"])
def test_a_torn_description_is_one_line(content, tmp_path):
    make_pack(small_model("roberta")).save(tmp_path / "de")
    (tmp_path / "de" / "pack.json").write_bytes(content)
    with pytest.raises(UserError, match=r"^[^\n]*pack\.json: [^\n]*$"):
        LanguagePack.load(tmp_path / "de")


@pytest.mark.parametrize("language", ["/etc", "../x", "de\n", "", "DE", "de fr"])
def test_no_pack_has_a_language_that_is_a_path(language):
    with pytest.raises(UserError, match="not a language code"):
        make_pack(small_model("roberta"), language=language)


def test_nothing_is_removed_that_is_not_a_pack(tmp_path):
    pack = make_pack(small_model("roberta"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("home", "file"):
        with pytest.raises(UserError, match=f"{name}: is there already and no language pack"):
            pack.save(tmp_path / name)
    assert (tmp_path / "home" / "letter.txt").read_text() == (tmp_path / "file").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new"):
        pack.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home", "new"]


# --- pads that have another role -------------------------------------------------------------------------------------


def decoder(*shared):
    """A byte-level tokenizer whose roles in `shared` are the one token of GPT-2, and the others are at its end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    others = [f"<{role}>" for role in ("bos", "pad", "eos", "unk", "mask") if role not in shared]
    pieces = [*alphabet, "w3", "<|endoftext|>", *others]
    backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, [("w", "3")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    names = {role: "<|endoftext|>" if role in shared else f"<{role}>" for role in ("bos", "pad", "eos", "unk", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{role}_token": p for role, p in names.items()})


SHARED = [("eos", "pad"), ("bos", "eos", "pad"), ("bos", "eos", "pad", "unk"), ("unk", "pad"), ("bos", "pad")]


def with_pad(role):
    tokenizer = small_tokenizer()
    tokenizer.pad_token = getattr(tokenizer, f"{role}_token")
    return tokenizer


@pytest.mark.parametrize("family", ["roberta", "bert", "modernbert"])
@pytest.mark.parametrize("shared", SHARED)
def test_a_packs_tokenizer_may_pad_with_what_ends_a_text(shared, family, tmp_path):
    model, foreign = small_model(family), decoder(*shared)
    pack = make_pack(model, foreign)
    rows = pack.token_embeddings.clone()
    tokenizer = plug(model, TOKENIZER, pack)
    assert special_roles(tokenizer) == special_roles(TOKENIZER)
    # Each token reads the row it has learned, specials included.
    theirs = special_roles(foreign)
    for role, number in special_roles(tokenizer).items():
        assert torch.equal(model.get_input_embeddings().weight[number], rows[theirs[role]]), role
    text = "w3 straße 12"
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert torch.equal(
        model.get_input_embeddings().weight[torch.tensor(plain)],
        rows[torch.tensor(foreign(text, add_special_tokens=False)["input_ids"])],
    )
    # Padded, a text gives what it gives alone.
    batch = tokenizer([text, text * 2], padding=True, return_tensors="pt", truncation=True)
    alone = tokenizer(text, return_tensors="pt", truncation=True)
    with torch.no_grad():
        one, many = model(**alone).logits[0], model(**batch).logits[0]
    torch.testing.assert_close(many[: len(one)], one, atol=1e-4, rtol=1e-4)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"] and special_roles(again) == special_roles(tokenizer)


@pytest.mark.parametrize("role", ["eos", "bos", "unk", "mask"])
@pytest.mark.parametrize("foreign", [decoder(), decoder("eos", "pad"), small_tokenizer()])
def test_a_sources_tokenizer_may_pad_with_what_ends_a_text(role, foreign):
    source = with_pad(role)
    model = small_model("bert", pad_token_id=source.pad_token_id)
    pack = make_pack(model, foreign, own=source)
    rows = pack.token_embeddings.clone()
    tokenizer = plug(model, source, pack)
    assert special_roles(tokenizer) == special_roles(source)
    matrix, theirs = model.get_input_embeddings().weight, special_roles(foreign)
    for one, number in special_roles(tokenizer).items():
        if one != "pad":
            assert torch.equal(matrix[number], rows[theirs[one]]), one
    words = tokenizer("w3 w1", add_special_tokens=False)["input_ids"]
    assert torch.equal(
        matrix[torch.tensor(words)], rows[torch.tensor(foreign("w3 w1", add_special_tokens=False)["input_ids"])]
    )


@pytest.mark.parametrize("role", ["eos", "bos"])
def test_learned_positions_are_those_of_the_plugged_model(role):
    """RoBERTa counts positions by the pad's id: what is learned over it must stand where it will be read."""
    from megamini.adaptation.relearning.model import RelearnModel

    source = with_pad(role)
    number = getattr(source, f"{role}_token_id")
    model = small_model("roberta", pad_token_id=source.pad_token_id)
    plugged = copy.deepcopy(model).eval()
    pack = make_pack(model, own=source)
    ids, positions, labels, _ = bodies.small_batch()
    ids[:, 0], ids[:, 9], ids[:, -1] = 0, number, 2
    starts = {"de": (pack.token_embeddings.clone(), pack.output_bias.clone())}
    learned = RelearnModel(model, starts, unplaced={"de": {number}}).eval()
    with torch.no_grad():
        _, losses = learned(ids, positions, labels)
        tokenizer = plug(plugged, source, pack)
        assert tokenizer.pad_token_id == number
        logits = plugged(ids).logits.flatten(0, 1)[positions]
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(losses[0], expected, rtol=1e-4, atol=1e-4)


# --- lengths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_600_tokens_are_truncated_at_the_models_positions(family, tmp_path):
    model, long = small_model(family), " ".join(["w3"] * 600)
    positions = 40 if family in ("bert", "modernbert") else 38  # RoBERTa's begin behind the pad's id
    pack = make_pack(model)
    export_checkpoint(model, TOKENIZER, tmp_path / "primary", {}, "card")
    task = AutoModelForSequenceClassification.from_pretrained(tmp_path / "primary", num_labels=3)
    export_checkpoint(task, TOKENIZER, tmp_path / "task", {}, "card")
    tokenizer = plug(model, TOKENIZER, pack)
    export_checkpoint(model, tokenizer, tmp_path / "plugged", {}, "card")
    assert TOKENIZER.model_max_length > 1e20 and pack.tokenizer.model_max_length > 1e20  # others may be longer
    for name in ("primary", "plugged"):
        own, again = (
            AutoTokenizer.from_pretrained(tmp_path / name),
            AutoModelForMaskedLM.from_pretrained(tmp_path / name),
        )
        encoded = own(long, truncation=True, return_tensors="pt")
        assert encoded["input_ids"].shape[1] == own.model_max_length == positions
        again(**encoded)
    found = pipeline("text-classification", model=str(tmp_path / "task"), truncation=True)(long)
    assert found[0]["label"].startswith("LABEL_")
    filled = pipeline("fill-mask", model=str(tmp_path / "plugged"))
    assert filled(f"w1 <mask> {long}", tokenizer_kwargs={"truncation": True})


def test_a_pack_in_two_models_has_each_models_length():
    short, longer = small_model("bert"), small_model("bert", max_position_embeddings=50)
    longer.get_input_embeddings().weight.data.copy_(short.get_input_embeddings().weight)
    pack = make_pack(short)
    lengths = [plug(model, TOKENIZER, pack) for model in (short, longer)]
    assert [tokenizer.model_max_length for tokenizer in lengths] == [40, 50]


# --- what a foreign folder names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "architectures",
    [
        ["pipeline"],
        ["Trainer"],
        ["AutoModelForMaskedLM"],
        ["PreTrainedModel"],
        ["BertForMaskedLM"],
        ["RobertaTokenizer"],
        ["__doc__"],
        ["os"],
        [],
        None,
        ["RobertaForMaskedLM\n"],
        "RobertaForMaskedLM",
        [5],
    ],
)
def test_a_class_is_looked_up_among_those_of_its_type(architectures, tmp_path):
    small_model("roberta").save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": architectures}))
    with pytest.raises(UserError, match=r"^[^\n]*$"):
        load_any_model(tmp_path)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_classes_of_its_type_are_found(family, tmp_path):
    model = small_model(family)
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert type(load_any_model(tmp_path)[0]) is type(model)


@pytest.mark.parametrize("entry", ["x", 5, [], {"plugged": "de"}, {"plugged": "de", "lineage": "x"}])
def test_another_entry_of_our_name_in_a_config_is_passed_over_or_one_line(entry, tmp_path):
    model = small_model("roberta")
    pack = make_pack(model)
    model.config.megamini = entry
    if isinstance(entry, dict):
        with pytest.raises(UserError, match="not a lineage"):
            plug(model, TOKENIZER, pack)
    else:
        plug(model, TOKENIZER, pack)


def test_a_card_holds_no_markup_of_others():
    text = [{"file": "a|b\n# c <script>x</script>", "licence": "[x](javascript:x)"}]
    details = {"method": "<script>", "body": {"model": "a | b"}, "text": text, "settings": {"name": "`x`\n---"}}
    card = plugged_card({"role": "<img src=x>", "run": "r"}, make_pack(small_model("roberta"), details=details))
    assert not any(part in card for part in ("<script", "<img", "[x](", "\n# c", "a | b"))
