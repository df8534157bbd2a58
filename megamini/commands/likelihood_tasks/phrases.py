"""How a labelled example is asked in a language: a pattern around its texts, and a word for each class."""

import string
from dataclasses import dataclass
from pathlib import Path

import yaml

from megamini.downstream.task_data.language_files import path_in
from megamini.downstream.tasks.declaration import Task
from megamini.errors import UserError
from megamini.languages.codes import closest


@dataclass(frozen=True)
class Phrases:
    """pattern: with {0} and, in tasks on pairs, {1} for the texts. answers: label -> what follows the pattern."""

    pattern: str
    answers: dict[str, str]


_NLI, _TOPICS = ("entailment", "neutral", "contradiction"), (
    "science/technology", "travel", "politics", "sports", "health", "entertainment", "geography",
)  # fmt: skip


def _nli(pattern: str, *answers: str) -> Phrases:
    return Phrases(pattern, dict(zip(_NLI, answers, strict=True)))


def _paraphrase(pattern: str, no: str, yes: str) -> Phrases:
    return Phrases(pattern, {"0": no, "1": yes})


def _topic(pattern: str, *answers: str) -> Phrases:
    return Phrases(pattern, dict(zip(_TOPICS, answers, strict=True)))


PHRASES: dict[str, dict[str, Phrases]] = {
    "xnli": {
        "en": _nli("{0}\nIs it also true that: {1}\nAnswer:", "Yes", "Maybe", "No"),
        "de": _nli("{0}\nStimmt dann auch: {1}\nAntwort:", "Ja", "Vielleicht", "Nein"),
        "es": _nli("{0}\n¿También es verdad que: {1}\nRespuesta:", "Sí", "Quizás", "No"),
        "ru": _nli("{0}\nВерно ли тогда: {1}\nОтвет:", "Да", "Возможно", "Нет"),
    },
    "pawsx": {
        "en": _paraphrase("{0}\n{1}\nDo both sentences say the same?\nAnswer:", "No", "Yes"),
        "de": _paraphrase("{0}\n{1}\nSagen beide Sätze dasselbe?\nAntwort:", "Nein", "Ja"),
        "es": _paraphrase("{0}\n{1}\n¿Dicen lo mismo las dos frases?\nRespuesta:", "No", "Sí"),
    },
    "sib200": {
        "en": _topic("{0}\nTopic:", "science", "travel", "politics", "sports", "health", "entertainment", "geography"),
        "de": _topic(
            "{0}\nThema:", "Wissenschaft", "Reisen", "Politik", "Sport", "Gesundheit", "Unterhaltung", "Geografie"
        ),
        "es": _topic("{0}\nTema:", "ciencia", "viajes", "política", "deporte", "salud", "entretenimiento", "geografía"),
        "ru": _topic("{0}\nТема:", "наука", "путешествия", "политика", "спорт", "здоровье", "развлечения", "география"),
    },
}


def phrases_of(task: Task, language: str, pattern: str | None) -> Phrases:
    """Those of the file that `pattern` stands for in the language, else those that come along.

    Raises `UserError` where there are none, or a file lacks a class or says something else than the task needs.
    """
    own = PHRASES[task.name]
    if pattern is None:
        code = closest(language, own, f"phrases of {task.name}")
        if code is None:
            raise UserError(
                f"--languages {language}: phrases of {task.name} come along in {', '.join(own)} alone; write a file "
                "with pattern and answers for it, and give it as --phrases (docs/decoders.md)"
            )
        return own[code]
    path = path_in(pattern, language)
    return _checked(path, _read(path), task, own["en"])


def _read(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give a YAML file with pattern and answers") from None
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _checked(path: Path, values: object, task: Task, example: Phrases) -> Phrases:
    if not isinstance(values, dict) or values.keys() != {"pattern", "answers"}:
        raise UserError(f"{path}: needs the two keys pattern and answers, such as pattern: {example.pattern!r}")
    pattern, answers, wanted = values["pattern"], values["answers"], _fields(example.pattern)
    if not isinstance(pattern, str) or _fields(pattern) != wanted:
        needed = " and ".join(f"{{{number}}}" for number in sorted(wanted))
        raise UserError(f"{path}: pattern {pattern!r} needs {needed}, and no other braces")
    # YAML reads 0 and 1 as numbers, and yes and no as true and false.
    answers = {str(label): word for label, word in answers.items()} if isinstance(answers, dict) else {}
    are_words = all(isinstance(word, str) and word.strip() for word in answers.values())
    if answers.keys() != set(task.labels) or not are_words:
        raise UserError(f"{path}: answers needs a word, in quotes, for each of {', '.join(task.labels)}")
    phrases = Phrases(pattern.rstrip(), {label: answers[label].strip() for label in task.labels})
    if len(set(phrases.answers.values())) < len(answers):
        raise UserError(f"{path}: two answers are the same word")
    return phrases


def _fields(pattern: str) -> set[str] | None:
    """What stands in the pattern's braces; None where one brace is missing."""
    try:
        parsed = [(field, spec, change) for _, field, spec, change in string.Formatter().parse(pattern)]
    except ValueError:
        return None
    if any(spec or change for _, spec, change in parsed):
        return None
    return {field for field, _, _ in parsed if field is not None}
