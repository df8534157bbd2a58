"""Cases of real people's corpora and tokenizers: each with what is right."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from megamini.data.batches import validation_batches
from megamini.data.blocks import Blocks, load_manifest
from megamini.data.corpus.documents import LINE_BYTES, Layout, find_files, plan_units, read_chunks
from megamini.data.manifest import manifest_fingerprint
from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.preparation.units import is_validation
from megamini.data.tokenizer import train_unigram
from megamini.errors import UserError
from megamini.recipes.objective import MaskingSection
from megamini.training.text import open_text
from tests.data.texts import documents, write_text

TEXTS = documents(300)
LENGTH = 32


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Folders of one tokenizer: with a pad of its own, and with pads that are the token of other roles."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, pad in {"own": "<pad>", "eos": "</s>", "bos": "<s>", "unk": "<unk>", "mask": "<mask>"}.items():
        tokenizer = train_unigram(TEXTS, 520, 0.9998, folder / "sample.txt")
        tokenizer.pad_token = pad
        tokenizer.save_pretrained(folder / name)
    return folder


def prepared(folder, texts, **settings):
    path = write_text(folder / "text.txt", texts) if isinstance(texts, list) else texts
    settings = {"block_length": LENGTH, "validation_share": 0.2, **settings}
    return prepare([str(path)], folder / "data", Settings("en", **settings), processes=1)


# --- padding is known by length -----------------------------------------------------------------------------------


def counted(folder):
    """What must not depend on which token pads: the manifest's numbers, and the validation batches."""
    manifest = load_manifest(folder / "data")
    numbers = {key: manifest[key] for key in ("documents", "tokens", "bytes_per_token")}
    for split, facts in manifest["splits"].items():
        numbers[split] = {key: facts[key] for key in ("blocks", "documents", "tokens", "min_maskable")}
    text = open_text(str(folder / "data"), MaskingSection(), seed=3, global_batch=8)
    batches = list(validation_batches(text.validation, text.masking, 1000, 7, rank=0, world_size=1))
    return numbers, np.load(folder / "data" / "unigram_counts.npy"), batches


@pytest.mark.parametrize("pad", ["eos", "bos", "unk", "mask"])
def test_a_shared_pad_gives_the_counts_and_masks_of_a_pad_of_its_own(pad, tokenizers, tmp_path):
    found = []
    for name in ("own", pad):
        (tmp_path / name).mkdir()
        prepared(tmp_path / name, TEXTS, tokenizer=str(tokenizers / name))
        found.append(counted(tmp_path / name))
    (numbers, counts, batches), (their_numbers, their_counts, their_batches) = found
    assert their_numbers == numbers
    np.testing.assert_array_equal(their_counts, counts)
    assert len(batches) == len(their_batches) and any(batch.attention_mask is not None for batch in batches)
    for one, other in zip(batches, their_batches, strict=True):
        assert one.positions.equal(other.positions) and one.labels.equal(other.labels)
        assert one.weights.equal(other.weights)
        assert (one.attention_mask is None) == (other.attention_mask is None)
        assert one.attention_mask is None or one.attention_mask.equal(other.attention_mask)


def test_the_tokens_of_a_shared_pad_are_those_of_the_text(tokenizers, tmp_path):
    manifest = prepared(tmp_path, TEXTS, tokenizer=str(tokenizers / "eos"))
    tokenizer = AutoTokenizer.from_pretrained(tokenizers / "eos")
    assert manifest["tokens"] == sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in TEXTS)


def test_padded_blocks_of_an_earlier_version_are_known_by_their_pads_or_refused(tokenizers, tmp_path):
    for name in ("own", "eos"):
        (tmp_path / name).mkdir()
        data = tmp_path / name / "data"
        manifest = prepared(tmp_path / name, TEXTS, tokenizer=str(tokenizers / name))
        every = np.arange(manifest["splits"]["validation"]["blocks"])
        lengths = Blocks(data, "validation").lengths(every)
        assert (lengths[-2:] < LENGTH).all() and (lengths[:-2] == LENGTH).all()
        del manifest["splits"]["validation"]["padded_lengths"]
        sign(data, manifest)
        if name == "own":
            np.testing.assert_array_equal(Blocks(data, "validation").lengths(every), lengths)
        else:
            with pytest.raises(UserError, match="make the data again"):
                Blocks(data, "validation").lengths(every)


