"""The examples of a how-to, run as they are in curl, Python and JavaScript."""

import re
import subprocess
import sys

from tasks.edges.settings import ROOT, build_child_environment

_PROGRAMS = {
    "bash": ["bash", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}


def list_blocks(*pages: str) -> list[tuple[str, str]]:
    """(language, text) of each example of *pages*, by name without ending."""
    text = "".join((ROOT / f"docs/how-to/{page}.md").read_text() for page in pages)
    blocks = re.findall(r"^```(bash|python|javascript)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, block) for language, block in blocks]


def run_block(language: str, text: str, key: str) -> subprocess.CompletedProcess:
    """*text* at its end, without an error."""
    done = subprocess.run(
        [*_PROGRAMS[language], text],
        cwd=ROOT,
        env=build_child_environment(TIDEMILL_KEY=key),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done
