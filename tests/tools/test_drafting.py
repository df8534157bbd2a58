"""The benchmark of drafts: what it counts, against what must come out for drafts that always, and never, are right."""

import sys

import pytest
import torch

from megamini.errors import UserError
from tests.models import bodies
from tools.benchmarks import drafting

TOKENS = 12
COUNTS = ("prompts", "prompt-words", "tokens", "proposed", "rounds")


def prompts():
    return [{"input_ids": torch.tensor([[0, number, number + 7]])} for number in (10, 30)]


def copy_of(model):
    own = type(model)(model.config).eval()
    own.load_state_dict(model.state_dict())
    return own


def test_a_draft_that_is_the_primary_is_always_right():
    """A pass of the primary then gives all that is proposed, and one token more."""
    primary = bodies.small_model("llama")
    alone, drafted = drafting.compare((primary, copy_of(primary)), prompts(), TOKENS, at_once=3, rounds=2)
    assert (alone.tokens, alone.primary, alone.draft) == (2 * TOKENS, 2 * TOKENS, 0)
    assert drafted.tokens == 2 * TOKENS
    assert drafted.primary == 2 * TOKENS // 4
    assert drafted.accepted == 2 * TOKENS - drafted.primary == drafted.draft
    assert alone.seconds > 0 and drafted.processor > 0


def test_a_draft_that_is_never_right_costs_passes_alone():
    primary = bodies.small_model("llama")
    wrong = copy_of(primary)
    with torch.no_grad():  # the least likely token
        wrong.lm_head.weight.neg_()
    alone, drafted = drafting.compare((primary, wrong), prompts(), TOKENS, at_once=2, rounds=1)
    assert drafted.primary == alone.primary == drafted.tokens == 2 * TOKENS
    assert drafted.accepted == 0 < drafted.draft


def test_the_page(tmp_path, monkeypatch):
    primary = bodies.small_model("llama")
    for name in ("primary", "mini"):
        primary.save_pretrained(tmp_path / name)
        bodies.small_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(f"w{n + k}" for k in range(8)) for n in range(3)))
    monkeypatch.setattr(drafting, "heading", lambda title, packages: f"# {title}\n")  # it names the script
    arguments = ["drafting.py", *(str(tmp_path / name) for name in ("primary", "mini")), "--text",
                 str(tmp_path / "text.txt"), "--prompts", "3", "--prompt-words", "4", "--tokens", "6", "--rounds", "1",
                 "--proposed", "2", "--out", str(tmp_path / "page.md")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    drafting.main()
    page = (tmp_path / "page.md").read_text()
    assert "4 layers" in page and "trained for an unknown number of updates" in page
    assert "| 2 | 12 | 100.0% | 3.00 |" in page
    for more, words in (
        (["--prompts", "4"], r"text\.txt: 3 documents have 8 words, of 4 that are wanted"),
        *(([f"--{name}", "0"], f"--{name} .*0.*: must be at least 1") for name in COUNTS),
    ):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        with pytest.raises(UserError, match=words):
            drafting.main()
    monkeypatch.setattr(sys, "argv", ["drafting.py", str(tmp_path / "none"), *arguments[2:]])
    with pytest.raises(UserError, match=r"none: no exported model; make one with tools/export\.py"):
        drafting.main()
