"""Tags as real corpora have them: five schemes, CoNLL with tabs and comments, words and whole batches without a tag."""

import os
import subprocess
import sys

import pytest
import torch
from seqeval.metrics import classification_report
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES
from transformers import AutoModelForTokenClassification

from megamini.data.tokenizer import load_tokenizer
from megamini.downstream.evaluation.reference_lines import reference_lines
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.kinds.forward import IGNORED
from megamini.downstream.kinds.limits import Limits
from megamini.downstream.kinds.tagging import Tagging, measure_tags
from megamini.downstream.metrics.tag_schemes import scheme_of
from megamini.downstream.recipe import FinetuneRecipe
from megamini.downstream.task_data.examples import TaggedExample
from megamini.downstream.tasks.custom import custom_task
from megamini.downstream.tasks.registry import TASKS
from megamini.errors import UserError
from tests.downstream.workplace import finetune_recipe, write
from tests.integration.launching import ROOT

# --- schemes: gold, predicted, the scheme, precision, recall, F1 by hand --------------------------------------------

SCHEMES = {
    "bioes": ("S-PER O B-LOC E-LOC", "O O B-LOC O", IOBES, 0, 0, 0),
    "bioes, one of two": ("S-PER O B-LOC E-LOC", "S-PER O B-LOC O", IOBES, 1, 1 / 2, 2 / 3),
    # One mention for two (spyysalo/conlleval.py#1): right at both ends, and wrong.
    "bioes, two neighbours": ("B-X E-X B-X E-X", "B-X I-X I-X E-X", IOBES, 0, 0, 0),
    "bilou": ("U-PER O B-LOC L-LOC", "O O B-LOC O", BILOU, 0, 0, 0),
    "bilou, inside": ("B-LOC I-LOC L-LOC U-PER", "B-LOC I-LOC L-LOC L-PER", BILOU, 1, 1 / 2, 2 / 3),
    "iob1 as conll 2003": ("I-ORG O I-MISC", "I-ORG O O", IOB1, 1, 1 / 2, 2 / 3),
    "iob1, neighbours": ("I-ORG B-ORG O I-PER I-PER", "I-ORG I-ORG O I-PER I-PER", IOB1, 1 / 2, 1 / 3, 2 / 5),
    "iob2": ("B-PER I-PER O B-LOC", "B-PER I-PER O O", IOB2, 1, 1 / 2, 2 / 3),
    "iob2, a predicted I- begins nothing": ("B-PER O O B-LOC", "B-PER O I-LOC B-LOC", IOB2, 1, 1, 1),
    "iob2, neighbours": ("B-LOC B-LOC", "B-LOC I-LOC", IOB2, 0, 0, 0),
}


@pytest.mark.parametrize("case", SCHEMES)
def test_entities_are_those_of_their_scheme(case):
    gold, predicted, scheme, precision, recall, f1 = SCHEMES[case]
    gold, predicted = [gold.split()], [predicted.split()]
    values = measure_tags(gold, predicted).values
    assert (values["precision"], values["recall"], values["f1"]) == pytest.approx((precision, recall, f1))
    report = classification_report(gold, predicted, mode="strict", scheme=scheme, output_dict=True, zero_division=0)
    assert values["f1"] == pytest.approx(report["micro avg"]["f1-score"])


@pytest.mark.parametrize(
    ("tags", "gold", "scheme"),
    [
        ("O B-X I-X", "B-X I-X O", "IOB2"),
        ("O B-X I-X", "I-X B-X O", "IOB1"),
        ("O B-X I-X", "O O O", "IOB2"),  # what else the labels allow: nothing is found, and F1 is 0
        ("O B-X I-X", "B-X O B-X O B-X O I-X", "IOB2"),  # one slip of an annotator
        ("O E-X I-X", "I-X E-X O E-X", "IOE2"),
        ("O E-X I-X", "I-X E-X I-X O I-X", "IOE1"),
        ("O B-X I-X E-X S-X", "B-X E-X", "IOBES"),
        ("O B-X L-X", "B-X L-X", "BILOU"),
        ("B I O", "B I O", "IOB2"),
        ("NOUN VERB X", "X NOUN", None),
        ("O B-X M-X E-X", "B-X M-X E-X", None),  # Chinese corpora's BMES: not one of the library's
        ("O B-X E-X L-X", "B-X L-X", None),
        ("O X-B X-I", "X-B X-I", None),
        ("O B-X O-X", "B-X O-X", None),
        ("O PER", "PER PER O", None),
    ],
)
def test_the_scheme_is_known_or_there_is_no_f1(tags, gold, scheme):
    assert scheme_of(tags.split(), [gold.split()]) == scheme
    assert ("f1" in measure_tags([gold.split()], [gold.split()], tags.split()).values) == (scheme is not None)


