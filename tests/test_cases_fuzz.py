"""Files from elsewhere with any damage: read, or one line; never anything else, and nothing written.

Values are replaced inside of JSON and YAML, and bytes anywhere. `make test-all` tries some two thousand inputs.
"""

import contextlib
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from megamini.adaptation.packs.language_pack import LanguagePack, plug
from megamini.adaptation.recipe import AdaptationRecipe
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.data.batches import validation_batches
from megamini.data.corpus.documents import Layout, find_files, plan_units, read_chunks
from megamini.data.manifest import manifest_fingerprint
from megamini.data.preparation.prepare import Settings, prepare
from megamini.downstream.recipe import EvaluateRecipe, FinetuneRecipe
from megamini.downstream.tasks.custom import custom_task
from megamini.errors import UserError
from megamini.models.lineage import lineage_of
from megamini.recipes.file import read_recipe
from megamini.recipes.objective import MaskingSection
from megamini.recipes.recipe import Recipe
from megamini.training.text import open_text
from tests.data.texts import documents, write_text
from tests.downstream.workplace import evaluate_recipe, finetune_recipe
from tests.launch.workplace import RECIPE
from tests.models.bodies import VOCAB, WIDTH, small_model, small_tokenizer

ODD = st.sampled_from(
    [
        *(None, True, 0, -1, 1, 3.5, 1e308, 2**31, 2**63, 10**30, float("nan"), float("inf"), float("-inf")),
        *("", "x", "de", "/etc/passwd", "../../x", "~", "<script>", "a\nb", "\x00", "\u2028", "\ud83d", "no", "1e-4"),
        *("2001-99-99", "x" * 5000, [], {}, [[]], [None], {"": None}, {"x": {"y": []}}),
    ]
).map(copy.deepcopy)
PASSAGES = st.sampled_from(
    [
        *(b"", b"\x00", b"\xff", b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\xff\xfe", b"\\ud83d"),
        *(
            b'"',
            b"\t",
            b"\r",
            b"\n",
            b"\n\n",
            b"{",
            b"}",
            b"[",
            b"]",
            b":",
            b"- ",
            b"? ",
            b"%",
            b"|",
            b"#",
            b"..",
            b"/",
        ),
        *(b"&a ", b"*a", b"!!int ", b"!!python/object:os.system ", b"<<: ", b"2001-99-99", b"null", b"NaN", b"1e999"),
        *(b"9" * 5000, b"[" * 1200, b"{" * 1200, b"0x"),
    ]
)


@st.composite
def replaced(draw: st.DrawFn, values: Any) -> Any:
    """`values` with one or two values in it replaced, left out, or given another name."""
    values = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 2))):
        part = values
        while isinstance(part, dict | list) and part:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            key = draw(st.sampled_from(keys))
            if draw(st.booleans()) or not (isinstance(part[key], dict | list) and part[key]):
                what = draw(st.sampled_from(["odd", "odd", "gone", "more"]))
                if what == "odd":
                    part[key] = draw(ODD)
                elif what == "gone":
                    del part[key]
                elif isinstance(part, dict):
                    part[draw(st.sampled_from(["", "x", "x y", "../x", "\ud83d"]))] = draw(ODD)
                else:
                    part.append(draw(ODD))
                break
            part = part[key]
    return values


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with passages put in, left out, replaced or repeated, or torn."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.integers(0, 40))
        what = draw(st.sampled_from(["insert", "replace", "repeat", "tear"]))
        if what == "tear":
            del changed[at:]
        else:
            new = bytes(changed[at : at + length]) if what == "repeat" else draw(PASSAGES)
            changed[at : at + (length if what == "replace" else 0)] = new
    return bytes(changed)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def as_json(values: Any) -> bytes:
    return json.dumps(values).encode()


def as_yaml(values: Any) -> bytes:
    return yaml.safe_dump(values, allow_unicode=False).encode("utf-8", "replace")


