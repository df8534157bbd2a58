"""The lines that need no language model: what each of them can know, and what not."""

import pytest

from megamini.downstream.evaluation.reference_lines import reference_lines, word_by_word
from megamini.downstream.task_data.examples import TaggedExample, TextExample

ENGLISH = {"food": "bread and water on the table", "travel": "the train to the station"}
GERMAN = {"food": "Brot und Wasser auf dem Tisch", "travel": "der Zug zum Bahnhof"}
WORDS = {"Brot": ["loaf of bread", "bread"], "Wasser": ["water"], "Zug": ["train"], "Bahnhof": ["railway station"]}


def examples(texts: dict[str, str]) -> list[TextExample]:
    return [TextExample((text,), label) for label, text in texts.items() for _ in range(4)]


def test_each_line_knows_what_it_is_given():
    training = {"en": examples(ENGLISH), "de": examples(GERMAN)}
    measured = {"en": examples(ENGLISH), "de": examples(GERMAN), "it": examples({"food": "pane", "travel": "treno"})}
    lists = {"de": WORDS}
    found = [
        one
        for one, _ in reference_lines("topics", "classification", "accuracy", "test", training, measured, "en", lists)
    ]
    accuracies = {(one.language, one.pack): one.values["accuracy"] for one in found}
    assert accuracies["de", "word-by-word"] == accuracies["de", "in-language"] == 1
    assert accuracies["de", "surface"] == accuracies["it", "surface"] == 0.5, "no word in common: always one class"
    assert accuracies.keys() == {
        ("de", "surface"), ("de", "word-by-word"), ("de", "in-language"), ("it", "surface"),
    }, "none for the source, and none that lacks what it needs"  # fmt: skip


def test_a_word_has_its_commonest_tag():
    def tagged(text: str) -> TaggedExample:
        words, tags = zip(*(part.split("/") for part in text.split()), strict=True)
        return TaggedExample(words, tags)

    training = {
        "en": [tagged("The/DET water/NOUN runs/VERB ./PUNCT"), tagged("Runs/NOUN run/VERB in/ADP runs/VERB dry/NOUN")],
        "de": [tagged("das/DET Wasser/NOUN fliesst/VERB")],
    }
    measured = {
        "en": training["en"],
        "de": [tagged("Das/DET Wasser/NOUN fliesst/VERB weit/ADV in/ADP Runs/VERB ./PUNCT")],
    }
    lists = {"de": {"Das": ["the"], "fliesst": ["running water", "runs"]}}
    found = [one for one, _ in reference_lines("pos", "tagging", "accuracy", "test", training, measured, "en", lists)]
    # Unknown words are nouns in English, and of three that come once each, determiners in German.
    accuracies = {one.pack: one.values["accuracy"] for one in found}
    assert accuracies == pytest.approx({"surface": 4 / 7, "word-by-word": 6 / 7, "in-language": 3 / 7})
    assert all(one.language == "de" and one.n == 1 for one in found)


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("Brot, Wasser.", "bread, water."),  # single words come before phrases
        ("Bahnhof brot", "railway station brot"),  # as the list spells it
        ("Wasserzug\nZug", "Wasserzug\ntrain"),
    ],
)
def test_words_are_replaced_and_nothing_else(text, translated):
    assert word_by_word(text, WORDS) == translated