@pytest.mark.parametrize("gap", [100, 3000])
def test_a_tokenizer_with_ids_of_no_piece_is_refused(gap, tokenizers, tmp_path):
    import shutil

    shutil.copytree(tokenizers / "own", tmp_path / "gap")
    path = tmp_path / "gap" / "tokenizer.json"
    backend = json.loads(path.read_text(encoding="utf-8"))
    token = {**backend["added_tokens"][-1], "id": 520 + gap, "content": "<far>"}
    backend["model"] = {"type": "WordLevel", "unk_token": "<unk>", "vocab": {
        piece: n if n < 519 else n + gap for n, (piece, _) in enumerate(backend["model"]["vocab"])}}  # fmt: skip
    backend["added_tokens"].append(token)
    path.write_text(json.dumps(backend), encoding="utf-8")
    with pytest.raises(UserError, match=r"^[^\n]*ids up to [^\n]*$"):
        prepared(tmp_path, TEXTS, tokenizer=str(tmp_path / "gap"))


# --- blocks in which nothing can be masked --------------------------------------------------------------------------

THAI = "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์"


@pytest.mark.parametrize(
    "nothing, name",
    [
        (" ".join([THAI] * 100), "ภาษาไทย"),
        ("ខ្មែរ " * 300, "ខ្មែរ"),
        ("\u200d\u200c " * 300, "u200d"),
        ("🦖 🪐 " * 300, "🦖"),
    ],
)
def test_a_page_without_a_known_token_is_dropped_and_named(nothing, name, known_only, tmp_path):
    manifest = prepared(tmp_path, [*TEXTS[:150], nothing, *TEXTS[150:]], tokenizer=str(known_only), seed=1)
    dropped = {split: facts["dropped_blocks"] for split, facts in manifest["splits"].items()}
    assert sum(dropped.values()) > 1
    assert "text.txt" in manifest["poor_documents"][0] and name in manifest["poor_documents"][0]
    text = open_text(str(tmp_path / "data"), MaskingSection(), seed=0, global_batch=8)  # can be trained on
    for blocks in (text.train, text.validation):
        ids = blocks.read(np.arange(len(blocks)))
        maskable = ~np.isin(ids, text.masking.special_ids)
        assert maskable.sum(axis=1)[blocks.lengths(np.arange(len(blocks))) == LENGTH].min() >= 9
    plain = (tmp_path / "plain").mkdir() or prepared(tmp_path / "plain", TEXTS, tokenizer=str(known_only), seed=1)
    assert "poor_documents" not in plain and plain["splits"]["train"]["dropped_blocks"] == 0
    # The bytes of what was dropped are not shared out among the tokens that were kept.
    assert manifest["bytes_per_token"] < 3 * plain["bytes_per_token"]