class Target:
    """A kind of file: how it is made from what hypothesis draws, and read. Each has a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    inputs: st.SearchStrategy
    read: Callable[[Any], None]


class Recipes(Target):
    """Of all four entry points."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        adaptation = {
            **{key: RECIPE[key] for key in ("name", "optimizer", "schedule", "training")},
            "adaptation": {"source": "s", "method": "mini", "lexicon": "l.tsv", "stop": {"plateau": {"patience": 2}}},
            "data": {"path": ["a", "b"]},
        }
        self.kinds = {
            Recipe: RECIPE,
            AdaptationRecipe: adaptation,
            FinetuneRecipe: finetune_recipe(Path("primary"), Path("texts")),
            EvaluateRecipe: evaluate_recipe(Path("texts"), {"de": Path("pack")}),
        }
        kinds = st.sampled_from(list(self.kinds))
        self.inputs = kinds.flatmap(
            lambda one: st.tuples(
                st.just(one), st.one_of(replaced(self.kinds[one]).map(as_yaml), damaged(as_yaml(self.kinds[one])))
            )
        )

    def read(self, drawn: Any) -> None:
        kind, content = drawn
        path = self.folder / "recipe.yaml"
        path.write_bytes(content)
        recipe = read_recipe(path, [], kind)
        assert recipe.run_directory.name == recipe.name and os.sep not in recipe.name


class Overrides(Recipes):
    """Values on the command line."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder / "good.yaml").write_bytes(as_yaml(RECIPE))
        keys = st.sampled_from(["name", "training.runs", "model.exits", "schedule.duration", "a.b", "", "..", "model"])
        texts = st.one_of(PASSAGES.map(lambda one: one.decode("utf-8", "replace")), st.text(max_size=20))
        self.inputs = st.tuples(keys, texts)

    def read(self, drawn: Any) -> None:
        read_recipe(self.folder / "good.yaml", ["=".join(drawn)], Recipe)


class Manifests(Target):
    """Of data directories: replaced values are signed anew."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        text = write_text(folder.parent / "text.txt", documents(80))
        prepare([str(text)], folder / "data", Settings("en", 480, block_length=32, validation_share=0.3), processes=1)
        self.path = folder / "data" / "manifest.json"
        content = self.path.read_bytes()
        values = {key: value for key, value in json.loads(content).items() if key != "fingerprint"}
        self.inputs = st.one_of(replaced(values).map(self._signed), damaged(content))

    @staticmethod
    def _signed(values: Any) -> bytes:
        if isinstance(values, dict):
            with contextlib.suppress(UnicodeEncodeError):
                values = {**values, "fingerprint": manifest_fingerprint(values)}
        return as_json(values)

    def read(self, content: bytes) -> None:
        self.path.write_bytes(content)
        text = open_text(str(self.path.parent), MaskingSection(), 0, 8)
        assert text.language.replace("-", "").replace("_", "").isalnum()
        text.train.read(np.arange(min(3, len(text.train))))
        list(validation_batches(text.validation, text.masking, 5, 2, rank=0, world_size=1))


