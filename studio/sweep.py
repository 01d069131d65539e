"""A sweep: hands the runs of a plan to workers, and keeps each result as it comes, so that nothing is done twice.

The driver alone reads photos and writes to the store. Which runs share a batch follows from the plan and from what the
store lacks, never from who was quick, so that any number of workers gives the same concepts bit for bit.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from ..attractor.errors import AttractorError
from ..training.photos import SUFFIXES
from ..training.rights import FILES as MANIFESTS
from ..training.rights import manifest_file
from .plan import MOST_RUNS, Plan, digest
from .sets import Folder, find_subjects
from .store import Store
from .work import PREPARED, Parcel, stamps_of

STATES = ("waiting", "sent", "done", "stored", "failed")
_KEY_FORMAT = 2  # counted up when what a result follows from is counted in another way


class Executor(Protocol):
    """Who does the work. slots: how many tasks at once. stamps: what results depend on beside the plan. next: a task's
    handle and result, which is Lost where nobody could finish it, or None when there is none yet.
    """

    slots: int

    def stamps(self, plan: Plan) -> dict[str, str]: ...
    def share(self, data: Any) -> Any: ...
    def submit(self, name: str, *arguments: Any) -> Any: ...
    def next(self) -> tuple[Any, Any] | None: ...
    def cancel(self) -> None: ...


@dataclass(frozen=True)
class Lost:
    """The result of a task whose worker died, more often than it is tried again."""

    reason: str


class InProcess:
    """All of it here, one after the other."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str, tuple]] = deque()
        self._count = 0

    def stamps(self, plan: Plan) -> dict[str, str]:
        """Of the files on this machine."""
        return stamps_of(plan)

    def share(self, data: Any) -> Any:
        """As it is."""
        return data

    def submit(self, name: str, *arguments: Any) -> int:
        """Remember it."""
        self._count += 1
        self._waiting.append((self._count, name, arguments))
        return self._count

    def next(self) -> tuple[int, Any]:
        """Do it."""
        from . import work

        handle, name, arguments = self._waiting.popleft()
        return handle, getattr(work, name)(*arguments)

    def cancel(self) -> None:
        """Forget what waits."""
        self._waiting.clear()


@dataclass(eq=False)
class Run:
    """One training of a subject, and what has become of it. record: of the store, once it is there."""

    subject: str
    method: str
    variant: dict[str, Any]
    seed: int
    key: str = ""
    state: str = "waiting"
    reason: str = ""
    record: dict | None = None

    @property
    def name(self) -> str:
        """Method and settings, which runs of different subjects share."""
        return " ".join([self.method, *(f"{k}={v}" for k, v in self.variant.items())])


class Watcher(Protocol):
    """Is told about everything that happens; whatever it raises ends the sweep."""

    def changed(self, sweep: Sweep, run: Run | None, note: str) -> None: ...


@dataclass
class _Subject:
    """A subject that has runs to be done. parcel, prepared: as the executor shares them. photos: their SHA-256."""

    parcel: Any
    key: str
    photos: list[str]
    left: list[Run]
    prepared: Any = None


@dataclass
class _Chunk:
    """Runs that share a batch."""

    runs: list[Run]
    settings: list[dict] = field(default_factory=list)


