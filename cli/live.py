"""How a sweep goes, on a terminal as a table that moves, elsewhere as lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from ..studio.sweep import STATES, Run, Sweep

_SECONDS = 0.25  # between two drawings


class Lines:
    """A line on stderr for each run that ends, and for what is worth a word."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def changed(self, sweep: Sweep, run: Run | None, note: str) -> None:
        """Says it."""
        if note:
            print(note, file=sys.stderr, flush=True)
        elif run is not None and run.state == "done":
            print(f"{_count(sweep)}: {run.subject}, {run.name}, seed {run.seed}{self._left(sweep)}", file=sys.stderr,
                  flush=True)  # fmt: skip

    def _left(self, sweep: Sweep) -> str:
        counts = sweep.counts
        done, left = counts["done"], counts["waiting"] + counts["sent"]
        if not done or not left:
            return ""
        return f"; about {_time((time.monotonic() - self._began) / done * left)} left"


class Table(Lines):
    """A table that is drawn again as things change, by rich."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=False)
        self._notes: deque[str] = deque(maxlen=6)
        self._drawn_at = 0.0

    def __enter__(self) -> Table:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def changed(self, sweep: Sweep, run: Run | None, note: str) -> None:
        """Draws it."""
        if note:
            self._notes.append(note)
        elif run is not None and run.state == "done":
            self._notes.append(f"{run.subject}, {run.name}, seed {run.seed}")
        if note or time.monotonic() - self._drawn_at > _SECONDS or not sweep.counts["waiting"] + sweep.counts["sent"]:
            self._drawn_at = time.monotonic()
            self._live.update(self._drawn(sweep))

    def _drawn(self, sweep: Sweep) -> Any:
        from rich.console import Group
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(title=f"{_count(sweep)}{self._left(sweep)}", title_justify="left")
        drawn.add_column("method")
        for state in STATES:
            drawn.add_column(state, justify="right")
        for name, counts in list(sweep.by_name.items())[:20]:
            drawn.add_row(name, *(str(counts[state]) for state in STATES))
        return Group(drawn, *(Text(note, overflow="ellipsis", no_wrap=True) for note in self._notes))


def watcher() -> Lines:
    """A table where someone looks and rich is installed, lines elsewhere."""
    if sys.stderr.isatty():
        try:
            return Table()
        except ImportError:
            pass
    return Lines()


def _count(sweep: Sweep) -> str:
    counts = sweep.counts
    return f"{counts['done'] + counts['stored']} of {len(sweep.runs)} runs"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
