"""The house: small folders, first lines that say what a file is, and imports that point down, in no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_FILES = 14
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "megamini").rglob("*.py")
}


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inner}
    return found & MODULES.keys()


def test_no_folder_has_more_files_than_a_reader_takes_in():
    folders = {path.parent for path in MODULES.values()}
    assert {str(folder) for folder in folders if len(list(folder.glob("*.py"))) > MOST_FILES} == set()


def test_every_file_says_in_its_first_line_what_it_is():
    files = [path for folder in ("launch", "megamini", "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
    silent = [
        path for path in files if not (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").strip()
    ]
    assert silent == []


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({name: imports_of(path) for name, path in MODULES.items()}).prepare()


def test_imports_point_down():
    """Launch and tools use adaptation and downstream, they use training, it uses models and data."""
    floors = (
        ("errors", "files", "library_internals", "lock_file", "machine", "markup", "languages"),
        ("recipes", "costs", "data"),
        ("models",),
        ("training",),
        ("adaptation",),
        ("downstream",),
        ("commands",),
    )
    floor_of = {room: number for number, rooms in enumerate(floors) for room in rooms}
    climbs = {
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imports_of(path)
        if "." in name and floor_of[other.split(".")[1]] > floor_of[name.split(".")[1]]
    }
    assert climbs == set()


def test_rooms_of_training_are_in_no_circle_either():
    """A folder is one noun: none of them needs another that needs it."""
    rooms: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        room = name.rpartition(".")[0]
        rooms.setdefault(room, set()).update(other.rpartition(".")[0] for other in imports_of(path))
    inner = {room: {other for other in others if other.count(".") == 2} - {room} for room, others in rooms.items()}
    TopologicalSorter({room: others for room, others in inner.items() if room.count(".") == 2}).prepare()