class Sweep:
    """The runs of a plan, in its order. counts: runs by state; by_name: by their names, too. most_at_once: tasks that
    were under way together.
    """

    def __init__(self, plan: Plan, store: Store, executor: Executor, watcher: Watcher | None = None):
        self.plan, self.store, self._executor, self._watcher = plan, store, executor, watcher
        self.folders = _some(find_subjects(Path(plan.subjects), plan.prompts), plan.limit)
        each = plan.runs_of_a_subject()
        if len(each) * len(self.folders) > MOST_RUNS:
            raise AttractorError(
                f"the plan asks for {len(each) * len(self.folders):,} runs; at most {MOST_RUNS:,} are taken. Make "
                "several plans of it, with the same store."
            )
        self.runs = [Run(folder.name, *one) for folder in self.folders for one in each]
        self.stamps = executor.stamps(plan)
        self.counts = Counter({"waiting": len(self.runs)})
        self.by_name = {name: Counter({"waiting": count}) for name, count in Counter(r.name for r in self.runs).items()}
        self.most_at_once = 0
        self._data = executor.share(plan.as_dict())
        self._subjects: dict[str, _Subject] = {}
        self._in_flight: dict[Any, _Chunk | str] = {}
        self._chunks: deque[_Chunk] = deque()
        self._open = _Chunk([])

    def run(self) -> None:
        """Do all that the store lacks.

        A run that fails is marked and the others go on. Raises AttractorError when the store cannot be written, and
        whatever the watcher raises; what is in the store then stays, and the next sweep goes on from it.
        """
        try:
            coming = self._read_subjects()
            more = True
            while more or self._in_flight or self._chunks:
                while more and len(self._in_flight) + len(self._chunks) < 2 * self._executor.slots:
                    more = next(coming, None) is not None
                    if not more and self._open.runs:
                        self._close()
                self._submit_chunks()
                if not self._in_flight:
                    continue
                working = sum(isinstance(one, _Chunk) for one in self._in_flight.values())
                self.most_at_once = max(self.most_at_once, min(working, self._executor.slots))
                came = self._executor.next()
                if came is None:
                    self._say(None, "")
                else:
                    self._take(*came)
        except BaseException:
            self._executor.cancel()
            raise

    def _read_subjects(self) -> Iterator[str]:
        """Open one subject after the other, and gather what it lacks in chunks."""
        each = len(self.plan.runs_of_a_subject())
        for i, folder in enumerate(self.folders):
            runs = self.runs[i * each : (i + 1) * each]
            if folder.wrong:
                self._failed(runs, folder.wrong)
                yield folder.name
                continue
            try:
                parcel = parcel_of(folder, self.plan, self.stamps)
            except OSError as error:
                self._failed(runs, f"{folder.name}: {error.filename} cannot be read ({error.strerror}).")
                yield folder.name
                continue
            missing = []
            for run in runs:
                settings = self.plan.training(run.method, run.variant, run.seed)
                run.key = digest({"subject": parcel.key, "settings": asdict(settings), "format": _KEY_FORMAT})
                run.record = self.store.record("runs", run.key)
                if run.record is None:
                    missing.append((run, settings.card()))
                else:
                    self._now(run, "stored")
            if missing:
                self._prepare(parcel, [run for run, _ in missing])
            for run, settings in missing:
                self._open.runs.append(run)
                self._open.settings.append(settings)
                if len(self._open.runs) == self.plan.together:
                    self._close()
            self._say(None, f"{folder.name}: {len(runs) - len(missing)} of {len(runs)} are there already"
                      if len(missing) < len(runs) else "")  # fmt: skip
            yield folder.name

    def _close(self) -> None:
        self._chunks.append(self._open)
        self._open = _Chunk([])

    def _prepare(self, parcel: Parcel, runs: list[Run]) -> None:
        subject = _Subject(self._executor.share(asdict(parcel)), parcel.key, parcel.photos, runs)
        self._subjects[parcel.name] = subject
        record = self.store.record("subjects", parcel.key)
        if record is not None:
            try:
                subject.prepared = self._executor.share(self.store.file(record, PREPARED))
                return
            except AttractorError as error:  # damaged: it is made again
                self._say(None, str(error))
        handle = self._executor.submit("prepare", self._data, self.stamps, subject.parcel)
        self._in_flight[handle] = parcel.name

    def _submit_chunks(self) -> None:
        """Those whose subjects are all prepared, or have failed."""
        for chunk in list(self._chunks):
            left = [i for i, run in enumerate(chunk.runs) if run.state != "failed"]
            names = list(dict.fromkeys(chunk.runs[i].subject for i in left))
            if any(self._subjects[name].prepared is None for name in names):  # those that failed are not among them
                continue
            self._chunks.remove(chunk)
            if left and not self._done_elsewhere([chunk.runs[i] for i in left]):
                self._submit(_Chunk([chunk.runs[i] for i in left], [chunk.settings[i] for i in left]), names)

    def _done_elsewhere(self, runs: Sequence[Run]) -> bool:
        """Whether another sweep has put all of them into the store by now; some alone would change the batch."""
        records = [self.store.record("runs", run.key) for run in runs]
        if not all(records):
            return False
        for run, record in zip(runs, records, strict=True):
            run.record = record
            self._now(run, "stored")
        return True

    def _submit(self, chunk: _Chunk, names: Sequence[str]) -> None:
        subjects = [self._subjects[name] for name in names]
        rows = [{"key": run.key, "subject": names.index(run.subject), "method": run.method, "settings": settings}
                for run, settings in zip(chunk.runs, chunk.settings, strict=True)]  # fmt: skip
        handle = self._executor.submit("perform", self._data, self.stamps, [s.parcel for s in subjects],
                                       [s.prepared for s in subjects], rows)  # fmt: skip
        self._in_flight[handle] = chunk
        for run in chunk.runs:
            self._now(run, "sent")
        self._say(chunk.runs[0], "")

    def _take(self, handle: Any, result: Any) -> None:
        what = self._in_flight.pop(handle)
        if isinstance(what, str):
            self._prepared(what, result)
        elif isinstance(result, Lost) and len(what.runs) > 1:  # one of them may have killed it: each alone
            for run, settings in zip(what.runs, what.settings, strict=True):
                self._submit(_Chunk([run], [settings]), [run.subject])
        elif isinstance(result, Lost):
            self._failed(what.runs, result.reason)
        else:
            for run, found in zip(what.runs, result, strict=True):
                self._finished(run, found)

    def _prepared(self, name: str, result: Any) -> None:
        subject = self._subjects[name]
        if isinstance(result, Lost) or "error" in result:
            reason = result.reason if isinstance(result, Lost) else result["error"]
            self._failed(list(subject.left), reason)
            return
        what = {"what": "a subject's split, masks and base pictures", "seconds": result["seconds"],
                "worker": result["worker"], "info": result["info"], "photos": subject.photos,
                "made": _time()}  # fmt: skip
        self.store.put("subjects", subject.key, result["files"], what)
        # as the store has it: where two sweeps prepared it at once, both go on with the same
        record = self.store.record("subjects", subject.key)
        data = self.store.file(record, PREPARED) if record else result["files"][PREPARED]
        subject.prepared = self._executor.share(data)

    def _finished(self, run: Run, found: dict) -> None:
        if "error" in found:
            self._failed([run], found["error"])
            return
        if self._done_elsewhere([run]):  # what is there is never written over
            self._say(run, "")
            return
        what = {"what": "a run", "subject": run.subject, "method": run.method, "variant": run.variant, "seed": run.seed,
                "seconds": found["seconds"], "parts": found["parts"], "worker": found["worker"],
                "subject_key": self._subjects[run.subject].key, "photos": self._subjects[run.subject].photos,
                "at_once": self.most_at_once, "made": _time()}  # fmt: skip
        run.record = self.store.put("runs", run.key, found["files"], what)
        self._now(run, "done")
        self._say(run, "")

    def _failed(self, runs: Sequence[Run], reason: str) -> None:
        for run in runs:
            run.reason = reason
            self._now(run, "failed")
        if runs:
            self._say(runs[0], f"{runs[0].subject}: {reason}")

    def _now(self, run: Run, state: str) -> None:
        """Counts it, and lets go of a subject with nothing left to do."""
        for counts in (self.counts, self.by_name[run.name]):
            counts[run.state] -= 1
            counts[state] += 1
        run.state = state
        subject = self._subjects.get(run.subject)
        if subject is not None and state in ("done", "stored", "failed") and run in subject.left:
            subject.left.remove(run)
            if not subject.left:
                del self._subjects[run.subject]

    def _say(self, run: Run | None, note: str) -> None:
        if self._watcher is not None:
            self._watcher.changed(self, run, note)