@pytest.fixture(scope="module")
def known_only(tmp_path_factory):
    """A tokenizer that knows no Thai, Khmer or emoji and has no bytes for them, as BERT's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    names = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=520, special_tokens=list(names.values()), show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    folder = tmp_path_factory.mktemp("word-piece")
    tokens = {f"{role}_token": piece for role, piece in names.items()}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("nothing", ["\u200b", "\ufeff", "\u200b \u2028"])
def test_documents_without_a_token_leave_separators_which_are_dropped(nothing, tmp_path):
    manifest = prepared(tmp_path, [*TEXTS[:150], *[nothing] * 200, *TEXTS[150:]], vocab_size=520)
    plain = (tmp_path / "plain").mkdir() or prepared(tmp_path / "plain", TEXTS, vocab_size=520)
    assert sum(facts["dropped_blocks"] for facts in manifest["splits"].values()) > 1
    assert repr(nothing) in manifest["poor_documents"][0]
    assert plain["tokens"] - 2 * LENGTH < manifest["tokens"] <= plain["tokens"]
    open_text(str(tmp_path / "data"), MaskingSection(), seed=0, global_batch=8)


def test_a_text_that_the_tokenizer_does_not_know_at_all_is_refused(known_only, tmp_path):
    with pytest.raises(UserError, match=r"knows next to nothing of the text: \d+ of its blocks"):
        prepared(tmp_path, [f"{THAI * n}" for n in range(1, 60)], tokenizer=str(known_only))


def test_the_tool_says_what_was_dropped(known_only, tmp_path, monkeypatch, capsys):
    from megamini.commands import prepare as prepare_data

    path = write_text(tmp_path / "text.txt", [*TEXTS, " ".join([THAI] * 100)])
    options = ["--text", str(path), "--language", "en", "--out", str(tmp_path / "data"), "--tokenizer", str(known_only)]
    options += ["--block-length", "32", "--validation-share", "0.2", "--processes", "1"]
    monkeypatch.setattr("sys.argv", ["prepare_data.py", *options])
    prepare_data.main()
    assert "more blocks were dropped" in (printed := capsys.readouterr().out) and "ภาษาไทย" in printed


# --- files of all sorts ---------------------------------------------------------------------------------------------


def texts_of(path):
    return ["".join(p.text for p in [piece]) for unit in plan_units(find_files([str(path)]), Layout())
            for piece in read_chunks(unit, Layout())]  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    ['"id": ' + "7" * 5000, '"n": [-' + "1" * 9999 + "]", '"n": 1e9999', '"n": 0.' + "3" * 50_000, '"n": 12'],
)
def test_a_number_beside_the_text_may_have_any_length(extra, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "One."}\n{' + extra + ', "text": "Two."}\n', encoding="utf-8")
    assert texts_of(path) == ["One.", "Two."]


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"text": "a", "n": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"n": ' * 60_000 + "1" + "}" * 60_000, "nested too deeply"),
        ('{"text": ' + "9" * 5000 + "}", "not a string"),
        ('{"text": 9}', "the text is int"),
        ('{"text": "a", "id": "\\ud83d"}', "the id holds half a surrogate pair"),
        ("[1, 2]", "not a JSON object"),
        ('{"text": "a"', "torn"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, words, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "One."}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"x.jsonl: line 2: .*{words}"):
        texts_of(path)


@pytest.mark.parametrize("name", ["x.json", "x.json.gz", "x.jsonlines", "x.JSON.GZ"])
def test_json_lines_by_other_names(name, tmp_path):
    content = '\ufeff{"text": "One."}\n\n{"text": "Two."}\n'.encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert texts_of(path) == ["One.", "Two."]


def test_one_json_value_over_several_lines_is_said(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "One."}], indent=2), encoding="utf-8")
    with pytest.raises(UserError, match=r"x.json: line 1: .*one object a line"):
        texts_of(path)


def shard(path, texts, groups=True):
    table = pa.table({"text": pa.array(texts, pa.string())})
    writer = parquet.ParquetWriter(path, table.schema)
    if groups:
        writer.write_table(table)
    writer.close()
    return path


def test_a_parquet_file_without_a_row_group_is_passed_over(tmp_path):
    empty, full = shard(tmp_path / "0.parquet", [], groups=False), shard(tmp_path / "1.parquet", TEXTS)
    assert parquet.ParquetFile(empty).metadata.num_row_groups == 0
    manifest = prepare(
        [str(empty), str(full)], tmp_path / "data", Settings("en", 520, block_length=32, validation_share=0.2), 1
    )
    assert manifest["documents"] == 300


@pytest.mark.parametrize("texts, groups", [([], False), ([], True), ([None, None], True), (["", " \n"], True)])
def test_files_without_a_document_are_said_to_hold_none(texts, groups, tmp_path):
    path = shard(tmp_path / "0.parquet", texts, groups)
    with pytest.raises(UserError, match=r"0.parquet: holds no documents"):
        prepare([str(path)], tmp_path / "data", Settings("en", 520, block_length=32), 1)


@pytest.mark.parametrize("name, end", [("text.txt", "\n"), ("text.txt.gz", "\n"), ("text.txt", "\r\n")])
def test_one_sentence_a_line_is_known_for_what_it_is(name, end, tmp_path):
    lines = [line for text in TEXTS for line in text.splitlines()]
    content, path = end.join(lines).encode(), tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(UserError, match=rf"one document of {len(lines)} lines.*did you mean --documents line\?"):
        prepared(tmp_path, path, vocab_size=520)
    with pytest.raises(UserError, match="did you mean --documents line"):  # the one document fell to validation
        prepare([str(path)], tmp_path / "other", Settings("en", 520, block_length=32, validation_share=0.5, seed=1), 1)
    settings = Settings("en", 520, block_length=LENGTH, documents="line", validation_share=0.2)
    assert prepare([str(path)], tmp_path / "data", settings, 1, overwrite=True)["documents"] == len(lines)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("kind", ["one line", "one id", "one text"])
def test_documents_that_all_fall_to_one_split_are_said_to(kind, validation, tmp_path):
    """Neither the tokenizer nor the size of the text is to blame."""
    path = tmp_path / ("x.jsonl" if kind.startswith("one ") and kind != "one line" else "x.txt")
    texts = [" ".join(TEXTS)] * 3 if kind == "one text" else TEXTS
    if path.suffix == ".txt":
        path.write_text(" ".join(text.replace("\n", " ") for text in TEXTS), encoding="utf-8")
    else:
        identity = {"id": "7"} if kind == "one id" else {}
        path.write_text("".join(json.dumps({"text": text, **identity}) + "\n" for text in texts), encoding="utf-8")
    number = {"one id": "300 documents", "one text": "3 documents"}.get(kind, "one document")
    seeds = (seed for seed in range(20) if is_validation_of(path, seed) == validation)
    words = f"is {number}, and nothing but validation" if validation else "fell to validation, whose share is 0.2"
    with pytest.raises(UserError, match=words):
        prepared(tmp_path, path, vocab_size=520, seed=next(seeds))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("long", [False, True])
def test_lines_that_end_with_a_carriage_return_alone_are_told_to_be_converted(long, end, tmp_path):
    lines = "\r".join(TEXTS * (100 if long else 1)).replace("\n", "\r")
    (tmp_path / "x.txt").write_bytes((lines + end).encode())
    with pytest.raises(UserError, match=r"x.txt: its lines end with a carriage return alone; convert it: tr"):
        prepared(tmp_path, tmp_path / "x.txt", vocab_size=520)


def test_a_single_return_inside_a_line_is_white_space(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one line\rwithout an end")
    [chunk] = read_chunks(plan_units([tmp_path / "x.txt"], Layout())[0], Layout())
    assert chunk.text == "one line\rwithout an end"


def test_returns_inside_a_long_first_line_are_white_space_where_other_lines_follow(tmp_path):
    line = "a row of a progress bar\r" * (LINE_BYTES // 20)
    (tmp_path / "x.txt").write_text(line + "\n\nthe next document", newline="")
    *_, last = read_chunks(plan_units([tmp_path / "x.txt"], Layout())[0], Layout())
    assert last.text == "the next document"


def is_validation_of(path, seed):
    """Whether the first document of a file falls to validation."""
    piece = next(read_chunks(plan_units([path], Layout())[0], Layout()))
    return is_validation(piece.key, seed, 0.2)


def test_a_text_too_small_for_any_vocabulary_is_told_to_grow_alone(tmp_path):
    """357 pieces are all there are, and fewer than 400 may not be asked for."""
    with pytest.raises(UserError, match=r"yields no more than \d{3} pieces; bring more text$"):
        prepared(tmp_path, ["The cat sat on the mat.", "A dog ran."] * 30, vocab_size=600)


# --- manifests from elsewhere ---------------------------------------------------------------------------------------


def sign(data, manifest):
    manifest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    text = json.dumps({**manifest, "fingerprint": manifest_fingerprint(manifest)})
    (data / "manifest.json").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    prepared(folder, TEXTS, vocab_size=520)
    return folder / "data"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(language="/tmp/elsewhere"),
        lambda m: m.update(language="../x"),
        lambda m: m.update(language="de\n"),
        lambda m: m.update(language="<script>"),
        lambda m: m.update(language=["de"]),
        lambda m: m["splits"]["train"]["shards"][0].update(file="/etc/passwd"),
        lambda m: m["splits"]["train"]["shards"][0].update(file="train/../../x/00000.arrow"),
        lambda m: m["splits"]["train"]["shards"][0].update(blocks=-1),
        lambda m: m.update(block_length="32"),
        lambda m: m.update(vocab_size=10**30),
        lambda m: m.update(splits={"train": 5}),
        lambda m: m["splits"]["validation"].update(padded_lengths=[10**5]),
        lambda m: m["splits"]["validation"].update(padded_lengths=[5] * 10**4),
        lambda m: m.update(sources=["x"]),
        lambda m: m.pop("language"),
        lambda m: m.pop("tokenizer_fingerprint"),
        lambda m: m.pop("sources"),
        lambda m: m["splits"].pop("validation"),
    ],
)
def test_a_manifest_that_is_none_of_ours_is_refused_where_it_is_read(change, good, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(good, data)
    manifest = json.loads((data / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    sign(data, manifest)
    with pytest.raises(UserError) as caught:
        open_text(str(data), MaskingSection(), 0, 8)
    assert str(data) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"format": 1' + b"0" * 9000 + b"}", b"\xff\xfe{}", b'{"format": 1, "language": "\\ud800"}', b""],
)
def test_a_torn_manifest_is_one_line(content, tmp_path):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match=r"[mM]ake the data again"):
        load_manifest(tmp_path)
