"""Judges the runs of `experiments.silent_bugs`: which public bugs were found, when, as what; and the false alarms.

    python -m analysis.silent_bugs runs/silent_bugs && python docs/generate.py

Exits with 1 unless every bug was told within one iteration, the true cause first in 80 % and among the first two in
95 %, and nothing was told of the clean runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from analysis.reporting import asked, verdict
from neuromech.record import read

OUT_OF_REACH = {
    "transformers#17877, #23723, #33844, #34204": "inference, tokenizer, data",
    "pytorch#51800, deepspeed#5794": "initialisation, a hang",
    "stackoverflow 67180955": "data",
    "forum 84911": "frozen from the start: no difference from intent",
    "lightning-thunder#725": "the dtype under autocast: not re-enacted",
    "pytorch#104336, x/jxmnop": "ranks that drift: the same trace as pytorch#84803, not re-enacted apart",
}


PUBLISHED = Path(__file__).parent.parent / "docs" / "scores"


def publish(bugs: pd.DataFrame, clean: pd.DataFrame) -> None:
    """What `docs/generate.py` makes a page of; a run with fewer clean runs than are published there leaves it alone."""
    PUBLISHED.mkdir(exist_ok=True)
    counted = PUBLISHED / "clean_runs.csv"
    if counted.exists() and len(clean) < (known := int(pd.read_csv(counted)["runs"].sum())):
        print(f"not published: {len(clean)} clean runs, and {PUBLISHED} tells of {known}")
        return
    bugs[["bug", "source", "cause", "delay", "rank"]].to_csv(PUBLISHED / "silent_bugs.csv", index=False)
    by_kind = clean.groupby("kind").agg(runs=("steps", "size"), steps=("steps", "sum"), alarms=("alarms", "sum"))
    by_kind.to_csv(counted)


def main() -> int:
    run = read(asked(__doc__)[0])
    bugs, clean = run.frame("bugs"), run.frame("clean")
    print(bugs[["bug", "source", "cause", "delay", "rank"]].to_string(index=False))
    for source, why in OUT_OF_REACH.items():
        print(f"not tried: {source}: {why}")
    told, blind = clean[clean["alarms"] > 0], clean[(clean["steps"] == 0) | (clean["unwatched"].fillna("") != "")]
    for row in told.itertuples():
        print(f"false alarm: {row.kind} {row.run}, seed {row.seed}: {row.told}")
    for row in blind.itertuples():
        print(f"not watched: {row.kind} {row.run}, seed {row.seed}: {row.unwatched}")
    print(clean.groupby("kind")[["steps", "alarms"]].agg(["size", "sum"]).to_string())
    caught = bugs["delay"].between(0, 1).mean()
    first, second = (bugs["rank"] == 1).mean(), bugs["rank"].between(1, 2).mean()
    said = (
        f"{len(bugs)} bugs: {caught:.0%} told within one iteration, the true cause first in {first:.0%}, among the "
        f"first two in {second:.0%}; {len(told)} of {len(clean)} clean runs ({int(clean['steps'].sum())} steps) with "
        f"an alarm, {len(blind)} not watched"
    )
    publish(bugs, clean)
    good = caught == 1 and first >= 0.8 and second >= 0.95 and not len(told) and not len(blind)
    return verdict(good, "the score is kept", "THE SCORE IS MISSED", said)


if __name__ == "__main__":
    sys.exit(main())
