"""Languages under any of their codes, in files, packs, scores, word lists and model cards; never another language."""

import datasets
import pytest
import yaml

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.adaptation.packs.plugged_export import plugged_card
from megamini.downstream.evaluation.evaluate import evaluate
from megamini.downstream.evaluation.retrieval import read_pages
from megamini.downstream.evaluation.zero_shot import Packs
from megamini.downstream.finetuning.finetune import finetune
from megamini.downstream.metrics.answers import answer_f1, normalize
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.downstream.task_data.language_files import codes_in, path_in
from megamini.downstream.tasks.registry import TASKS, read_examples
from megamini.errors import UserError
from megamini.languages.codes import closest, same_language
from megamini.training.finished.model_card import language_line
from tests.downstream.workplace import evaluate_recipe, finetune_recipe, make_pack, write, write_pages, write_texts

# asked for, names that there are, the closest
CLOSEST = [
    ("zh-Hans", ["zh", "ja"], "zh"),
    ("zh", ["zh-Hant", "zh-Hans"], "zh-Hans"),
    ("zh-TW", ["zh-Hans", "zh-Hant"], "zh-Hant"),
    ("zh", ["zho_Hans", "zho_Hant", "yue_Hant"], "zho_Hans"),
    ("zh-Hant", ["zh"], None),  # what people of one script write, others cannot read
    ("pt-BR", ["pt", "es"], "pt"),
    ("pt", ["pt-PT", "pt-BR"], "pt-BR"),
    ("pt-PT", ["pt", "pt_PT"], "pt_PT"),
    ("nb", ["no", "da"], "no"),
    ("no", ["nob_Latn", "nno_Latn", "dan_Latn"], "nob_Latn"),
    ("nn", ["no", "nb"], None),
    ("ace", ["ace_Latn", "ace_Arab"], "ace_Latn"),
    ("ace_Arab", ["ace"], None),
    ("ar", ["arb_Arab", "arz_Arab", "arb_Latn"], "arb_Arab"),
    ("arz", ["ar"], None),
    ("fa", ["pes_Arab", "prs_Arab"], "pes_Arab"),
    ("sw", ["swh_Latn"], "swh_Latn"),
    ("he", ["iw"], "iw"),
    ("tl", ["fil"], "fil"),
    ("deu", ["de", "de-AT"], "de"),
    ("de", ["gsw", "nds", "lb", "nl"], None),
    ("hr", ["bs", "sr-Latn"], None),
    ("id", ["ms"], None),
    ("fat", ["tw"], None),
    ("ak", ["twi_Latn"], "twi_Latn"),
    ("sr", ["sr-Latn", "sr-Cyrl"], "sr-Cyrl"),
    ("es-MX", ["es-ES", "es-419"], "es-419"),
    ("klingonese", ["de", "klingonese"], "klingonese"),
    ("klingonese", ["tlh"], None),
]


@pytest.mark.parametrize(("language", "names", "expected"), CLOSEST)
def test_the_closest_name_of_the_language_and_no_other_language(language, names, expected):
    assert closest(language, names, "here") == expected


def test_several_that_are_as_close_are_said():
    with pytest.raises(UserError, match="here: language 'zh' may be any of zh-Hans, zho_Hans; name the one that is me"):
        closest("zh", ["zh-Hans", "zho_Hans", "de"], "here")
    assert closest("zho_Hans", ["zh-Hans", "zho_Hans"], "here") == "zho_Hans"


def test_one_language_whatever_its_script_or_region():
    assert all(same_language("zh", code) for code in ("zh-Hans", "zh-Hant", "zho", "cmn_Hans", "zh_TW"))
    assert not any(same_language("zh", code) for code in ("yue", "ja", "wuu", "xx", ""))


# --- files ----------------------------------------------------------------------------------------------------------


def topics(text: str) -> str:
    return f"category\ttext\ntravel\t{text}\n"


