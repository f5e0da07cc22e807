"""The exit codes of every command, in one table; docs/reference/cli.md has the same."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. MEANINGS has a sentence for each."""

    OK = 0
    PROBLEM = 1
    ERROR = 2
    NO_FORECAST = 3
    INTERRUPTED = 130  # as shells have it


MEANINGS = {
    ExitCode.OK: "done; what was checked is well",
    ExitCode.PROBLEM: (
        "what was checked is not well (`doctor`, `check`, `leaks`, `alerts test`, `audit verify`); with a"
        " traceback: a fault of Tidemill"
    ),
    ExitCode.ERROR: "an error that you can fix; its line has the thing, the fact, the rule and the next step",
    ExitCode.NO_FORECAST: "`forecast` could forecast none of the series; each has its reason",
    ExitCode.INTERRUPTED: "ended by Ctrl-C",
}
