"""A task's two files, as lm-eval 0.4 reads them with --include_path.

Their names begin with megamini_: lm-eval has other tasks xnli_de and the like, which earlier versions of it take where
both are there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from megamini.commands.likelihood_tasks.questions import Question
from megamini.errors import writing
from megamini.files import write_atomically
from megamini.recipes.file import as_yaml

_MEANS = ("acc", "acc_norm")  # by the sum of log-likelihoods, and by the same over the choice's characters


def write_task(folder: Path, task: str, language: str, questions: Sequence[Question]) -> Path:
    """Write megamini_TASK_LANGUAGE.jsonl and .yaml into `folder`; returns the latter. The task has that name."""
    name = f"megamini_{task}_{language}"
    lines, declaration = folder.resolve() / f"{name}.jsonl", folder / f"{name}.yaml"
    values = {
        "task": name,
        "dataset_path": "json",  # the loader of the library `datasets` for files on this machine
        "dataset_kwargs": {"data_files": {"test": str(lines)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "num_fewshot": 0,
        "metric_list": [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in _MEANS],
        "metadata": {"version": 1.0},
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(lines, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in questions))
        write_atomically(declaration, as_yaml(values))
    return declaration