@pytest.mark.parametrize(
    ("language", "folders", "found"),
    [
        ("zh-Hans", ["zh"], "zh"),
        ("pt-BR", ["pt", "pt-PT"], "pt"),
        ("nb", ["no"], "no"),
        ("ace", ["ace_Arab", "ace_Latn"], "ace_Latn"),
        ("ace_Latn", ["ace"], "ace"),
        ("no", ["nno_Latn", "nob_Latn"], "nob_Latn"),
        ("tr", ["tur_Latn", "train"], "tur_Latn"),
    ],
)
def test_files_are_found_under_any_code(language, folders, found, tmp_path):
    for folder in folders:
        write(tmp_path / "data" / folder / "test.tsv", topics(folder))
    (read,) = TASKS["sib200"].read(tmp_path, "test", language)
    assert read.texts == (found,)


def test_names_of_files_and_columns(tmp_path):
    write(tmp_path / "test-zh.tsv", "Eins\tZwei\tneutral\n")
    write(tmp_path / "XNLI-1.0/xnli.dev.tsv", "language\tgold_label\tsentence1\tsentence2\nzh\tneutral\tA\tB\n"
          "vi\tneutral\tC\tD\n")  # fmt: skip
    write(tmp_path / "train-zh.small.tsv", "Drei\tVier\tneutral\n")
    write(tmp_path / "train-small.tsv", "Klein\tKlein\tneutral\n")
    xnli = TASKS["xnli"]
    for language in ("zh", "zh-Hans", "zho_Hans", "zh-CN"):
        assert [xnli.read(tmp_path, split, language)[0].texts for split in ("train", "dev", "test")] == [
            ("Drei", "Vier"), ("A", "B"), ("Eins", "Zwei"),
        ]  # fmt: skip
    for language in ("zh-Hant", "yue", "sma"):
        with pytest.raises(UserError, match=f"no test data of xnli in language '{language}'"):
            xnli.read(tmp_path, "test", language)


def test_ambiguous_files_are_said(tmp_path):
    for code in ("zh-Hans", "zh_CN"):
        write(tmp_path / f"test-{code}.tsv", "Eins\tZwei\tneutral\n")
    with pytest.raises(UserError, match=r"test-\{language\}.tsv: language 'zh' may be any of zh-Hans, zh_CN"):
        TASKS["pawsx"].read(tmp_path, "test", "zh")
    with pytest.raises(UserError, match="row 1: label 'neutral'"):
        TASKS["pawsx"].read(tmp_path, "test", "zh_CN")


def test_norwegian_treebanks_are_of_two_written_standards(tmp_path):
    for name in ("no_bokmaal", "no_nynorsk", "no_nynorsklia"):
        write(tmp_path / f"{name}-ud-test.conllu", f"1\t{name}\t_\tX\t_\t_\t_\t_\t_\t_\n\n")

    def words(language: str) -> list[str]:
        return [one.words[0] for one in TASKS["ud_pos"].read(tmp_path, "test", language)]

    assert words("nb") == ["no_bokmaal"]
    assert words("nn") == ["no_nynorsk", "no_nynorsklia"]
    assert words("no") == ["no_bokmaal", "no_nynorsk", "no_nynorsklia"], "the treebanks' own name for both"


def test_patterns_with_a_language_in_folders_and_names(tmp_path):
    write_pages(tmp_path / "pages", ("no", "da"))
    pattern = str(tmp_path / "pages" / "libreoffice-help.{language}.jsonl")
    assert read_pages(pattern, "nb")["swriter/1.html"].endswith("in no")
    assert path_in(str(tmp_path / "pages" / "x.{language}.tsv"), "nb").name == "x.nb.tsv"
    write(tmp_path / "words [new]" / "no.tsv", "")
    assert path_in(str(tmp_path / "words [new]" / "{language}.tsv"), "nb").name == "no.tsv"
    write(tmp_path / "zh" / "zh.tsv", "")
    write(tmp_path / "zh" / "de.tsv", "")
    assert path_in(str(tmp_path / "{language}" / "{language}.tsv"), "zh-Hans") == tmp_path / "zh" / "zh.tsv"
    assert codes_in("mlqa.{language}.{language}", ["mlqa.zh.zh", "mlqa.zh.de", "mlqa-translate"], "zh-Hans") == {
        "zh": "mlqa.zh.zh"
    }


