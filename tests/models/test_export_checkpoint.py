"""A checkpoint is written tensor by tensor, in as many files as it takes, and read again before it is called one."""

import copy
import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from megamini.data.read_again import check_read_again
from megamini.data.tokenizer import load_tokenizer, train_unigram
from megamini.errors import UserError
from megamini.models import export
from megamini.models.export import export_checkpoint
from megamini.models.lineage import lineage_of
from tests.data.texts import SENTENCES
from tests.models import bodies


def stored(folder):
    """Names of all tensors in the files of a folder."""
    names = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return sorted(names)


def outline(family):
    """A model and the same on the meta device."""
    model = bodies.small_model(family)
    with torch.device("meta"):
        return model, bodies.auto_class(family).from_config(copy.deepcopy(model.config))


@pytest.mark.parametrize("family", [family for family in bodies.FAMILIES if family != "qwen2"])
def test_streamed_equals_what_the_library_saves(family, tmp_path, monkeypatch):
    """From an outline, in several files, without ever loading it: the library finds all of it all the same."""
    monkeypatch.setattr(export, "_FILE_BYTES", 60_000)
    monkeypatch.setattr(export, "_LOADED_BYTES", 0)
    model, empty = outline(family)
    tokenizer = bodies.small_tokenizer()
    out = tmp_path / "out"
    export_checkpoint(empty, tokenizer, out, {"role": "test"}, "card\n", model.state_dict().__getitem__)
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2

    model.save_pretrained(tmp_path / "library")
    assert stored(out) == stored(tmp_path / "library")
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, tmp_path / "library"))
    assert ours.pop("megamini") == {"role": "test", "lineage": lineage_of(model, tokenizer)}
    assert ours == theirs

    again, report = bodies.auto_class(family).from_pretrained(out, output_loading_info=True)
    assert {kind: names for kind, names in report.items() if names} == {}
    tied = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert tied == (family not in bodies.UNTIED)
    ids, *_ = bodies.small_batch()
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, model(ids).logits)


def test_a_tokenizer_that_the_library_reads_as_another_is_refused(tmp_path):
    """Before training already; of other families every tokenizer is taken."""
    for family in bodies.FAMILIES:
        config = bodies.small_config(family)
        if family != "qwen2":
            check_read_again(bodies.small_tokenizer(), config, "here")
            continue
        with pytest.raises(UserError, match=r"here: the model could not be exported with this tokenizer; Auto"):
            check_read_again(bodies.small_tokenizer(), config, "here")
    model, empty = outline("qwen2")
    with pytest.raises(UserError, match="gives other ids than the one of the run; AutoTokenizer reads any tokenizer"):
        export_checkpoint(empty, bodies.small_tokenizer(), tmp_path / "out", {}, "", model.state_dict().__getitem__)


def test_a_decoders_tokenizer_leaves_the_end_of_a_text_open(tmp_path):
    tokenizer = train_unigram(SENTENCES * 3, 460, 0.9998, tmp_path / "sample.txt")
    model = bodies.small_model("llama", vocab_size=len(tokenizer))
    export_checkpoint(model, tokenizer, tmp_path / "out", {}, "")
    read = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert read("a b")["input_ids"] == tokenizer("a b")["input_ids"][:-1]
    assert read("a b")["input_ids"][0] == tokenizer.bos_token_id
    assert read("a", "b")["input_ids"] == [0, *tokenizer("a")["input_ids"][1:-1], *tokenizer("b")["input_ids"][1:-1]]
    assert load_tokenizer(tmp_path / "out").get_vocab() == tokenizer.get_vocab()


def test_what_cannot_be_read_again_is_no_checkpoint(tmp_path):
    """A disk, or a reader, that gives something else the second time."""
    model, empty = outline("roberta")
    calls = []

    def read(name):
        calls.append(name)
        tensor = model.state_dict()[name]
        return tensor + 1 if name.endswith("layer.2.output.dense.bias") and calls.count(name) == 2 else tensor

    with pytest.raises(UserError, match=r"layer\.2\.output\.dense\.bias' is not what was to be written"):
        export_checkpoint(empty, bodies.small_tokenizer(), tmp_path / "out", {}, "", read)
    assert not (tmp_path / "out").exists()
