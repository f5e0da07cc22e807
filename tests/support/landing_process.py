"""A landing in a process of its own, which a test may end at a named point: `python landing_process.py ADDRESS TOPIC FOLDER [POINT N]`.

With a point it ends without a word, as by kill -9, the N-th time it reaches it. Without `--ever` it ends when all that was there has landed.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.edges import delta
from tasks.edges.kafka import KafkaFeed
from tasks.feed.land import Landing, drain, open_table
from tasks.feed.params import FeedParams

REACHED: Counter[str] = Counter()


def main() -> None:
    address, topic, folder = sys.argv[1:4]
    ever = "--ever" in sys.argv
    given = [a for a in sys.argv[4:] if not a.startswith("--")]
    point, nth = (given[0], int(given[1])) if given else ("", 0)
    trace = Path(folder).parent / "points.txt"

    def durable(name: str) -> None:
        REACHED[name] += 1
        if not point:
            with trace.open("a") as file:
                file.write(f"{name}\n")
        if name == point and REACHED[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    delta.durable = durable
    params = FeedParams(
        source={"kind": "kafka", "topic": topic},
        fields={"price": {}, "seq": {}},
        commit_rows=500 if not ever else 5_000,
        commit_every_s=0.1,
        lateness_s=1e9,
        keep_h=1,
    )
    table = open_table(Path(folder), params)
    group = next((a.removeprefix("--group=") for a in sys.argv if a.startswith("--group=")), "0")
    feed = KafkaFeed(address, topic, f"g-{topic}-{group}", options={"session.timeout.ms": "6000"})
    landing = Landing(table, params, None, feed)
    n_commits = 0

    def turn(landed) -> None:
        nonlocal n_commits
        n_commits += landed is not None
        if landed is not None and n_commits % 4 == 0 and "--tidy" in sys.argv:
            delta.open_for_reading(Path(folder)).tidy()

    drain(landing, feed, until_drained=not ever, turn=turn)
    feed.close()


main()