def test_data_sets_of_the_hub_name_languages_as_they_like(monkeypatch):
    asked = []

    def load(name: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append(config)
        return datasets.Dataset.from_dict({"text": ["Zug"], "category": ["travel"]})

    names = ["deu_Latn", "nob_Latn", "nno_Latn", "zho_Hans", "zho_Hant"]
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: names)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for language in ("de", "no", "zh", "zh-TW", "xx"):
        assert len(read_examples(TASKS["sib200"], None, None, "test", language)) == 1
    assert asked == ["deu_Latn", "nob_Latn", "zho_Hans", "zho_Hant", "xx"]
    with pytest.raises(UserError, match="rajpurkar/squad: in language 'en' only, not 'de'"):
        read_examples(TASKS["squad"], None, None, "train", "de")


# --- packs, scores, cards -------------------------------------------------------------------------------------------


def test_packs_speak_a_language_under_any_code(primary, tmp_path):
    folders = {name: str(make_pack(primary, tmp_path / name, name)) for name in ("zh-Hans", "pt-BR", "nb", "ace")}
    packs = Packs(folders)
    asked = ("zh", "pt", "no", "ace_Latn")
    assert packs.of_languages(asked, "en", "languages") == [*zip(asked, folders, strict=True)]
    assert packs.of_languages(("en-US",), "en", "languages") == [("en-US", None)]
    for other in ("zh-Hant", "nn", "ace_Arab", "da"):
        with pytest.raises(UserError, match=f"no pack in `packs` is of language '{other}'"):
            packs.of_languages((other,), "en", "languages")


def test_one_evaluation_over_packs_and_files_under_other_codes(primary, tmp_path):
    for language in ("en", "zh", "no", "pt"):
        write_texts(tmp_path / "texts", language)
        write(tmp_path / f"{language}.words.tsv", "Brot\tbread\n")
    finetune(FinetuneRecipe.model_validate(finetune_recipe(primary, tmp_path)))
    packs = {name: make_pack(primary, tmp_path / name, name) for name in ("zh-Hans", "nb", "pt-BR")}
    values = evaluate_recipe(tmp_path, packs)
    values["tasks"]["topic"] |= {"reference_lines": True, "word_lists": str(tmp_path / "{language}.words.tsv")}
    found = {(one.language, one.pack) for one in evaluate(EvaluateRecipe.model_validate(values))}
    assert found == {("en", None)} | {
        (name, by) for name in packs for by in (name, "surface", "word-by-word", "in-language")
    }


@pytest.mark.parametrize("language", ["zh", "zh-Hans", "zh-Hant", "zho_Hans", "zh_CN"])
def test_chinese_answers_are_compared_by_characters_under_any_code(language):
    assert normalize("北京市", language) == "北 京 市"
    assert answer_f1("北京市", "北京", language) == pytest.approx(0.8)


@pytest.mark.parametrize(("language", "left"), [("de-CH", "stadt"), ("deu_Latn", "stadt"), ("gsw", "die stadt")])
def test_articles_go_by_language_and_not_by_code(language, left):
    assert normalize("die Stadt", language) == left


@pytest.mark.parametrize("languages", [["no"], ["no", "de"], ["de"], ["zh-Hans", "on"], ["y"]])
def test_model_cards_name_the_language_for_readers_of_yaml(languages):
    read = yaml.safe_load(language_line(languages))
    assert read == {"language": languages if len(languages) > 1 else languages[0]}


def test_the_card_of_a_plugged_model_says_norwegian(primary, tmp_path):
    card = plugged_card({}, LanguagePack.load(make_pack(primary, tmp_path / "no", "no")))
    assert yaml.safe_load(card.split("---\n")[1])["language"] == "no"
