"""Starting points: roles, pads, copies, distributions and the bias rule, each against a naive computation."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from megamini.adaptation.starting_points import focus
from megamini.adaptation.starting_points.focus import sparsemax
from megamini.adaptation.starting_points.initialise import KINDS, initialise
from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.adaptation.starting_points.piece_forms import Form, piece_forms, shared_pieces
from megamini.adaptation.starting_points.vocabularies import Source, Target
from megamini.data.preparation.prepare import Settings, prepare
from megamini.data.tokenizer import encoder, special_roles
from megamini.errors import UserError
from tests.data.texts import documents, write_text

SOURCE_WORDS = ["house", "tree", "red", "green", "big", "a", "in", "water", "Berlin", "gift", "s", "2"]
TARGET_WORDS = ["Haus", "Baum", "rot", "grün", "groß", "in", "Berlin", "Gift", "gift", "2", "tür", "Wasser"]
ROLES = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
WIDTH = 16


def make_tokenizer(words, role_order, parts=()):
    """A Unigram tokenizer with a byte fallback: specials in `role_order`, words, parts of words, bytes."""
    specials = [ROLES[role] for role in role_order]
    pieces = [*specials, "▁", *(f"▁{word}" for word in words), *parts, *(f"<0x{byte:02X}>" for byte in range(256))]
    scores = [
        0.0 if piece in specials or piece.startswith("<0x") else -1.0 - 0.01 * n for n, piece in enumerate(pieces)
    ]
    backend = Tokenizer(
        models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=pieces.index("<unk>"), byte_fallback=True)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": piece for role, piece in ROLES.items()}
    )


@pytest.fixture(scope="module")
def source():
    tokenizer = make_tokenizer(SOURCE_WORDS, ["bos", "pad", "eos", "unk", "mask"], ["door", "wood"])
    draw = torch.Generator().manual_seed(1)
    matrix = torch.randn(len(tokenizer), WIDTH, generator=draw) * torch.linspace(0.01, 1, WIDTH) + 3
    matrix[1] = 0
    return Source(matrix, torch.randn(len(tokenizer), generator=draw), tokenizer)


@pytest.fixture(scope="module")
def target():
    tokenizer = make_tokenizer(TARGET_WORDS, ["mask", "unk", "bos", "eos", "pad"], ["er", "ung"])
    ids = [list(encoder(tokenizer).encode(text, add_special_tokens=False).ids) for text in sentences(60)]
    documents = [np.array([2, *number, 3]) for number in ids]
    counts = np.bincount(np.concatenate(documents), minlength=len(tokenizer))
    return Target(tokenizer, counts, lambda: documents)


@pytest.fixture
def word_list(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("Haus\thouse\n", encoding="utf-8")
    return path


def sentences(count):
    draw = random.Random(0)
    return [" ".join(draw.choices(TARGET_WORDS, k=12)) for _ in range(count)]


def begin(kind, source, target, word_list, seed=0, **options):
    if kind == "lexicon":
        options.setdefault("lexicon", word_list)
    if kind == "focus":
        options.setdefault("focus_through", "scikit-learn")
    return initialise(kind, source, target, seed, **options)


def ids_of(tokenizer, *pieces):
    vocabulary = tokenizer.get_vocab()
    return [vocabulary[piece] for piece in pieces]


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_determinism(kind, source, target, word_list):
    first, again = (begin(kind, source, target, word_list) for _ in range(2))
    other = begin(kind, source, target, word_list, seed=1)
    assert first.matrix.shape == (len(target.tokenizer), WIDTH) and first.matrix.dtype == torch.float32
    assert first.bias.shape == (len(target.tokenizer),) and first.bias.dtype == torch.float32
    assert torch.equal(first.matrix, again.matrix) and torch.equal(first.bias, again.bias)
    assert first.facts == again.facts
    assert not torch.equal(first.matrix, other.matrix)
    assert torch.isfinite(first.matrix).all() and torch.isfinite(first.bias).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_left_as_it_was(kind, source, target, word_list):
    before = source.matrix.clone()
    parameter = Source(torch.nn.Parameter(source.matrix.clone()), source.output_bias, source.tokenizer)
    start = begin(kind, parameter, target, word_list)
    start.matrix.add_(1)
    start.bias.add_(1)
    assert torch.equal(parameter.matrix, before) and not start.matrix.requires_grad


@pytest.mark.parametrize("kind", ["unigram", "overlap", "focus", "lexicon"])
def test_special_rows_follow_their_roles(kind, source, target, word_list):
    matrix = begin(kind, source, target, word_list).matrix
    theirs, ours = special_roles(source.tokenizer), special_roles(target.tokenizer)
    for role in ROLES:
        assert theirs[role] != ours[role]
        assert torch.equal(matrix[ours[role]], source.matrix[theirs[role]]), role
    assert not matrix[ours["pad"]].any()


def test_random_is_as_published(source, target):
    start = initialise("random", source, target, seed=3)
    pad = special_roles(target.tokenizer)["pad"]
    rest = torch.cat([start.matrix[:pad], start.matrix[pad + 1 :]])
    assert not start.matrix[pad].any()
    assert rest.std().item() == pytest.approx(0.02, rel=0.05) and abs(rest.mean().item()) < 0.001
    assert (rest[:4].abs() < 0.1).all(), "special rows are drawn too, not copied"


def test_published_bias_needs_vocabularies_of_one_size(source, target):
    same = Target(source.tokenizer, np.ones(len(source.tokenizer), np.int64))
    assert torch.equal(initialise("random", source, same, 0).bias, source.output_bias)
    bigger = make_tokenizer([*TARGET_WORDS, "mehr", "noch", "dazu"], list(ROLES))
    bigger = Target(bigger, np.ones(len(bigger), np.int64))
    assert not initialise("random", source, bigger, 0).bias.any()
    assert not initialise("random", Source(source.matrix, None, source.tokenizer), same, 0).bias.any()
    assert torch.equal(initialise("overlap", source, same, 0, bias="source").bias, source.output_bias)


@pytest.mark.parametrize("kind", ["unigram", "overlap", "focus", "lexicon"])
def test_bias_is_the_smoothed_unigram(kind, source, target, word_list):
    bias = begin(kind, source, target, word_list).bias.tolist()
    specials = set(special_roles(target.tokenizer).values())
    counted = {n: int(count) + 1 for n, count in enumerate(target.unigram_counts) if n not in specials}
    total = sum(counted.values())
    for number, count in counted.items():
        assert bias[number] == pytest.approx(math.log(count / total), abs=1e-6)
    least = math.log(min(counted.values()) / total)
    assert all(bias[number] == pytest.approx(least, abs=1e-6) for number in specials)
    assert sum(math.exp(bias[number]) for number in counted) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["overlap", "focus"])
def test_shared_rows_are_copied_bit_for_bit(kind, source, target, word_list):
    start = begin(kind, source, target, word_list)
    shared = ["▁", "▁in", "▁Berlin", "▁gift", "▁2", *(f"<0x{byte:02X}>" for byte in range(256))]
    assert torch.equal(
        start.matrix[ids_of(target.tokenizer, *shared)], source.matrix[ids_of(source.tokenizer, *shared)]
    )
    assert start.facts["shared_pieces"] == len(shared)
    counts, specials = target.unigram_counts, list(special_roles(target.tokenizer).values())
    share = counts[ids_of(target.tokenizer, *shared)].sum() / (counts.sum() - counts[specials].sum())
    assert start.facts["shared_token_share"] == pytest.approx(share)


def test_other_rows_are_drawn_from_the_sources_distribution(source):
    words = [f"neu{number}" for number in range(3000)]
    tokenizer = make_tokenizer(words, list(ROLES))
    start = initialise("overlap", source, Target(tokenizer, np.ones(len(tokenizer), np.int64)), 0)
    drawn = start.matrix[ids_of(tokenizer, *(f"▁{word}" for word in words))]
    ordinary = source.matrix[5:]
    torch.testing.assert_close(drawn.mean(0), ordinary.mean(0), rtol=0, atol=0.08)
    torch.testing.assert_close(drawn.std(0), ordinary.std(0), rtol=0.06, atol=0)


def test_a_data_directory_is_a_target(source, tmp_path):
    text, data = write_text(tmp_path / "text.txt", documents(120)), tmp_path / "data"
    prepare([str(text)], data, Settings("de", vocab_size=520, block_length=32), processes=1)
    target = Target.of(data)
    seen = np.bincount(np.concatenate(list(target.text())), minlength=520)
    ordinary = np.array([form is not None for form in piece_forms(target.tokenizer)])
    missing = (target.unigram_counts - seen)[ordinary]
    assert (missing >= 0).all() and missing.sum() < 32, "what fills no block is left to validation"
    start = initialise("focus", source, target, 0, focus_through="scikit-learn")
    assert start.matrix.shape == (520, WIDTH) and start.facts["mixed_pieces"] > 0


# --- forms ----------------------------------------------------------------------------------------------------------


def byte_level_tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=list(ROLES.values())
    )
    backend.train_from_iterator(["in der grünen Straße in der Tür"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": piece for role, piece in ROLES.items()}
    )


def word_piece_tokenizer():
    pieces = [*ROLES.values(), "in", "##in", "gift", ",", "中"]
    backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": piece for role, piece in ROLES.items()}
    )


def test_forms_say_what_pieces_stand_for(target):
    forms = piece_forms(target.tokenizer)
    word, bare, part, byte, letter = ids_of(target.tokenizer, "▁grün", "▁", "er", "<0xC3>", "<0x41>")
    assert forms[word] == Form("grün", True, False) and forms[bare] == Form("", True, False)
    assert forms[part] == Form("er", False, False) and forms[letter] == Form("A", False, True)
    assert forms[byte].text.encode("utf-8", "surrogateescape") == b"\xc3" and forms[byte].is_byte
    assert [forms[number] for number in special_roles(target.tokenizer).values()] == [None] * 5


def test_byte_level_pieces_match_those_with_a_word_mark(target):
    other = byte_level_tokenizer()
    forms = piece_forms(other)
    for piece, number in other.get_vocab().items():
        if forms[number] is not None and "\ufffd" not in other.decode([number]):
            assert other.decode([number]) == " " * forms[number].begins_word + forms[number].text, piece
    matched = shared_pieces(forms, piece_forms(target.tokenizer))
    names = {piece: matched[number] for piece, number in target.tokenizer.get_vocab().items()}
    vocabulary = other.get_vocab()
    assert names["▁in"] == vocabulary["Ġin"] and names["<0xC3>"] == vocabulary["Ã"] and names["▁"] == vocabulary["Ġ"]
    assert names["<0x41>"] == -1, "the letter A is no stand-in for a missing character's byte"
    assert names["<s>"] == names["▁Haus"] == -1


def test_word_pieces_match_those_with_a_word_mark():
    forms = piece_forms(word_piece_tokenizer())
    assert forms[5:] == [
        Form("in", True, False),
        Form("in", False, False),
        Form("gift", True, False),
        Form(",", False, False),
        Form("中", False, False),
    ]


# --- lexicon --------------------------------------------------------------------------------------------------------


def test_lexicon_by_hand(source, target, tmp_path):
    # "wooddoor" is read as the pieces ▁, wood, door; "Hauser" as ▁Haus, er and "Baumer" as ▁Baum, er.
    # Of Haus, the longer translation is passed over.
    words = "Haus\thouse\nHaus\twooddoor\nGift\twater\nrot\tred\nrot\tgreen\ntür\twooddoor\nHauser\ttree\n"
    words += "Baumer\tbig\nBaumer\tred\n"
    path = tmp_path / "words.tsv"
    path.write_text(words + "\ngroß\t中文\n", encoding="utf-8")
    start = initialise("lexicon", source, target, 0, lexicon=path)
    plain = initialise("overlap", source, target, 0)
    of = {piece: source.matrix[number] for piece, number in source.tokenizer.get_vocab().items()}
    got = {piece: start.matrix[number] for piece, number in target.tokenizer.get_vocab().items()}

    def expect(piece, row):
        torch.testing.assert_close(got[piece], row, rtol=0, atol=1e-6)

    # tree, red, green and big are the second to fifth piece: translations weigh as one over that.
    expect("▁Haus", of["▁house"])
    expect("▁Gift", of["▁water"])
    expect("▁rot", (of["▁red"] / 3 + of["▁green"] / 4) / (1 / 3 + 1 / 4))
    expect("▁tür", (of["wood"] + of["door"]) / 2)
    expect("er", (of["▁tree"] / 2 + of["▁big"] / 5 + of["▁red"] / 3) / (1 / 2 + 1 / 5 + 1 / 3))
    expect("▁Baum", (of["▁big"] / 5 + of["▁red"] / 3) / (1 / 5 + 1 / 3))
    expect("▁gift", of["▁water"])  # the other case of a word in the list
    for piece in ("▁in", "▁Wasser", "<0x41>", "ung"):
        number = target.tokenizer.get_vocab()[piece]
        assert torch.equal(start.matrix[number], plain.matrix[number]), piece
    strict = initialise("lexicon", source, target, 0, lexicon=path, match_case=True)
    assert torch.equal(strict.matrix[ids_of(target.tokenizer, "▁gift")[0]], of["▁gift"])


def test_spelling_in_the_list_comes_before_other_cases(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("\ufeffsie\tthey\nSie\tyou\nweg\taway\n", encoding="utf-8")
    words = read_lexicon(path)
    assert words["sie"] == ["they"] and words["Sie"] == ["you"] and words["Weg"] == words["WEG"] == ["away"]
    assert sorted(words["SIE"]) == ["they", "you"]
    assert set(read_lexicon(path, match_case=True)) == {"sie", "Sie", "weg"}


@pytest.mark.parametrize(
    ("content", "line"),
    [(b"a\tb\nHaus house\n", 2), (b"a\tb\n\n\tb\n", 3), (b"a\tb\tc\n", 1), (b"a\tb\nx\t\xff\n", 2)],
)
def test_a_bad_word_list_names_the_line(content, line, source, target, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"words.tsv: line {line}: [^\n]*$"):
        initialise("lexicon", source, target, 0, lexicon=path)


@pytest.mark.parametrize("kind", ["focus", "lexicon"])
def test_a_list_of_another_language_is_refused(kind, source, target, tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("house\tHaus\n", encoding="utf-8")  # the wrong way round
    with pytest.raises(UserError, match=r"words.tsv: no word of this list is one of the vocabulary's"):
        initialise(kind, source, target, 0, lexicon=path)


# --- focus ----------------------------------------------------------------------------------------------------------


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    scores = np.random.default_rng(0).normal(size=(7, 5))
    weights = sparsemax(scores)
    assert np.allclose(weights.sum(1), 1) and (weights >= 0).all() and (weights == 0).any()
    for row, weight in zip(scores, weights, strict=True):
        # Optimality (Karush, Kuhn, Tucker): one threshold under all that is used, above all that is not.
        threshold = row[weight > 0] - weight[weight > 0]
        assert np.allclose(threshold, threshold[0]) and (row[weight == 0] <= threshold[0] + 1e-12).all()
    assert np.allclose(sparsemax(np.array([[0.3, 9.0, 0.1]])), [[0, 1, 0]])


TOPICS = {"animal": ["bear", "lion"], "food": ["rice", "kiwi"], "tool": ["drill", "axis"], "place": ["park", "hotel"]}
NEW = {topic: [f"{topic}neu{n}" for n in range(6)] for topic in TOPICS}


@pytest.fixture(scope="module")
def topical():
    """Sentences each on one topic, with words of the topic that both languages have, new ones and common ones."""
    draw = random.Random(5)
    common = [f"c{n}" for n in range(5)]
    words = [*common, *(word for group in (TOPICS, NEW) for topic in group.values() for word in topic)]
    target = make_tokenizer([*words, "selten"], ["mask", "unk", "bos", "eos", "pad"])
    source = make_tokenizer([word for topic in TOPICS.values() for word in topic], list(ROLES))
    texts = [
        " ".join(draw.choices([*TOPICS[topic], *NEW[topic], *draw.sample(common, 2)], k=14))
        for topic in draw.choices(list(TOPICS), k=300)
    ]
    documents = [np.array(encoding.ids) for encoding in encoder(target).encode_batch([*texts, "selten"])]
    counts = np.bincount(np.concatenate(documents), minlength=len(target))
    matrix = torch.randn(len(source), 32, generator=torch.Generator().manual_seed(2))
    return Source(matrix, None, source), Target(target, counts, lambda: documents)


@pytest.mark.parametrize("backend", focus.BACKENDS)
def test_focus_mixes_the_right_neighbours(backend, topical):
    if backend == "deepfocus":
        pytest.importorskip("deepfocus")
    source, target = topical
    target_text = target.text
    if backend == "deepfocus":  # fastText learns nothing from 4,000 tokens
        target = replace(target, text=lambda: target_text() * 60)
    start, again = (initialise("focus", source, target, 0, focus_through=backend) for _ in range(2))
    assert torch.equal(start.matrix, again.matrix)
    shared = [f"▁{word}" for topic in TOPICS.values() for word in topic]
    anchors = source.matrix[ids_of(source.tokenizer, *shared)]
    right = 0.0
    for topic, words in NEW.items():
        rows = start.matrix[ids_of(target.tokenizer, *(f"▁{word}" for word in words))]
        # The 8 anchors are independent rows, so the weights of a mixture of them are unique.
        weights = torch.linalg.lstsq(anchors.T.double(), rows.T.double()).solution.T
        torch.testing.assert_close((weights @ anchors.double()).float(), rows, rtol=0, atol=1e-5)
        assert (weights > -1e-5).all() and torch.allclose(weights.sum(1), torch.ones(len(words)).double(), atol=1e-5)
        mine = [number for number, piece in enumerate(shared) if piece[1:] in TOPICS[topic]]
        right += weights[:, mine].sum().item() / len(words) / len(TOPICS)
    assert right > (0.9 if backend == "scikit-learn" else 0.5), "chance is 2 of 8"
    rare = ids_of(target.tokenizer, "▁selten")
    if backend == "scikit-learn":
        assert start.facts["mixed_pieces"] == 24 + 5
        assert torch.equal(start.matrix[rare], initialise("overlap", source, target, 0).matrix[rare])
        assert 1 <= start.facts["anchors_per_piece"] <= 8


def test_focus_mixes_from_the_words_of_a_list(topical, tmp_path):
    """Shared words that the source spells otherwise, and a word list that says so: nothing else changes."""
    source, target = topical
    words = [word for topic in TOPICS.values() for word in topic]
    other = make_tokenizer([f"{word}ish" if n % 2 else word for n, word in enumerate(words)], list(ROLES))
    path = tmp_path / "words.tsv"
    path.write_text("".join(f"{word}\t{word}ish\n" for word in words[1::2]), encoding="utf-8")
    options = {"focus_through": "scikit-learn"}
    renamed = Source(source.matrix, None, other)
    listed = initialise("focus", renamed, target, 0, lexicon=path, match_case=True, **options)
    assert torch.equal(listed.matrix, initialise("focus", source, target, 0, **options).matrix)
    assert listed.facts["lexicon_whole_words"] == len(words) // 2 and listed.facts["through"] == "scikit-learn"
    assert not torch.equal(listed.matrix, initialise("focus", renamed, target, 0, **options).matrix)


def test_focus_without_anchors_is_overlap(topical):
    source, target = topical
    strange = make_tokenizer(["zzz"], list(ROLES))
    source = Source(source.matrix[: len(strange)], None, strange)
    options = {"focus_through": "scikit-learn"}
    start, plain = initialise("focus", source, target, 0, **options), initialise("overlap", source, target, 0)
    assert torch.equal(start.matrix, plain.matrix) and start.facts["mixed_pieces"] == 0


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("overlaps", {}, "did you mean 'overlap'"),
        ("lexicon", {}, "needs a word list"),
        ("overlap", {"lexicon": "words.tsv"}, "takes no word list"),
        ("focus", {"lexicon": "words.tsv", "focus_through": "deepfocus"}, "takes no word list"),
        ("lexicon", {"lexicon": "nowhere.tsv"}, "nowhere.tsv: No such file"),
        ("focus", {"focus_through": "word2vec"}, "there are deepfocus and scikit-learn"),
        ("focus", {"focus_through": "word2vec", "lexicon": "words.tsv"}, "there are deepfocus and scikit-learn"),
    ],
)
def test_bad_requests_end_in_one_line(kind, options, message, source, target):
    with pytest.raises(UserError, match=message) as error:
        initialise(kind, source, target, 0, **options)
    assert "\n" not in str(error.value)


def test_parts_that_do_not_fit_end_in_one_line(source, target, tmp_path):
    with pytest.raises(UserError, match="needs text"):
        initialise("focus", source, Target(target.tokenizer, target.unigram_counts), 0)
    with pytest.raises(UserError, match="rows for the"):
        initialise("overlap", Source(source.matrix[:9], None, source.tokenizer), target, 0)
    with pytest.raises(UserError, match="piece counts"):
        initialise("overlap", source, Target(target.tokenizer, target.unigram_counts[:9]), 0)
    with pytest.raises(UserError, match="no finished data directory"):
        Target.of(tmp_path)
