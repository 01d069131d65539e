"""The work of a sweep in a bare loop: prepare, train, paint, score, write. What a sweep is timed beside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...studio import work
from ...studio.plan import read_plan
from ...studio.sets import find_subjects
from ...studio.sweep import parcel_of


def main(argv: Sequence[str]) -> int:
    """PLAN.yaml FOLDER PART PARTS: every PARTS-th subject from PART on, all of its runs in one batch."""
    plan, out, part, parts = read_plan(Path(argv[0])), Path(argv[1]), int(argv[2]), int(argv[3])
    stamps = work.stamps_of(plan)
    for folder in find_subjects(Path(plan.subjects), plan.prompts)[part::parts]:
        parcel = asdict(parcel_of(folder, plan, stamps))
        prepared = work.prepare(plan.as_dict(), stamps, parcel)["files"][work.PREPARED]
        runs = [{"key": f"{folder.name}-{method}-{seed}", "subject": 0, "method": method,
                 "settings": plan.training(method, variant, seed).card()}
                for method, variant, seed in plan.runs_of_a_subject()]  # fmt: skip
        for i in range(0, len(runs), plan.together):
            for found in work.perform(plan.as_dict(), stamps, [parcel], [prepared], runs[i : i + plan.together]):
                if "error" in found:
                    raise SystemExit(found["error"])
                (out / found["key"]).mkdir(parents=True)
                for name, data in found["files"].items():
                    (out / found["key"] / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
