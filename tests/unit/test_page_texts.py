"""No block of a page stands untested, and every link leads somewhere."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from support.pages import (
    AUTHORS,
    BACKUP,
    BESIDE,
    DOCS,
    NATS,
    OPERATORS,
    PAGES,
    README,
    anchors,
    blocks,
    examples,
    files,
    is_code,
    links,
    prose,
)
from support.paths import SOURCE_ROOT, TOP

CLAIMED = re.compile(
    r"diracx-task-run |scripts/|\.ci/run$|pip install |python3 -m venv \.venv$|\. \.venv/bin/activate$"
    r"|pytest$|export DIRACX_DB_URL|python -m diracx\.db |nats pub |eval "
    r"|nats server report jetstream$"
)
"""The commands that `process/test_pages.py` and `process/test_questions.py` type or parse."""
TYPED_BESIDE_DIRACX = re.compile(
    r"(uv )?pip |echo |export |\.\./diracx-tasks/scripts/diracx-own-tasks |diracx-task-run tasks$"
)
"""The commands of that page. `scripts/interop` types all of them, in order, in an installation of DiracX."""


def test_no_block_of_a_page_stands_untested() -> None:
    # `process/operations/test_backup.py` types all of that page.
    for block in blocks(*(page for page in PAGES if page not in (NATS, BACKUP))):
        match block.language:
            case "console":
                assert block.commands, block
                claimed = TYPED_BESIDE_DIRACX if block.page == BESIDE else CLAIMED
                assert not [command for command in block.commands if not claimed.match(command)], block
            case "python":
                assert block.text in files(block.page).values() or block in examples(), block
            case "toml":
                assert block.page in (README, AUTHORS), block
                assert block.text in files(block.page).values(), block
            case "yaml":
                assert block.text in files(block.page).values(), block
            case "mermaid":
                assert re.match(r"(flowchart LR|sequenceDiagram|stateDiagram-v2)\n", block.text), block
            case "layers":
                assert block.page == DOCS / "architecture.md", block  # read by test_layering.py
            case _:
                pytest.fail(f"no test has claimed {block}")
    assert {block.language for block in blocks(NATS, BACKUP)} == {"console"}


@pytest.mark.parametrize("page", [page for page in PAGES if page != NATS], ids=str)
def test_no_block_is_merely_indented(page: Path) -> None:
    assert not re.findall(r"\n\n {4,}\S.*", prose(page))


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(TOP)} -> {target}#{anchor}"
        for page, target, anchor in links()
        if not is_code(target) and not (target.exists() and (not anchor or anchor in anchors(target)))
    ]
    assert not broken


def test_every_link_to_the_source_leads_to_a_file() -> None:
    broken = {str(target.relative_to(TOP)) for _, target, _ in links() if is_code(target) and not target.is_file()}
    assert not broken


def test_every_test_that_a_page_names_exists() -> None:
    tests = {name for path in TOP.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", prose(page))}
    assert not named - tests


def test_every_line_of_the_log_that_operators_look_for_is_one_of_the_source() -> None:
    table = prose(OPERATORS).partition("\n## Lines of the log\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.M)
    lines = [line for cell in cells for line in re.findall(r"`([^`]+)`", cell)]
    assert len(lines) >= 10
    texts = "\n".join(
        node.value
        for path in (SOURCE_ROOT / "diracx").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    parts = [part.strip() for line in lines for part in line.split("...")]
    assert not [part for part in parts if part not in texts]


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text().splitlines()) <= 190
    reached, left = {README}, [README]
    while left:
        here = left.pop()
        new = {target for page, target, _ in links() if page == here and target.suffix == ".md"} - reached
        reached |= new
        left += new
    assert not set(PAGES) - reached


def test_the_workflow_runs_what_must_pass_on_every_python_that_is_promised() -> None:
    (job,) = yaml.safe_load((TOP / ".github" / "workflows" / "ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    classifiers = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = [each.rpartition(" ")[2] for each in classifiers if re.search(r":: 3\.\d+$", each)]
    assert job["strategy"]["matrix"]["python"] == promised


def test_the_changelog_promises_the_json_of_each_command_once() -> None:
    text = (DOCS / "CHANGELOG.md").read_text("utf-8")
    promised = text.partition("- the fields of `--json`:")[2].partition("- exit codes.")[0]
    commands = re.findall(r"`([a-z ]+)`(?: \(and one of them, `[a-z ]+`\))? `[\[{]", promised)
    assert "status" in commands
    assert sorted(set(commands)) == sorted(commands)
