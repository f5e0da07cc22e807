"""A landing in a process of its own, which a test may end at a named point: `python
landing_process.py ADDRESS TOPIC FOLDER [POINT N] [--...]`.

With a point it ends without a word, as by kill -9, the N-th time it reaches it; 0: it writes the
points that it reaches beside FOLDER. --freeze: it stops there instead, as by SIGSTOP. --ever: it
goes on when all that was there has landed. --tidy: each fourth commit is followed by a look for
closed windows and by a merge. --keep: hours for which `--tidy` keeps files that no version has; 0
only where nobody else reads or writes. --group, --member, --every: another group, member number,
number of rows a commit. --session: of the member, in ms.

Without arguments it has imported everything and waits: each line on stdin (arguments as JSON)
becomes a process, whose exit status is printed.
"""

import json
import os
import signal
import sys
from argparse import ArgumentParser
from collections import Counter
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.core.errors import TidemillError
from tasks.edges import files as disk
from tasks.edges.delta import compact_table, open_existing_table
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.feed import window
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams


def main(arguments: list[str]) -> None:
    parser = ArgumentParser()
    for name in ("address", "topic", "folder"):
        parser.add_argument(name)
    parser.add_argument("point", nargs="?", default="")
    parser.add_argument("nth", nargs="?", type=int, default=0)
    for name in ("--ever", "--tidy", "--freeze"):
        parser.add_argument(name, action="store_true")
    for name, default in (
        ("--keep", "24"),
        ("--group", "0"),
        ("--member", "0"),
        ("--every", "500"),
        ("--session", "6000"),
    ):
        parser.add_argument(name, default=default)
    given = parser.parse_args(arguments)
    folder, reached, n_commits = Path(given.folder), Counter(), 0

    def durable(name: str) -> None:
        reached[name] += 1
        if not given.nth:
            with (folder.parent / "points.txt").open("a") as file:
                file.write(f"{name}\n")
        elif name == given.point and reached[name] == given.nth:
            os.kill(os.getpid(), signal.SIGSTOP if given.freeze else signal.SIGKILL)

    disk.run_durability_hook = durable
    params = FeedParams(
        # Marks alone must do
        source={"kind": "kafka", "topic": given.topic},
        fields={"price": {}, "seq": {}},
        commit_rows=int(given.every),
        commit_every_s=0.1,
        dedupe=False,
        keep_h=1,
    )
    table = open_table(folder, params)
    options = {"session.timeout.ms": given.session, "heartbeat.interval.ms": "500"}
    feed = KafkaFeed(
        given.address,
        given.topic,
        f"g-{given.topic}-{given.group}",
        given.member,
        options,
        partial(print, "away:", file=sys.stderr),
    )
    landing = LandingBuffer(table, params, None, feed)
    landing.on_refused = lambda why: print(f"refused: {why}", file=sys.stderr, flush=True)

    def on_poll(landed) -> None:
        nonlocal n_commits
        n_commits += landed is not None
        if landed is not None and n_commits % 4 == 0 and given.tidy:
            if (closed := window.build_window(table, "1h", 1e9, None)) is not None:
                window.write_window(folder.parent, closed)
            compact_table(open_existing_table(folder), keep_h=int(given.keep))

    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    run_landing(landing, feed, until_caught_up=not given.ever, stop=lambda: bool(stopped), on_poll=on_poll)
    feed.close()


def wait_for_orders() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            main(json.loads(line))
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:]) if len(sys.argv) > 1 else wait_for_orders()
    except TidemillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
