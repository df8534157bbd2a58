"""Markup to clean paragraphs, the manifest, reuse and the error lines of tools/fetch_text.py."""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from megamini.adaptation.starting_points.lexicon import read_lexicon
from megamini.commands import fetch as fetch_text
from megamini.commands.debian_text import archive, dictionaries, languages, paragraphs, sources
from megamini.commands.debian_text.collection import Collection, Document, Reading
from megamini.commands.debian_text.licence import licence_of
from megamini.errors import UserError

PAGE = """<html><body><p>navigation</p><div id="DisplayArea"><h1>Kopf &amp; Fuß</h1>
<p>Ein <b>fetter</b>
 Absatz&nbsp;mit <span class="switchinline"><span class="MAC">Befehl</span><span id="default1">Strg</span></span>+F.</p>
<pre>10 PRINT "code"</pre><p class="code">a = b</p><p>1.</p><script>var x;</script><!-- remark -->
<ul><li>Erstens<br>zweitens</li></ul><p>D'oh! You found a bug (text/x.xhp#y).</p></div>
<footer>foot</footer></body></html>"""
DE_INDEX = """Package: a
Description-md5: 00
Description-de: Werkzeug für Tests
 Erster Absatz, der
 umgebrochen ist:
  * ein Punkt
    geht weiter
  * noch einer
 .
 Zweiter Absatz.

Package: b
Description-md5: 01
Description-de: Werkzeug für Tests
 Kurz.
"""


def test_html_page_becomes_paragraphs_without_code_navigation_or_variants():
    found = sources.LibreOfficeHelp(None).paragraphs(PAGE.encode())
    assert found == ["Kopf & Fuß", "Ein fetter Absatz mit Strg+F.", "Erstens", "zweitens"]


def test_line_breaks_join_words_with_a_space_but_not_chinese():
    assert paragraphs.clean("two\n  words") == "two words"
    assert paragraphs.clean("中文\n  文本 abc\ndef") == "中文文本 abc def"


def test_untranslated_paragraphs_are_dropped_and_packages_recorded():
    class Fake(sources.PageSource):
        name = "fake"
        packages = page_id = paragraphs = None  # not reached: pages come ready

        def codes(self):
            return ["en-us", "de"]

        def _read_pages(self, code):
            english = {"app/a.html": ["Title", "Same text"], "app/b.html": ["Same text"]}
            german = {"app/a.html": ["Titel", "Same text"], "app/b.html": ["Same text"]}
            return (english if code == "en-us" else german), {f"help-{code}": "1"}, "MPL-2.0"

    reading = Fake(None).read("de")
    assert reading.documents == [Document("app/a.html", "Titel")]
    assert reading.packages == {"help-de": "1", "help-en-us": "1"}
    assert len(Fake(None).read("en").documents) == 2


def test_translation_index(tmp_path):
    index = tmp_path / "host_debian_dists_stable_main_i18n_Translation-de"
    index.write_text(DE_INDEX, encoding="utf-8")
    assert sources.descriptions(index) == [
        (
            "a",
            "Werkzeug für Tests\nErster Absatz, der umgebrochen ist:\n* ein Punkt geht weiter\n* noch einer\n"
            "Zweiter Absatz.",
        ),
        ("b", "Werkzeug für Tests\nKurz."),
    ]


def test_equal_descriptions_are_kept_once(tmp_path):
    index = tmp_path / "host_debian_dists_stable_main_i18n_Translation-de"
    stanza = "Package: {}\nDescription-md5: 0\nDescription-de: Titel\n Text.\n\n"
    index.write_text(stanza.format("z") + stanza.format("y"), encoding="utf-8")

    class FakeArchive:
        def translation_codes(self):
            return ["de"]

        def translations(self, code):
            return [index]

    assert sources.PackageDescriptions(FakeArchive()).read("de").documents == [Document("y", "Titel\nText.")]


DICTIONARIES = {
    "ita-eng": [
        "abile /ˈabile/ <adj>\nable, (quite) skilled\n  Note: also of hands, feet\n",
        "abitare\n1. to live\n2. [formal] dwell; be somewhere for long\n see: {casa}, {tetto}\n",
        "alla fine /ˈalla fine/\nfinally\n",
    ],
    "eng-ita": ["able /eibl/\nabile, capace\n", "away /əwei/\n1. via, L'Aquila\n"],
}


