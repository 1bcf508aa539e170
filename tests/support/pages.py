"""The pages, taken apart: blocks, commands, files that they show, links."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from support.paths import TOP

DOCS = TOP / "diracx_tasks" / "docs"
README, AUTHORS, OPERATORS = TOP / "README.md", DOCS / "authors.md", DOCS / "operators.md"
NATS = TOP / "nats" / "README.md"
BESIDE = DOCS / "beside-diracx.md"
BACKUP = DOCS / "backup.md"
PAGES = [
    README,
    NATS,
    TOP / "tests" / "README.md",
    *sorted(DOCS.rglob("*.md")),
    *sorted((TOP / ".github").glob("*.md")),
]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@dataclasses.dataclass(frozen=True)
class Block:
    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(TOP)}: {self.language} {self.text.splitlines()[0]!r}"

    @property
    def commands(self) -> list[str]:
        return re.findall(r"^\$ (.*)$", self.text, re.M)


def blocks(*pages: Path) -> list[Block]:
    return [Block(page, *found) for page in pages for found in BLOCK.findall(page.read_text("utf-8"))]


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text("utf-8"))


def files(page: Path) -> dict[str, str]:
    """A paragraph that begins with a path in backticks, and the block after it."""
    return dict(re.findall(r"^`([\w/]+\.\w+)`(?:(?!```).)*?^```\w+\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S))


def commands(page: Path, program: str) -> list[list[str]]:
    typed = [shlex.split(command) for block in blocks(page) for command in block.commands]
    return [words[1:] for words in typed if words[0] == program]


def examples() -> list[Block]:
    """Python that stands for itself."""
    return [each for each in blocks(*PAGES) if each.language == "python" and each.text not in files(each.page).values()]


def links() -> Iterator[tuple[Path, Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if "://" not in target:
                path, _, anchor = target.partition("#")
                yield page, (page.parent / path).resolve() if path else page, anchor


def is_code(path: Path) -> bool:
    return path.suffix == ".py"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
