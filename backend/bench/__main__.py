"""``make bench``: run the cases, print their tables, put them into docs/benchmarks.md; exit 1 if a target is missed."""

import argparse
import os
import sys
from collections.abc import Callable

from bench import cache, clients, overhead, plan, quota, room, start, topics, tracing
from bench.report import Row, merge, table

CASES: dict[str, tuple[str, str, Callable[[bool], list[Row]]]] = {
    "overhead": (overhead.TITLE, overhead.WHY, overhead.run),
    "tracing": (tracing.TITLE, tracing.WHY, tracing.run),
    "quota": (quota.TITLE, quota.WHY, quota.run),
    "quota-learn": (quota.TITLE_LEARN, quota.WHY_LEARN, quota.run_learn),
    "quota-cost": (quota.TITLE_COST, quota.WHY_COST, quota.run_cost),
    "plan": (plan.TITLE, plan.WHY, plan.run),
    "room": (room.TITLE, room.WHY, room.run),
    "room-waiters": (room.TITLE_WAITERS, room.WHY_WAITERS, room.run_waiters),
    "cache": (cache.TITLE, cache.WHY, cache.run),
    "start": (start.TITLE, start.WHY, start.run),
    "topics": (topics.TITLE, topics.WHY, topics.run),
    "clients": (clients.TITLE, clients.WHY, clients.run),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(CASES), help="one case; may be repeated")
    parser.add_argument("--quick", action="store_true", help="shorter, and not written into the document")
    options = parser.parse_args()
    missed = 0
    for name, (title, why, run) in CASES.items():
        if options.only and name not in options.only:
            continue
        print(f"{title} ...", file=sys.stderr, flush=True)
        rows = run(options.quick)
        print(f"\n## {title}\n{table(rows)}\n", flush=True)
        if not options.quick:
            nice = f" at nice {os.nice(0)}" if os.nice(0) else ""  # on a machine that others use too
            merge(name, title, why, f"make bench ONLY={name}{nice}", rows)
        missed += sum(row.met is False for row in rows)
    print(f"{missed} targets missed" if missed else "every target met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
