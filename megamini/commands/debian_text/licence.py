"""A short licence name out of a package's copyright file."""

import re


def licence_of(copyright_file: str, package: str) -> str:
    """Debian's short names (GPL-2+, MPL-2.0) for the licence of the first stanza, which is that of most files."""
    # The machine-readable form (copyright-format/1.0): stanzas of files, each with the licence's short name.
    stanzas = re.findall(r"^Files:(.*(?:\n(?!\n).*)*)", copyright_file, re.MULTILINE)
    names = [match[1].strip() for stanza in stanzas if (match := re.search(r"\nLicense: *(\S.*)", stanza))]
    names = list(dict.fromkeys(names))
    if names:
        others = ", some files under others: see its copyright file" if names[1:] else ""
        return f"{names[0]} ({package}{others})"
    version = re.search(r"GNU (?:GPL|General Public License),? version (\d)", " ".join(copyright_file.split()))
    return f"GPL-{version[1]} ({package})" if version else f"see the copyright file of {package}"
