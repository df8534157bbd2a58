"""The kinds by their names in a task's declaration."""

from megamini.downstream.kinds.classification import Classification
from megamini.downstream.kinds.kind import Kind
from megamini.downstream.kinds.question_answering import QuestionAnswering
from megamini.downstream.kinds.tagging import Tagging
from megamini.downstream.tasks.declaration import Task

KINDS: dict[str, Kind] = {
    "classification": Classification(),
    "tagging": Tagging(),
    "question-answering": QuestionAnswering(),
}


def kind_of(task: Task) -> Kind:
    """The kind of a task, which compares answers as the task's own script does."""
    return QuestionAnswering(task.answer_form) if task.kind == "question-answering" else KINDS[task.kind]
