"""Packs by hub name: the hub's own client reads a cache laid out on this disk, and uploads go to a stand-in for it."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from megamini.adaptation.packs.language_pack import LanguagePack
from megamini.errors import UserError
from tests.adaptation.packs.test_plugging import VOCAB, make_pack
from tests.models.bodies import small_model

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def pack() -> LanguagePack:
    return make_pack(small_model("roberta"), VOCAB)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The client's cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def in_cache(cache: Path, name: str, pack: LanguagePack) -> None:
    home = cache / f"models--{name.replace('/', '--')}"
    pack.save(home / "snapshots" / REVISION)
    for branch in ("main", "tried"):
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(REVISION)


def test_a_pack_of_the_hub_a_revision_of_it_and_a_folder_are_one(pack, cache, tmp_path):
    in_cache(cache, "somebody/german", pack)
    pack.save(tmp_path / "here")
    for again in (
        LanguagePack.from_pretrained("somebody/german"),
        LanguagePack.from_pretrained("somebody/german", revision="tried"),
        LanguagePack.from_pretrained("somebody/german", revision=REVISION),
        LanguagePack.from_pretrained(tmp_path / "here"),
    ):
        assert torch.equal(again.token_embeddings, pack.token_embeddings)
        assert again.lineage == pack.lineage


@pytest.mark.parametrize("name", ["somebody/nothing", "nothing", "not a name", "./nothing", "a/b/c"])
def test_what_is_nowhere_is_one_line(name, cache):
    with pytest.raises(UserError, match="no such folder") as error:
        LanguagePack.from_pretrained(name)
    assert "\n" not in str(error.value)


def test_a_folder_has_no_revision(pack, tmp_path):
    pack.save(tmp_path / "here")
    with pytest.raises(UserError, match="no revision"):
        LanguagePack.from_pretrained(tmp_path / "here", revision="main")


class Hub:
    """Stands in for `HfApi`: repositories are folders."""

    home: Path
    calls: list[tuple]

    def __init__(self, token=None):
        self.calls.append(("login", token))

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.calls.append(("create", name, private))
        return f"hub://{name}"

    def create_branch(self, name, *, branch, exist_ok):
        assert exist_ok
        self.calls.append(("branch", name, branch))

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        self.calls.append(("upload", repo_id, revision, commit_message))
        shutil.copytree(folder_path, self.home / repo_id)


def test_an_uploaded_pack_is_the_pack(pack, tmp_path, monkeypatch):
    Hub.home, Hub.calls = tmp_path, []
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert pack.push_to_hub("me/german", private=True, revision="second", token="mine") == "hub://me/german"
    assert Hub.calls == [
        ("login", "mine"),
        ("create", "me/german", True),
        ("branch", "me/german", "second"),
        ("upload", "me/german", "second", "A language pack of megamini"),
    ]
    assert sorted(path.name for path in (tmp_path / "me/german").iterdir()) == [
        "README.md",
        "embeddings.safetensors",
        "pack.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert torch.equal(LanguagePack.load(tmp_path / "me/german").token_embeddings, pack.token_embeddings)


def test_a_refusal_is_one_line(pack, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("401: who are you?\nlog in first")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match="me/german: cannot be uploaded: 401: who are you") as error:
        pack.push_to_hub("me/german")
    assert "\n" not in str(error.value)