def dictd(entries: list[str]) -> tuple[bytes, bytes]:
    """Dictionary and index; each entry is listed twice, as under a headword and a second one."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    about = "00databaseinfo\nno, entry\n"
    text, index = about.encode(), [f"00databaseinfo\tA\t{digits[len(about)]}"]
    for entry in entries:
        offset, length = len(text), len(entry.encode())
        places = "\t".join(digits[n // 64] + digits[n % 64] for n in (offset, length))
        index += [f"{entry.split()[0]}\t{places}", f"other\t{places}"]
        text += entry.encode()
    return gzip.compress(text), ("\n".join(index) + "\n").encode()


class Dictionaries:
    """An archive with packages of dictionaries, `broken` by path."""

    def __init__(self, entries: dict[str, list[str]], broken: dict[str, bytes | None] | None = None):
        self.entries, self.broken, self.asked = entries, broken or {}, []

    def names(self, prefix):
        return [f"{prefix}{pair}" for pair in (*self.entries, "ita-deu", "eng-xyz")]

    def download(self, name):
        self.asked.append(name)
        return archive.Package(name, "1", Path(f"{name}.deb"))

    def members(self, package, wanted):
        pair = package.name.removeprefix("dict-freedict-")
        dictionary, index = dictd(self.entries[pair])
        files = {
            f"usr/share/dictd/freedict-{pair}.dict.dz": dictionary,
            f"usr/share/dictd/freedict-{pair}.index": index,
            f"usr/share/doc/{package.name}/copyright": b"Files: debian/*\nLicense: GPL-3+\n\nFiles: eng-ita/*\n"
            b"Copyright: a\nLicense: GPL-2+\n\nFiles: ita-eng/*\nLicense: GPL-1+\n",
        } | self.broken
        return [(path, content) for path, content in files.items() if wanted(path) and content is not None]


def test_a_word_list_of_both_directions():
    reader = dictionaries.FreeDict(Dictionaries(DICTIONARIES))
    assert reader.codes() == ["it", "xyz"], "with English, by the codes that users write"
    reading = reader.read("it")
    assert [line.line() for line in reading.documents] == [
        "abile\table\n", "abile\tskilled\n", "abitare\tlive\n", "abitare\tdwell\n", "capace\table\n",
        "via\taway\n", "L'Aquila\taway\n",
    ]  # fmt: skip
    assert reading.packages == {"dict-freedict-ita-eng": "1", "dict-freedict-eng-ita": "1"}
    assert reading.licence == "GPL-1+ (dict-freedict-ita-eng); GPL-2+ (dict-freedict-eng-ita)"
    with pytest.raises(UserError, match=r"'ta': freedict has none.* it has it, xyz"):
        reader.read("ta")


def test_words_are_words_in_any_script():
    entries = {
        "eng-hin": ["water\nपानी, आस~पास\n", "dog\nकुत्ता\n"],
        "eng-ara": ["water\nمَاء، مياه\n"],
        "eng-deu": ["over\nu\u0308ber\n", "U-boat\nU-Boot, 2. Boot\n"],
    }
    reader = dictionaries.FreeDict(Dictionaries(entries))
    words = {language: [line.word for line in reader.read(language).documents] for language in ("hi", "ar", "de")}
    assert words == {"hi": ["पानी", "कुत्ता"], "ar": ["مَاء", "مياه"], "de": ["\u00fcber", "U-Boot"]}


# The header of gzip, and then no deflated bytes.
DAMAGED = gzip.compress(b"abile")[:10] + b"\xff" * 20


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("usr/share/dictd/freedict-ita-eng.index", None, "version 1 has no usr/share/dictd/freedict-ita-eng.index"),
        ("usr/share/dictd/freedict-ita-eng.index", b"abile\tA\n", "is no dictionary as dictd reads it"),
        ("usr/share/dictd/freedict-ita-eng.index", b"abile\t*\tA\n", "is no dictionary as dictd reads it"),
        ("usr/share/dictd/freedict-ita-eng.index", b"abile\t//\tA\n", "is no dictionary as dictd reads it"),
        ("usr/share/dictd/freedict-ita-eng.dict.dz", b"abile", "is no dictionary as dictd reads it"),
        ("usr/share/dictd/freedict-ita-eng.dict.dz", DAMAGED, "is no dictionary as dictd reads it"),
    ],
)
def test_a_damaged_dictionary_ends_in_one_line(path, content, words):
    with pytest.raises(UserError, match=words) as error:
        dictionaries.FreeDict(Dictionaries(DICTIONARIES, {path: content})).read("it")
    assert "dict-freedict-ita-eng.deb" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [DAMAGED, b"text"])
def test_a_damaged_manual_page_ends_in_one_line(content, monkeypatch):
    package = SimpleNamespace(name="manpages-da", version="1", file="manpages-da.deb")
    page = ("usr/share/man/da/man1/ls.1.gz", content)
    archive = SimpleNamespace(download=lambda name: package, members=lambda package, wanted: [page])
    reader = sources.ManualPages(archive)
    monkeypatch.setattr(reader, "packages", lambda code: ["manpages-da"])
    with pytest.raises(UserError, match=r"^manpages-da.deb: man1/ls.1: is torn or invalid: .*"):
        reader._read_pages("da")


def test_a_word_list_is_fetched_once(tmp_path, monkeypatch, capsys):
    fake = Dictionaries(DICTIONARIES)
    monkeypatch.setattr(fetch_text, "Archive", lambda cache: fake)
    command = ["freedict", "--languages", "it", "--out", str(tmp_path)]
    fetch_text.main(command)
    content = (tmp_path / "freedict.it.tsv").read_bytes()
    assert read_lexicon(tmp_path / "freedict.it.tsv", match_case=True)["abitare"] == ["live", "dwell"]
    entry = json.loads((tmp_path / "manifest.json").read_text())["files"]["freedict.it.tsv"]
    assert (entry["documents"], entry["utf8_bytes"]) == (7, len(content) - 7)
    asked = len(fake.asked)
    fetch_text.main(command)
    assert len(fake.asked) == asked and "complete already, kept" in capsys.readouterr().out


def check_roff(mandoc: Path) -> None:
    roff = (
        ".TH LS 1\n.SH ÜBERSICHT\nZeigt\n.B fett\nund \\fIkursiv\\fP \\- alles.\n.nf\ncode\n.fi\n.TP\n.B \\-a\nalle\n"
    )
    reader = sources.ManualPages(None)
    reader._mandoc = mandoc
    assert reader.paragraphs(gzip.compress(roff.encode())) == [
        "ÜBERSICHT",
        "Zeigt fett und kursiv - alles.",
        "-a",
        "alle",
    ]
    assert reader.paragraphs(gzip.compress(b".so man3/printf.3\n")) == []


def test_notices_go_and_headings_stay():
    notice = "This page is free documentation, see the licence for all that you may do."
    pages = {str(n): ["NAME", f"page {n} " + "x" * 60, notice] for n in range(40)}
    assert paragraphs.without_notices(pages)["7"] == ["NAME", "page 7 " + "x" * 60]


@pytest.mark.parametrize(
    ("language", "codes", "found"),
    [
        ("en", ["en-gb", "en-us"], "en-us"),
        ("zh", ["zh_CN", "zh_TW"], "zh_CN"),
        ("de", ["de-DE"], "de-DE"),
        ("pt-br", ["pt", "pt_BR"], "pt_BR"),
        ("xx", ["de"], None),
    ],
)
def test_language_codes(language, codes, found):
    assert languages.find(language, codes) == found


def test_unknown_language_lists_what_exists():
    with pytest.raises(UserError, match=r"'xx': help has none; it has de, en, en-gb, zh, zh-tw"):
        languages.require("xx", ["de", "en-us", "en-gb", "zh-cn", "zh-tw"], "help")


def test_licences():
    several = "Files: *\nCopyright: me\nLicense: GPL-2+\n\nFiles: x\nLicense: Expat\n"
    assert licence_of(several, "p") == "GPL-2+ (p, some files under others: see its copyright file)"
    assert licence_of("licensed under the terms of the GNU GPL, version 2.", "p") == "GPL-2 (p)"
    assert licence_of("mine", "p") == "see the copyright file of p"


def read_once(monkeypatch) -> list[str]:
    """Put a source in place of the installation guide; returns the list of languages that it was asked for."""
    asked: list[str] = []

    class Fake:
        name = "installation-guide"

        def __init__(self, archive):
            pass

        def read(self, language):
            asked.append(language)
            return Reading([Document("p", "Grüße", "app")], {"guide": "1"}, "GPL-2 (guide)")

    monkeypatch.setitem(fetch_text.SOURCES, "installation-guide", Fake)
    return asked


def test_manifest_and_reuse(tmp_path, monkeypatch, capsys):
    asked = read_once(monkeypatch)
    command = ["installation-guide", "--languages", "de", "EN", "--out", str(tmp_path)]
    fetch_text.main(command)
    file = tmp_path / "installation-guide.de.jsonl"
    content = file.read_bytes()
    assert json.loads(content) == {"id": "p", "text": "Grüße", "label": "app"}
    entry = json.loads((tmp_path / "manifest.json").read_text())["files"][file.name]
    assert (entry["documents"], entry["utf8_bytes"], entry["packages"]) == (1, 7, {"guide": "1"})
    assert entry["command"].startswith("python tools/fetch_text.py installation-guide --languages de --out ")

    capsys.readouterr()
    fetch_text.main(command)
    assert asked == ["de", "en"]
    assert capsys.readouterr().out.count("complete already, kept") == 2

    file.write_bytes(content[:-5])  # torn: the checksum no longer agrees
    fetch_text.main(command)
    assert asked == ["de", "en", "de"]
    assert file.read_bytes() == content


def test_two_writers_are_refused(tmp_path, monkeypatch):
    read_once(monkeypatch)
    with Collection(tmp_path).locked(), pytest.raises(UserError, match="another fetch"):
        fetch_text.main(["installation-guide", "--languages", "de", "--out", str(tmp_path)])


def test_out_folder_and_manifest_errors(tmp_path, monkeypatch):
    read_once(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another folder"):
        fetch_text.main(["installation-guide", "--languages", "de", "--out", str(tmp_path / "file")])
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="not a manifest"):
        fetch_text.main(["installation-guide", "--languages", "de", "--out", str(tmp_path)])


def test_machine_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"apt-get and dpkg-deb are needed .*prepare_data\.py --text"):
        archive.Archive(tmp_path / "cache").names("x")


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ("E: Failed to fetch x  Temporary failure resolving 'y'", "cannot be reached"),
        ("E: Write error - write (28: No space left on device)", "no space left"),
        ("E: Something odd", "apt-get failed: Something odd"),
    ],
)
def test_apt_failures_become_one_line(tmp_path, monkeypatch, messages, line):
    client = tmp_path / "apt-get"
    client.write_text(f'#!/bin/sh\necho "{messages}" >&2\nexit 100\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=line):
        archive.Archive(tmp_path / "cache").names("x")


def test_too_little_room_is_said_before_apt_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "ROOM_BYTES", 10**18)
    with pytest.raises(UserError, match=r"MB free on this disk.*--out"):
        archive.Archive(tmp_path / "cache").names("x")


@pytest.mark.launched
def test_fetch_from_the_real_archive(tmp_path):
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is absent: not a Debian machine")
    command = [sys.executable, "tools/fetch_text.py", "manpages", "--languages", "da", "--out", str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if "cannot be reached" in result.stderr:
        pytest.skip(f"the package archive cannot be reached: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    lines = (tmp_path / "manpages.da.jsonl").read_text(encoding="utf-8").splitlines()
    documents = {document["id"]: document["text"] for document in map(json.loads, lines)}
    assert len(documents) > 50
    assert not any("\\fB" in text or "&nbsp;" in text for text in documents.values())
    [mandoc] = (tmp_path / ".cache" / "programs").iterdir()
    check_roff(mandoc)

    unknown = subprocess.run([*command[:4], "xx", *command[5:]], capture_output=True, text=True, cwd=root, check=False)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: language 'xx': manpages has none; it has")
