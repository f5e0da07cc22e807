"""What people expect of a command line: version, -h, completion, log level, colors, codes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.cli.exit_codes import MEANINGS, ExitCode
from tasks.edges.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
COLOR = r"\x1b\[[0-9;]*\b3[0-9]"
WIDE = {"COLUMNS": "200", "TERM": "dumb"}


def list_commands(command=None, path=()):
    """Every command with its words, groups and their commands too."""
    command = command or get_command(app)
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from list_commands(child, (*path, name))


def run_cli(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_that_of_the_project():
    declared = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[1]
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"tidemill {declared}\n")


@pytest.mark.parametrize("path", [" ".join(path) for path in list_commands()])
def test_h_is_help_on_every_command(path):
    short, long = (CliRunner().invoke(app, [*path.split(), option], env=WIDE) for option in ("-h", "--help"))
    assert (short.exit_code, short.output) == (0, long.output)
    assert "Usage:" in short.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell):
    complete = {"_TIDEMILL_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "tidemill for"}
    complete |= {"COMP_WORDS": "tidemill for", "COMP_CWORD": "1", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("tidemill"))],
        env={"PATH": "/usr/bin:/bin", **complete},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "forecast" in done.stdout


def test_an_unknown_command_and_option_end_with_2():
    assert run_cli("no-such-command").returncode == ExitCode.ERROR
    assert run_cli("status", "--no-such-option").returncode == ExitCode.ERROR


@pytest.mark.parametrize(
    ("level", "is_shown"), [("debug", True), ("info", True), ("warning", False), ("error", False)]
)
def test_the_log_level_leaves_progress_out_and_keeps_results(level, is_shown, tmp_path):
    home = {"TIDEMILL_HOME": str(tmp_path)}
    by_option = run_cli("--log-level", level, "down", "--json", **home)
    by_variable = run_cli("down", "--json", TIDEMILL_LOG_LEVEL=level, **home)
    for done in (by_option, by_variable):
        assert done.returncode == 0
        assert ("Nothing is up." in done.stderr) is is_shown
        assert '"stopped": []' in done.stdout


def test_a_variable_that_cannot_be_is_named(tmp_path):
    done = run_cli("status", TIDEMILL_LOG_LEVEL="loud", TIDEMILL_HOME=str(tmp_path))
    assert done.returncode == ExitCode.ERROR
    assert "TIDEMILL_LOG_LEVEL is 'loud'" in done.stderr


@pytest.mark.parametrize("off", [("--no-color",), ()])
def test_no_color_is_printed_when_it_is_not_wanted(off):
    colors = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert re.search(COLOR, run_cli("--help", **colors).stdout)
    environment = colors if off else colors | {"NO_COLOR": "1"}
    done = run_cli(*off, "--help", **environment)
    assert not re.search(COLOR, done.stdout)


def test_the_table_of_exit_codes_is_that_of_the_code():
    text = (ROOT / "docs/reference/cli.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", text, flags=re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == MEANINGS
    assert list(MEANINGS) == list(ExitCode)


def test_no_command_ends_with_a_code_that_is_not_in_the_table():
    for path in (ROOT / "deployments/cli").glob("*.py"):
        assert not re.findall(r"typer\.Exit\(\d", path.read_text()), path


def test_the_settings_of_a_process_are_read_again_after_a_change_of_the_level(monkeypatch):
    from tasks.edges.settings import apply_log_level

    monkeypatch.setenv("TIDEMILL_LOG_LEVEL", "info")
    read_settings.cache_clear()
    assert read_settings().log_level == "info"
    apply_log_level("error")
    assert read_settings().log_level == "error"
    monkeypatch.undo()
    read_settings.cache_clear()
