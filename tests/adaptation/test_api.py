"""What Python users call: a model with its pack, a learned pack, and errors that are one line. The examples of
docs/python-api.md are run by tests/documentation."""

import sys
from pathlib import Path

import pytest
import torch

import megamini
from tests.downstream.workplace import PROSE, make_pack, make_primary
from tests.integration.launching import ROOT, run_command

SHORT = {
    "schedule.duration": "4 updates",
    "schedule.warmup": "1 updates",
    "training.global_batch": 4,
    "training.micro_batch": 4,
    "training.precision": "fp32",
    "checkpoint.every": "2 updates",
    "telemetry.validate_every": "2 updates",
    "data.workers": 0,
}


@pytest.fixture(scope="module")
def primary(tmp_path_factory) -> Path:
    return make_primary(tmp_path_factory.mktemp("api") / "primary")


def test_a_model_comes_with_its_tokenizer_or_the_packs(primary, tmp_path):
    pack = megamini.LanguagePack.load(make_pack(primary, tmp_path / "de"))
    model, tokenizer = megamini.load(primary)
    assert not model.training
    assert len(tokenizer) == model.config.vocab_size == 400
    for given in (pack, tmp_path / "de", str(tmp_path / "de")):
        model, tokenizer = megamini.load(str(primary), pack=given)
        assert tokenizer.get_vocab() == pack.tokenizer.get_vocab()
        assert torch.equal(model.get_input_embeddings().weight, pack.token_embeddings)
        assert tokenizer.model_max_length == 64
    assert len(megamini.unplug(model)) == 400


def test_a_learned_pack_is_returned_and_fits(primary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = megamini.prepare(PROSE, "de", "data", vocab_size=410, block_length=32, validation_share=0.2, processes=1)
    pack = megamini.adapt(primary, data, name="mine", changes=SHORT)
    assert (pack.language, len(pack.tokenizer)) == ("de", 410)
    assert pack.details["ledger"]["updates"] == 4
    assert pack.tokenizer.model_max_length == 64
    assert Path("runs/mine/packs/de/README.md").is_file()
    again = megamini.adapt(primary, data, name="mine", changes=SHORT)  # done already
    assert torch.equal(again.token_embeddings, pack.token_embeddings)
    model, tokenizer = megamini.load(primary)
    with megamini.plugged(model, tokenizer, pack) as german:
        assert len(german) == 410


def test_a_script_without_a_guard_prepares_with_several_processes(tmp_path):
    """Workers that import the script would run it once more."""
    script = tmp_path / "script.py"
    call = f"prepare({str(PROSE)!r}, 'de', 'data', vocab_size=410, block_length=32, validation_share=0.2, processes=2)"
    lines = ["import os, sys", f"sys.path.insert(0, {str(ROOT)!r})", f"os.chdir({str(tmp_path)!r})", "import megamini"]
    script.write_text("\n".join([*lines, "print('once')", f"megamini.{call}"]))
    done = run_command([sys.executable, str(script)], timeout=300)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("once") == 1 and (tmp_path / "data/manifest.json").is_file()


def test_a_pack_is_shown_on_one_line(primary, tmp_path):
    pack = megamini.LanguagePack.load(make_pack(primary, tmp_path / "de"))
    assert repr(pack) == "LanguagePack(language='de', kind='swapped', pieces=360, width=16)"


def test_packs_plugged_one_after_the_other_come_out_at_once(primary, tmp_path):
    model, tokenizer = megamini.load(primary)
    own = model.get_input_embeddings().weight.clone()
    for language in ("de", "ru"):
        megamini.plug(model, tokenizer, make_pack(primary, tmp_path / language, language))
    assert megamini.unplug(model).get_vocab() == tokenizer.get_vocab()
    assert torch.equal(model.get_input_embeddings().weight, own)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda primary: megamini.load("./gone"), "./gone: no such folder"),
        (lambda primary: megamini.load(primary, revision="main"), "no revision 'main'"),
        (lambda primary: megamini.load(primary, pack=primary), "a model, no language pack; give the folder of a"),
        (lambda primary: megamini.load(make_pack(primary, primary.parent / "de")), "a language pack, no model"),
        (
            lambda primary: megamini.plug(primary, "pack", None),
            "plug takes a model, its tokenizer and a pack, in this order; given are: PosixPath, str, NoneType",
        ),
        (lambda primary: megamini.prepare("gone.txt", "de", "data"), "gone.txt"),
        (lambda primary: megamini.prepare(PROSE, "de", "data", vocab_size=3), "--vocab-size 3"),
        (lambda primary: megamini.adapt(primary, "./gone"), "./gone"),
        (lambda primary: megamini.adapt(primary, "data", changes={"schedule.duraton": 1}), "did you mean 'duration'"),
        (lambda primary: megamini.adapt(primary, "data", recipe="gone"), "gone: No such file"),
    ],
)
def test_what_can_be_mended_is_a_user_error_of_one_line(call, words, primary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(megamini.UserError) as error:
        call(primary)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_is_no_model(primary, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: run\n")
    with pytest.raises(megamini.UserError, match="a run, not a model"):
        megamini.load(tmp_path)


def test_a_packs_card_says_what_it_is_and_whose_text(primary, tmp_path):
    pack = megamini.LanguagePack.load(make_pack(primary, tmp_path / "no"))
    details = {
        "method": "mini",
        "body": {"model": "runs/mine", "layers": 4},
        "starting_point": {"kind": "focus"},
        "ledger": {"updates": 1200, "tokens": 2.5e6, "flops": 3.25e12, "seconds": 31.2},
        "text": [{"file": "a|b.jsonl", "licence": "CC0"}, {"file": "c.txt"}],
    }
    card = megamini.LanguagePack("no", pack.token_embeddings, pack.output_bias, pack.tokenizer, pack.lineage, details)
    card.save(str(tmp_path / "card"))
    text = (tmp_path / "card/README.md").read_text(encoding="utf-8")
    for words in (
        "language: 'no'",
        "| token embeddings | 360 pieces of 16 numbers |",
        "| learned over | 4 layers of runs/mine |",
        "| updates | 1,200 |",
        "| FLOPs (by formula) | 3.25e+12 |",
        pack.lineage["embeddings_sha256"],
        "c.txt, licence not stated",
    ):
        assert words in text
    assert "CC0" in text