class Packs(Target):
    """Descriptions, rows and tokenizers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.model, self.tokenizer = small_model("roberta"), small_tokenizer()
        draw = torch.Generator().manual_seed(0)
        matrix, bias = torch.randn(VOCAB, WIDTH, generator=draw), torch.randn(VOCAB, generator=draw)
        details = {"method": "mini", "ledger": {"tokens": 5, "flops": 1.0}, "text": [{"file": "x", "licence": "MIT"}]}
        lineage = lineage_of(self.model, self.tokenizer)
        LanguagePack("de", matrix, bias, self.tokenizer, lineage, details).save(folder / "good")
        description = (folder / "good" / "pack.json").read_bytes()
        files = {path.name: path.read_bytes() for path in (folder / "good").iterdir()}
        self.inputs = st.one_of(
            replaced(json.loads(description)).map(lambda values: {"pack.json": as_json(values)}),
            damaged(description).map(lambda content: {"pack.json": content}),
            damaged(files["embeddings.safetensors"]).map(lambda content: self._rows(description, content)),
            damaged(files["tokenizer.json"]).map(lambda content: {"tokenizer.json": content}),
            damaged(files["tokenizer_config.json"]).map(lambda content: {"tokenizer_config.json": content}),
            st.sampled_from(sorted(files)).map(lambda name: {name: None}),
        )

    @staticmethod
    def _rows(description: bytes, content: bytes) -> dict[str, bytes]:
        """Damaged rows with a checksum that agrees."""
        signed = {**json.loads(description), "embeddings_sha256": hashlib.sha256(content).hexdigest()}
        return {"embeddings.safetensors": content, "pack.json": as_json(signed)}

    def read(self, files: dict[str, bytes | None]) -> None:
        pack = self.folder / "pack"
        shutil.rmtree(pack, ignore_errors=True)
        shutil.copytree(self.folder / "good", pack)
        for name, content in files.items():
            (pack / name).unlink() if content is None else (pack / name).write_bytes(content)
        model = copy.deepcopy(self.model)
        plug(model, self.tokenizer, pack)
        assert torch.isfinite(model.get_input_embeddings().weight).all()


TABLES = {
    "a.tsv": (b"Gut so\tja\nSchlecht\tnein\n" * 3, "classification"),
    "a.jsonl": (b'{"text": "a", "label": "b", "n": 5}\n' * 3, "classification"),
    "a.conll": (b"# id 3\nNew B-LOC\nYork I-LOC\n\nist O\n", "tagging"),
    "a.json": (
        as_json({"data": [{"paragraphs": [{"context": "Am Rhein.", "qas": [
            {"id": "1", "question": "Wo?", "answers": [{"text": "Rhein", "answer_start": 3}]}]}]}]}),
        "question-answering",
    ),
    "words.tsv": (b"Brot\tbread\nWasser\twater\nBaum\ttree\n", None),
    "words.txt": (b"Brot bread\nWasser water\nBaum tree\n", None),
}  # fmt: skip


class Tables(Target):
    """Task files and word lists."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.inputs = st.sampled_from(sorted(TABLES)).flatmap(
            lambda name: st.tuples(st.just(name), damaged(TABLES[name][0]))
        )

    def read(self, drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        for path in self.folder.iterdir():
            path.unlink()
        (self.folder / name).write_bytes(content)
        kind = TABLES[name][1]
        if kind is None:
            words = read_lexicon(self.folder / name)
            assert all(target.encode() and all(sources) for target, sources in words.items())
        else:
            custom_task("mine", kind, {"test": name}).read(self.folder, "test", "de")


class Corpora(Target):
    """Text of all formats."""

    def __init__(self, folder: Path) -> None:
        import bz2
        import gzip
        import lzma

        import pyarrow as pa
        import zstandard
        from pyarrow import parquet

        super().__init__(folder)
        texts = documents(5)
        lines = b"".join(as_json({"text": text, "id": n}) + b"\n" for n, text in enumerate(texts))
        parquet.write_table(pa.table({"text": texts}), folder / "x.parquet")
        plain = "\n\n".join(texts).encode()
        self.files = {
            "x.txt": plain,
            "x.jsonl": lines,
            "x.json": lines,
            "x.txt.gz": gzip.compress(plain),
            "x.json.bz2": bz2.compress(lines),
            "x.txt.xz": lzma.compress(plain),
            "x.jsonl.zst": zstandard.compress(lines),
            "x.parquet": (folder / "x.parquet").read_bytes(),
        }
        self.inputs = st.sampled_from(sorted(self.files)).flatmap(
            lambda name: st.tuples(st.just(name), damaged(self.files[name]))
        )

    def read(self, drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        for path in self.folder.iterdir():
            path.unlink()
        (self.folder / name).write_bytes(content)
        for unit in plan_units(find_files([str(self.folder / name)]), Layout()):
            for piece in read_chunks(unit, Layout()):
                piece.text.encode()


SHARES = {Recipes: 400, Overrides: 200, Manifests: 400, Packs: 400, Tables: 300, Corpora: 300}


@pytest.mark.parametrize("kind", SHARES, ids=lambda kind: kind.__name__.lower())
@pytest.mark.parametrize("share", [0.025, pytest.param(1.0, marks=pytest.mark.all_combinations)], ids=["some", "many"])
def test_files_from_elsewhere_are_read_or_are_one_line(kind, share, tmp_path, monkeypatch, capsys):
    target = kind(tmp_path / "inside" / "folder")
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    beside = tree(tmp_path / "inside")

    @settings(
        max_examples=round(SHARES[kind] * share), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(target.inputs)
    def run(drawn: Any) -> None:
        try:
            target.read(drawn)
        except UserError as error:
            line = str(error)
            assert line and len(line) < 20_000
            line.encode("utf-8", "backslashreplace")
        assert not any(outside.iterdir())

    run()
    after = tree(tmp_path / "inside")
    changed = {name for name in after.keys() | beside.keys() if after.get(name) != beside.get(name)}
    assert all(name.startswith(str(target.folder)) for name in changed)
