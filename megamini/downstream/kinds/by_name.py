"""The kinds by their names in a task's declaration."""

from megamini.downstream.kinds.classification import Classification
from megamini.downstream.kinds.kind import Kind
from megamini.downstream.kinds.question_answering import QuestionAnswering
from megamini.downstream.kinds.tagging import Tagging

KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "tagging": Tagging(),
    "question-answering": QuestionAnswering(),
}