def test_entities_have_an_f1_even_where_a_test_has_none():
    values = measure_tags([("O", "O")], [("O", "O")], TASKS["panx"].labels).values
    assert values == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0}


# --- CoNLL ----------------------------------------------------------------------------------------------------------

CONLL = {
    "tabs": ("New York\tB-LOC\nis\tO\n", [("New York", "is")], [("B-LOC", "O")]),
    "tabs, and a space at the end": ("New York \tB-LOC \n", [("New York",)], [("B-LOC",)]),
    "spaces": ("New NNP B-LOC\nYork  NNP  I-LOC \n", [("New", "York")], [("B-LOC", "I-LOC")]),
    "multiconer": (
        "# id 5239d808-f300 domain=en\nNew _ _ B-LOC\nYork _ _ I-LOC\n\n# id 6 domain=en\nYes _ _ O\n",
        [("New", "York"), ("Yes",)],
        [("B-LOC", "I-LOC"), ("O",)],
    ),
    "multiconer with a tab": ("# id 5239d808\tdomain=en\nNew _ _ B-LOC\n", [("New",)], [("B-LOC",)]),
    "multiconer with a bare #": (
        "# id 5 domain=en\n# _ _ O\n1 _ _ O\n\n# id 6 domain=en\nyou _ _ O\n# _ _ O\n",
        [("#", "1"), ("you", "#")],
        [("O", "O"), ("O", "O")],
    ),
    "a bare # with a tab": ("#\tO\n1\tO\n\nC\tB-X\n#\tB-X\n", [("#", "1"), ("C", "#")], [("O", "O"), ("B-X", "B-X")]),
    "hashtags": ("#nlp B-X\nis O\n", [("#nlp", "is")], [("B-X", "O")]),
    "conll 2012": ("#begin document (bc/0); part 000\nYes X O\n#end document\n", [("Yes",)], [("O",)]),
    "a space that does not break": ("10\u00a0000 O\nkm O\n", [("10\u00a0000", "km")], [("O", "O")]),
    "docstart": ("-DOCSTART- -X- O O\n\nYes X X O\n", [("Yes",)], [("O",)]),
}


@pytest.mark.parametrize("case", CONLL)
def test_conll_as_people_write_it(case, tmp_path):
    content, words, tags = CONLL[case]
    write(tmp_path / "a.conll", content)
    read = custom_task("mine", "tagging", {"test": "a.conll"}).read(tmp_path, "test", "en")
    assert [one.words for one in read] == words
    assert [one.tags for one in read] == tags


# --- words without a tag --------------------------------------------------------------------------------------------


def row(number: str, word: str, tag: str) -> str:
    return f"{number}\t{word}\t_\t{tag}\t_\t_\t_\t_\t_\t_\n"


UNTAGGED = (
    row("1-2", "zum", "ADP") + row("1", "zu", "_") + row("2", "dem", "_") + row("3", "Rhein", "PROPN")
    + row("3.1", "liegt", "_") + "\n" + row("1", "ganz", "_") + row("2", "ohne", "_") + "\n"
)  # fmt: skip


def test_a_word_without_a_tag_is_context_and_not_scored(tmp_path, primary):
    write(tmp_path / "de_x-ud-test.conllu", UNTAGGED)
    (read,) = TASKS["ud_pos"].read(tmp_path, "test", "de")
    assert read == TaggedExample(("zu", "dem", "Rhein"), (None, None, "PROPN"))
    assert Tagging().labels_of([read]) == ("PROPN",)
    tokenizer = load_tokenizer(primary)
    (one,) = Tagging().training_inputs([read], tokenizer, Limits(64), {"PROPN": 5})
    assert [label for label in one["labels"] if label != IGNORED] == [5]
    assert len(one["input_ids"]) == len(tokenizer("zu dem Rhein")["input_ids"]), "the others are still read"
    assert measure_tags([read.tags], [("X", "X", "PROPN")]).values == {"accuracy": 1}
    assert measure_tags([read.tags], [("PROPN", "PROPN", "X")]).values == {"accuracy": 0}
    model = AutoModelForTokenClassification.from_pretrained(primary, id2label={0: "PROPN", 1: "X"})
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1.0, 0.0]))
    assert Tagging().measure(model, tokenizer, [read], Limits(64), "de", 2).values == {"accuracy": 1}
    training = {"en": [TaggedExample(("a", "Rhein"), (None, "PROPN"))]}
    ((line, _),) = reference_lines("pos", "tagging", "accuracy", "test", training, {"de": [read]}, "en", {})
    assert line.values == {"accuracy": 1}


