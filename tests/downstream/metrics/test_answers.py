"""Question answering scores against cases worked out by hand from MLQA's rules, in every language that it has."""

import pytest

from megamini.downstream.metrics.answers import answer_f1, best_over_gold, exact_match, normalize

# language, answer as it stands in a text, what is left to compare
NORMALISED = [
    ("en", "The  Eiffel-Tower, a landmark!", "eiffeltower landmark"),
    ("en", "An apple (the red one)", "apple red one"),
    ("en", "theatre", "theatre"),
    ("es", "¿Los Ángeles, una ciudad?", "ángeles ciudad"),
    ("es", "el «Quijote»", "quijote"),
    ("de", "Der „Spiegel“ eines Hauses", "spiegel hauses"),
    ("de", "dem Deutschen Bundestag", "deutschen bundestag"),
    ("de", "the Beatles", "the beatles"),
    ("ar", "البيت الأبيض", "بيت أبيض"),
    ("ar", "القاهرة، مصر", "قاهرة مصر"),
    ("vi", "những con mèo của tôi", "con mèo tôi"),
    ("vi", "Hà Nội.", "hà nội"),
    ("hi", "भारत की राजधानी।", "भारत की राजधानी"),
    ("hi", "“नई दिल्ली”", "नई दिल्ली"),
    ("zh", "《红楼梦》, 1791年", "红 楼 梦 1791 年"),
    ("zh", "北京大学 PKU", "北 京 大 学 pku"),
    ("ru", "«Война и мир»", "война и мир"),
    ("en", "$5 + 3% ~ x`y", "5 3 xy"),
]


@pytest.mark.parametrize(("language", "answer", "expected"), NORMALISED)
def test_normalised_as_by_hand(language, answer, expected):
    assert normalize(answer, language) == expected


# language, predicted, gold, exact match, F1 = 2 x shared words / words of both
SCORED = [
    ("en", "the Denver Broncos", "Denver Broncos", 1, 1),
    ("en", "Denver", "Denver Broncos", 0, 2 / 3),
    ("en", "in the year 1999", "1999", 0, 2 / 4),
    ("es", "la ciudad de México", "Ciudad de México", 1, 1),
    ("es", "una gran ciudad", "ciudad", 0, 2 / 3),
    ("de", "die Stadt Köln", "Köln", 0, 2 / 3),
    ("de", "Im Jahr 1871", "1871", 0, 2 / 4),
    ("ar", "القاهرة", "قاهرة", 1, 1),
    ("ar", "مدينة القاهرة", "القاهرة", 0, 2 / 3),
    ("vi", "cái bàn gỗ", "bàn", 0, 2 / 3),
    ("hi", "नई दिल्ली", "दिल्ली", 0, 2 / 3),
    ("zh", "北京市", "北京", 0, 4 / 5),
    ("zh", "在北京。", "北京", 0, 4 / 5),
    ("en", "a b b", "b b c", 0, 4 / 5),  # the article goes: b b against b b c
    ("en", "", "something", 0, 0),
    ("en", "the", "a", 1, 0),  # nothing is left of either, and the script's F1 of no shared word is 0
]


@pytest.mark.parametrize(("language", "predicted", "gold", "exact", "f1"), SCORED)
def test_scored_as_by_hand(language, predicted, gold, exact, f1):
    assert exact_match(predicted, gold, language) == exact
    assert answer_f1(predicted, gold, language) == pytest.approx(f1)


def test_the_best_of_several_gold_answers_counts():
    gold = ["Santa Clara, California", "Levi's Stadium", "Levi's Stadium in the Bay Area"]
    assert best_over_gold(exact_match, "levis stadium", gold, "en") == 1
    assert best_over_gold(answer_f1, "Santa Clara", gold, "en") == pytest.approx(4 / 5)
    assert best_over_gold(exact_match, "", [], "en") == 1
    assert best_over_gold(answer_f1, "Paris", [], "en") == 0
