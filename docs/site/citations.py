"""docs/cite.md, written from `Method.paper` and CITATION.cff.

python docs/site/citations.py      # writes docs/cite.md
"""

import inspect
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import yaml

import ebmzoo.methods
import ebmzoo.methods.baselines
from ebmzoo.methods import Method, Paper

DOCS = Path(__file__).resolve().parent.parent
PAGE = DOCS / "cite.md"
JOURNALS = ("IEEE TPAMI",)
HEAD = """# Cite

If you use this software, please cite it, and the paper of each method that you run. This page is written by
`python docs/site/citations.py` from `CITATION.cff` and from the attribute `paper` of each method, which
`print(type(method).paper)` shows too.
"""


def methods() -> Iterator[type[Method]]:
    """The public methods that have a paper, the baselines last."""
    for package in (ebmzoo.methods, ebmzoo.methods.baselines):
        for name in sorted(package.__all__, key=str.lower):
            found = getattr(package, name)
            if inspect.isclass(found) and issubclass(found, Method) and not inspect.isabstract(found) and found.paper:
                yield found


def key(paper: Paper) -> str:
    """The first author's surname, the year, and the first word of the title of four letters or more."""
    surname = "anonymous" if paper.authors.startswith("Anonymous") else paper.authors.split(", ")[0].split()[-1]
    word = next(word for word in re.findall(r"\w+", paper.title) if len(word) > 3)
    plain = unicodedata.normalize("NFKD", f"{surname}{paper.year}{word}").encode("ascii", "ignore").decode()
    return plain.lower()


def bibtex(paper: Paper) -> str:
    """The entry of a paper, which BibTeX with UTF-8 reads."""
    if paper.venue in JOURNALS:
        kind, where = "article", {"journal": paper.venue}
    elif paper.venue == "Preprint" or "review" in paper.venue:
        kind, where = "misc", {"note": paper.venue}
    else:
        kind, where = "inproceedings", {"booktitle": paper.venue}
    fields = {
        "title": f"{{{paper.title}}}",
        "author": " and ".join(paper.authors.split(", "))
        if "Anonymous" not in paper.authors
        else "{Anonymous authors}",
        **where,
        "year": str(paper.year),
    }
    if paper.arxiv:
        fields |= {"eprint": paper.arxiv, "archivePrefix": "arXiv"}
    return entry(kind, key(paper), fields)


def entry(kind: str, label: str, fields: dict[str, str]) -> str:
    width = max(map(len, fields))
    lines = [f"  {name:{width}} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{label},", *lines, "}"])


def project() -> str:
    about = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text(encoding="utf-8"))
    fields = {
        "title": f"{{{about['title']}}}",
        "author": " and ".join(f"{{{author['name']}}}" for author in about["authors"]),
        "version": str(about["version"]),
        "note": f"Software, {about['license']}",
    }
    return entry("software", "ebmzoo", fields)


def page() -> str:
    parts = [HEAD, f"## This project\n\n```bibtex\n{project()}\n```\n"]
    entries: dict[str, list[str]] = {}
    for method in methods():
        entries.setdefault(bibtex(method.paper), []).append(method.__name__)
    parts.append("## The papers of the methods\n")
    parts += [
        f"{', '.join(f'`{name}`' for name in names)}:\n\n```bibtex\n{text}\n```\n" for text, names in entries.items()
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