def test_a_treebank_without_any_tag_is_no_test(tmp_path):
    write(tmp_path / "de_x-ud-test.conllu", row("1", "zu", "_"))
    with pytest.raises(UserError, match="no example in language 'de'"):
        TASKS["ud_pos"].read(tmp_path, "test", "de")


def test_a_treebank_without_its_words_is_passed_over_and_said(tmp_path, capsys):
    """Such as French-FTB, whose text has a licence of its own; a word that is '_' is a word all the same."""
    withheld = "".join(row(str(n), "_", tag) for n, tag in enumerate(("DET", "NOUN", "VERB"), start=1)) + "\n"
    write(tmp_path / "fr_ftb-ud-test.conllu", withheld * 2)
    with pytest.raises(UserError, match="no example in language 'fr'"):
        TASKS["ud_pos"].read(tmp_path, "test", "fr")
    write(tmp_path / "fr_gsd-ud-test.conllu", row("1", "_", "SYM") + row("2", "Oui", "INTJ") + "\n")
    assert TASKS["ud_pos"].read(tmp_path, "test", "fr") == [TaggedExample(("_", "Oui"), ("SYM", "INTJ"))]
    assert capsys.readouterr().out.count("fr_ftb-ud-test.conllu: passed over: each word is '_'") == 2


WORDS = {
    "dropped by the tokenizer": ("Bread", "\n", "is", "\u200b", "old"),
    "with spaces, as Vietnamese": ("Việt Nam", "rộng", "10 000", "km"),
    "empty lines of other marks": ("Bread", "\u2028", "old"),
}


@pytest.mark.parametrize("case", WORDS)
def test_labels_stay_with_their_words(case, primary):
    words = WORDS[case]
    tokenizer = load_tokenizer(primary)
    ids = {str(n): n for n in range(len(words))}
    (one,) = Tagging().training_inputs([TaggedExample(words, tuple(ids))], tokenizer, Limits(64), ids)
    for position, label in enumerate(one["labels"]):
        if label != IGNORED:
            rest = tokenizer.decode(one["input_ids"][position:], skip_special_tokens=True).split()
            assert " ".join(rest).startswith(words[label].split()[0])
    assert [label for label in one["labels"] if label != IGNORED] == [
        n for n, word in enumerate(words) if word.strip("\u200b\n\u2028")
    ]


# --- batches without a labelled token -------------------------------------------------------------------------------

NOTHING_LABELLED = {
    "a zero-width word": "\u200b O\n\n",
    "the second window of a long word": "x" * 300 + " O\n\n",
    "a control character": "\x01 O\n\n",
    "a long word of another script": "ཨ" * 80 + " O\n\n",
}


@pytest.mark.parametrize("case", NOTHING_LABELLED)
def test_a_batch_without_a_labelled_token_trains_on(case, primary, tmp_path):
    sentences = NOTHING_LABELLED[case] * 3 + "Bread B-FOOD\nis O\n\n" + "Water B-FOOD\nruns O\n\n"
    for split in ("train", "test"):
        write(tmp_path / f"{split}.conll", sentences)
    task = {
        "task": "custom", "kind": "tagging", "path": str(tmp_path), "validation_split": "test",
        "files": {"train": "train.conll", "test": "test.conll"},
    }  # fmt: skip
    recipe = finetune_recipe(primary, tmp_path, tags=task)
    recipe["training"] |= {"global_batch": 1, "micro_batch": 1}
    recipe["schedule"] = {"updates": 8}
    finetune(FinetuneRecipe.model_validate(recipe))
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "runs/tuned/tags/seed-0")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_words_that_the_tokenizer_drops_are_nothing_to_train_on(primary):
    with pytest.raises(UserError, match="no piece for any word with a tag"):
        Tagging().training_inputs([TaggedExample(("\u200b",), ("O",))], load_tokenizer(primary), Limits(64), {"O": 0})


# --- macro-F1 -------------------------------------------------------------------------------------------------------


def test_macro_f1_is_one_under_any_hash_seed():
    program = (
        "from megamini.downstream.metrics.classes import macro_f1\n"
        "labels = [f'label {n}' for n in range(23)]\n"
        "gold = [labels[n * n % 23] for n in range(500)]\n"
        "predicted = [labels[n * 7 % 23] if n % 3 else gold[n] for n in range(500)]\n"
        "print(repr(macro_f1(gold, predicted)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in range(12)
    }  # fmt: skip
    assert len(printed) == 1
