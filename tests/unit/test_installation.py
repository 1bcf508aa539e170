"""This distribution beside DiracX's own one of the same name, and without some of its files."""

from __future__ import annotations

import json
import logging
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from diracx.tasks import cli, installation
from diracx.tasks.cli.exit_codes import ExitCode
from diracx.tasks.installation import incomplete_installation, mixed_installation, report_mixed_installation
from support.distributions import install_metadata

OURS = {"console_scripts": {"diracx-task-run": "diracx.tasks.cli:main"}}
THEIRS = {"console_scripts": {"diracx-tasks": "diracx.tasks.task_run:main"}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole path, in place of the environment of the tests."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(installation, "_FOLDER", tmp_path / "diracx" / "tasks")
    return tmp_path


def install(site: Path, number: str, ours: bool = True) -> Path:
    return install_metadata(site, "diracx-tasks", OURS if ours else THEIRS, version=number, folder_name="diracx_tasks")


def test_the_environment_of_these_tests_is_neither_mixed_nor_incomplete() -> None:
    assert mixed_installation() is None
    assert incomplete_installation() is None


def test_the_version_sorts_above_the_one_that_it_replaces_and_says_which_it_is() -> None:
    assert version("diracx-tasks").partition("+") == ("0.7.0", "+", "nats.1")


def test_both_distributions_are_named_with_versions_places_and_the_commands_to_run(site: Path) -> None:
    install(site, "0.7.0+nats.1")
    install(site, "0.7.0", ours=False)
    problem = mixed_installation()
    assert problem is not None
    assert "\n" not in problem
    assert problem.startswith("diracx-tasks is installed more than once: ")
    assert f"0.7.0+nats.1 (this one) in {site}" in problem
    assert f"0.7.0 (the one of DiracX) in {site}" in problem
    assert f"`{sys.executable} -m pip uninstall --yes diracx-tasks` until it finds none" in problem
    assert f"`{sys.executable} -m pip install diracx-tasks==0.7.0+nats.1`" in problem


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file:///opt/diracx-tasks", "dir_info": {}}, "file:///opt/diracx-tasks"),
        ({"url": "file:///my tasks", "dir_info": {"editable": True}}, "--editable 'file:///my tasks'"),
    ],
)
def test_what_was_installed_is_installed_again_from_where_it_came_by_the_installer_that_did_it(
    site: Path, origin: dict[str, object], source: str
) -> None:
    information = install(site, "0.7.0+nats.1")
    (information / "direct_url.json").write_text(json.dumps(origin))
    (information / "INSTALLER").write_text("uv\n")
    install(site, "0.7.0", ours=False)
    problem = mixed_installation() or ""
    assert f"`uv pip uninstall --python {sys.executable} diracx-tasks`" in problem
    assert f"`uv pip install --python {sys.executable} {source}`" in problem


def test_one_distribution_that_the_path_leads_to_twice_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site / "lib", "0.7.0+nats.1")
    (site / "lib64").symlink_to("lib")
    monkeypatch.setattr(sys, "path", [str(site / "lib"), str(site / "lib64"), str(site / "lib")])
    assert mixed_installation() is None


def test_one_distribution_in_two_folders_of_the_path_is_told(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site / "one", "0.7.0+nats.1")
    install(site / "two", "0.7.0+nats.1")
    monkeypatch.setattr(sys, "path", [str(site / "one"), str(site / "two")])
    problem = mixed_installation() or ""
    assert f"{site}/one and 0.7.0+nats.1 (this one) in {site}/two" in problem


def test_a_folder_that_an_uninstallation_left_empty_is_no_distribution(site: Path) -> None:
    install(site, "0.7.0+nats.1")
    (site / "diracx_tasks-0.7.0.dist-info").mkdir()
    assert mixed_installation() is None


def test_other_distributions_with_packages_of_this_namespace_are_no_mixture(site: Path) -> None:
    install(site, "0.7.0+nats.1")
    install_metadata(site, "diracx-tasks-jobs", {"diracx.tasks.jobs": {"Job": "diracx.tasks.jobs:Job"}})
    (site / "diracx" / "tasks" / "jobs").mkdir(parents=True)
    assert mixed_installation() is None


def test_source_on_the_path_with_the_metadata_of_diracx_alone_is_told(site: Path) -> None:
    install(site, "0.7.0", ours=False)
    problem = mixed_installation() or ""
    assert f"0.7.0 (the one of DiracX) in {site} and this one without metadata in {site}/diracx/tasks; " in problem
    assert problem.count("pip install PATH_OR_URL`") == 1


def test_source_on_the_path_without_any_metadata_is_no_mixture(site: Path) -> None:
    assert mixed_installation() is None


def test_files_of_diracx_that_were_copied_over_ours_are_told(site: Path) -> None:
    install(site, "0.7.0+nats.1")
    (site / "diracx" / "tasks").mkdir(parents=True)
    (site / "diracx" / "tasks" / "task_run.py").touch()
    assert f"and files of DiracX's own in {site}/diracx/tasks; " in (mixed_installation() or "")


def test_a_mixture_is_one_line_of_the_log(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    report_mixed_installation()
    assert not caplog.records
    install(site, "0.7.0+nats.1")
    install(site, "0.7.0", ours=False)
    report_mixed_installation()
    assert caplog.record_tuples == [("diracx.tasks.installation", logging.ERROR, mixed_installation())]


def test_missing_and_replaced_files_are_counted_and_one_is_named(site: Path) -> None:
    information = install(site, "0.7.0+nats.1")
    for name, size in (("whole.py", 3), ("replaced.py", 3)):
        (site / name).write_bytes(b"x" * size)
    record = "whole.py,sha256=1,3\n{}diracx_tasks-0.7.0+nats.1.dist-info/RECORD,,\n"
    (information / "RECORD").write_text(record.format(""))
    assert incomplete_installation() is None
    (information / "RECORD").write_text(record.format("replaced.py,sha256=2,4\nmissing.py,sha256=3,5\n"))
    problem = incomplete_installation() or ""
    assert problem.startswith(
        f"0.7.0+nats.1 (this one) in {site} is incomplete: 2 of its files are missing or were replaced, "
        "such as replaced.py; run `"
    )


def test_a_command_line_that_cannot_be_imported_tells_why(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (install(site, "0.7.0+nats.1") / "RECORD").write_text("diracx/tasks/cli/app.py,sha256=3,5\n")
    monkeypatch.setitem(sys.modules, "diracx.tasks.cli.app", None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == ExitCode.BUG
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {incomplete_installation()}; ModuleNotFoundError: ")


def test_a_command_line_that_cannot_be_imported_from_a_whole_installation_shows_the_error(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "0.7.0+nats.1")
    monkeypatch.setitem(sys.modules, "diracx.tasks.cli.app", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main()
