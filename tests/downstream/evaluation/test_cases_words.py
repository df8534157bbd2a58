"""Words by Unicode's rules, and texts of which a complete word list translates every word."""

import unicodedata

import pytest

from megamini.downstream.evaluation.reference_lines import reference_lines, word_by_word
from megamini.downstream.task_data.examples import TaggedExample, TextExample
from megamini.languages.words import WordList, words

WORDS = [
    ("I don't know", ["I", "don't", "know"]),
    ("l’homme d'ici", ["l'homme", "d'ici"]),
    ("मैं हिन्दी में बोलता हूँ।", ["मैं", "हिन्दी", "में", "बोलता", "हूँ"]),
    ("আমি বাংলায় কথা বলি।", ["আমি", "বাংলায়", "কথা", "বলি"]),
    ("நான் தமிழில் பேசுகிறேன்.", ["நான்", "தமிழில்", "பேசுகிறேன்"]),
    ("ฉันกินข้าวที่ร้าน", ["ฉัน", "กิน", "ข้าว", "ที่", "ร้าน"]),
    ("ខ្ញុំនិយាយ", ["ខ្ញុំ", "និយាយ"]),
    ("今天天气很好。", ["今天", "天气", "很好"]),
    ("東京大学です", ["東京", "大学", "です"]),
    ("3.14 und 1,000", ["3.14", "und", "1,000"]),
    ("اَلْعَرَبِيَّةُ لغة", ["اَلْعَرَبِيَّةُ", "لغة"]),
    ("co-op", ["co", "op"]),  # UAX #29 leaves that to word lists
    ("… — !", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words_are_whole(text, expected):
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


# A text made of the words of its list; {} stands for a word. The last four are not in the list of public reports.
LISTS = {
    "english": ("{} {}, {} {}!", ["don't", "co-op", "I", "o'clock"]),
    "hindi": ("{} {} {} {} {}।", ["मैं", "हिन्दी", "में", "बोलता", "हूँ"]),
    "bengali": ("{} {} {} {}।", ["আমি", "বাংলায়", "কথা", "বলি"]),
    "tamil": ("{} {} {}.", ["நான்", "தமிழில்", "பேசுகிறேன்"]),
    "thai": ("{}{}{}{}{} {}", ["ฉัน", "กิน", "ข้าว", "ที่", "ร้าน", "น้ำ"]),
    "thai, that has two readings": ("{}{}", ["ตา", "กลม"]),
    "burmese": ("{}{}{}{}{}{}။", ["မြန်မာ", "စကား", "ပြော", "တတ်", "ပါ", "တယ်"]),
    "khmer": ("{}{}{}{}", ["ខ្ញុំ", "និយាយ", "ភាសា", "ខ្មែរ"]),
    "chinese": ("{}{}{}{}，{}{}。", ["我", "在", "北京大学", "学习", "天气", "很好"]),
    "japanese": ("{}{}{}{}。", ["私", "は", "東京大学", "にいる"]),
    "lao": ("{}{}{}", ["ຂ້ອຍ", "ເວົ້າ", "ພາສາລາວ"]),
    "tibetan": ("{}་{}།", ["བོད་སྐད", "ཤེས"]),
    "a phrase": ("{}, {}", ["New York", "ice-cream van"]),
    "hebrew": ("{} {}", ["צה״ל", "ז'ורנל"]),
    "persian, with a joiner": ("{} {}", ["می‌خواهم", "کتاب"]),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_complete_word_list_translates_every_word(case):
    pattern, listed = LISTS[case]
    lexicon = {word: [f"word{number}"] for number, word in enumerate(listed)}
    translated = word_by_word(pattern.format(*listed), lexicon)
    assert words(translated) == [f"word{number}" for number in range(len(listed))]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("don’t", "don't"),  # the typographic apostrophe
        ("co‑op", "co-op"),  # the hyphen that does not break
        ("co\u00adop", "coop"),  # the soft hyphen
        ("cafe\u0301", "café"),
        ("café", "cafe\u0301"),
        ("ทํางาน", "ทำงาน"),
        ("می‌خواهم", "میخواهم"),
        ("ﬁn", "fin"),
    ],
)
def test_a_word_in_another_spelling_is_found(text, listed):
    assert word_by_word(text, {listed: ["yes"]}) == "yes"
    assert WordList({listed: "yes"}).word(text) == "yes"


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("Wasserzug", "Wasserzug"),  # no word within a word
        ("don'ts", "don'ts"),
        ("हिन्दीभाषा", "हिन्दीभाषा"),
        ("หมายเลข", "หมายเลข"),  # "number", which is not หมา, "dog", and a rest
        ("我在大学", "I 在 大学"),  # ICU takes the first two for one word
    ],
)
def test_where_a_word_of_a_list_may_begin_and_end(text, translated):
    lexicon = {"zug": ["train"], "don't": ["do not"], "हिन्दी": ["Hindi"], "หมา": ["dog"], "我": ["I"]}
    assert word_by_word(text, lexicon) == translated


def test_the_line_of_a_complete_list_is_right_in_scripts_without_spaces():
    def examples(texts: dict[str, str]) -> list[TextExample]:
        return [TextExample((text,), label) for label, text in texts.items() for _ in range(4)]

    thai = {"food": "ฉันกินข้าวและน้ำ", "travel": "รถไฟไปสถานี"}
    words_of = {
        "ฉัน": ["I"], "กิน": ["eat"], "ข้าว": ["rice"], "และ": ["and"], "น้ำ": ["water"], "รถไฟ": ["train"], "ไป": ["goes"],
        "สถานี": ["station"],
    }  # fmt: skip
    training = {"en": examples({"food": "eat rice and drink water", "travel": "the train goes to the station"})}
    found = reference_lines(
        "topics", "classification", "accuracy", "test", training, {"th": examples(thai)}, "en", {"th": words_of}
    )
    accuracies = {one.pack: one.values["accuracy"] for one, _ in found}
    assert accuracies == {"surface": 0.5, "word-by-word": 1}


def test_the_line_of_tags_finds_words_in_another_spelling():
    training = {"en": [TaggedExample(("not", "water", "x"), ("PART", "NOUN", "X"))]}
    measured = {"xx": [TaggedExample(("don’t", "পানি"), ("PART", "NOUN"))]}
    found = reference_lines(
        "pos", "tagging", "accuracy", "test", training, measured, "en", {"xx": {"don't": ["not"], "পানি": ["water"]}}
    )
    assert {one.pack: one.values["accuracy"] for one, _ in found}["word-by-word"] == 1