def _some(folders: list[Folder], limit: int) -> list[Folder]:
    if not limit or limit >= len(folders):
        return folders
    return [folders[i * len(folders) // limit] for i in range(limit)]


def parcel_of(folder: Folder, plan: Plan, stamps: dict[str, str]) -> Parcel:
    """A subject's photos and manifests, and the hash of all that its split, masks and base pictures follow from.

    A manifest that lies beside train/ and test/ goes into both: that is where photos are read.
    """
    parted = (folder.path / "train").is_dir()
    places, files = [folder.path / part for part in ("train", "test")] if parted else [folder.path], {}
    if parted and (beside := manifest_file(folder.path)):
        files = {f"{place.name}/{beside.name}": beside.read_bytes() for place in places if place.is_dir()}
    for place in places:
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if (path.suffix.lower() in SUFFIXES or path.name.lower() in MANIFESTS) and path.is_file():
                files[path.relative_to(folder.path).as_posix()] = path.read_bytes()
    key = digest({
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, "word": folder.word,
        "prompts": folder.prompts, "masking": asdict(plan.masking), "painting": asdict(plan.painting),
        "held_out": plan.held_out, "split_seed": plan.split_seed, "stamps": stamps, "format": _KEY_FORMAT,
        "cpus": plan.cpus, "encoders": [plan.image_encoder, plan.text_encoder],
    })  # fmt: skip
    return Parcel(key, folder.name, folder.word, folder.prompts, files)


def _time() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
