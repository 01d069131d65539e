"""The studio's commands: sweeps, pilots, the release gate, signatures and deletion."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import date
from pathlib import Path

from ..attractor.errors import AttractorError
from ..metrics.report import read_report
from ..metrics.study import open_study
from ..studio.cluster import OverRay
from ..studio.credentials import Signer
from ..studio.forget import forget as forget_found
from ..studio.forget import hashes_of, search
from ..studio.gate import decide, write_decision
from ..studio.hosts import OverHosts
from ..studio.measures import Evidence
from ..studio.pilot import Prices
from ..studio.pilot import pilot as judge_pilot
from ..studio.pilot_page import headline, write_pilot
from ..studio.plan import Plan, read_plan
from ..studio.policy import load_policy
from ..studio.store import Store
from ..studio.summary import keep_summary, save_concepts, summary, table
from ..studio.sweep import InProcess, Sweep
from ..training.concept import load_concept
from ..training.photos import read_folder
from ..training.rights import strictest
from .live import watcher


def sweep(chosen: Namespace) -> dict:
    """Run a plan over Ray; what the store has is not done again."""
    plan = read_plan(Path(chosen.plan))
    where = chosen.store or str(Path(chosen.plan).with_suffix(".store"))
    hosts = [one.strip() for one in chosen.hosts.split(",") if one.strip()]
    if hosts and chosen.address:
        raise AttractorError("--hosts and --address: choose one of the two.")
    found, _ = _swept(plan, where, chosen.address, hosts)
    result = summary(found)
    keep_summary(found.store, result)
    if chosen.concepts:
        save_concepts(found, Path(chosen.concepts))
    print(table(result), file=sys.stderr)
    if result["failed"]:
        count, one = len(result["failed"]), result["failed"][0]
        raise AttractorError(f"{count} of {len(found.runs)} runs failed, the first with: {one['subject']}: "
                             f"{one['why']} The others are in {where}.")
    return result


def pilot(chosen: Namespace) -> dict:
    """A few products of a folder, trained, painted and judged, and what that costs beside photo shoots."""
    prices = Prices(**{f.name: getattr(chosen, f.name) for f in fields(Prices)})
    plan = read_plan(Path(chosen.plan), chosen.dir) if chosen.plan else Plan(chosen.dir)
    first = next(iter(plan.methods))
    plan = replace(plan, methods={first: plan.methods[first]}, grid={}, seeds=plan.seeds[:1], limit=chosen.products)
    out = Path(chosen.out)
    found, machines = _swept(plan, str(out / "store"), chosen.address)
    judged = judge_pilot(found, prices, machines)
    data, page = write_pilot(judged, found, out)
    print(f"{headline(judged)}\npage: {page}", file=sys.stderr)
    return judged.as_dict() | {"report": str(data), "page": str(page)}


def _swept(plan: Plan, where: str, address: str, hosts: Sequence[str] = ()) -> tuple[Sweep, int]:
    """The sweep, and the number of machines that it ran on."""
    store = Store(where)
    found = None
    try:
        if not hosts:
            Sweep(plan, store, InProcess())  # what is wrong with the plan is said before anything is started
        with (OverHosts(hosts, plan) if hosts else OverRay(address, plan.cpus, plan.gpus)) as workers:
            with watcher() as watching:
                found = Sweep(plan, store, workers, watching)
                found.run()
                return found, workers.machines
    except (KeyboardInterrupt, AttractorError) as error:
        if found is None:
            raise
        kept = f"{found.counts['done'] + found.counts['stored']} of {len(found.runs)} runs are in {where}"
        if isinstance(error, KeyboardInterrupt):
            raise AttractorError(f"stopped; {kept}, and the same command goes on from there") from None
        raise AttractorError(f"{error} ({kept})") from error


def gate(chosen: Namespace) -> dict:
    """A report against a policy. Raises AttractorError where it blocks, after the record was written."""
    path = Path(chosen.report)
    path = path / "report.json" if path.is_dir() else path
    report = read_report(path)
    rights = dict(report.get("rights") or {})
    if chosen.photos:  # what manifests say today is all that counts
        sets = [read_folder(Path(folder), report.get("class_word") or "subject") for folder in chosen.photos]
        rights = {k: v.as_dict() for k, v in strictest([p for one in sets for p in one.photos]).items()}
    people = None
    if chosen.study:
        folder = Path(chosen.study)
        people = open_study(folder.parent, folder.name).result().as_dict()
    evidence = Evidence(report, rights, _day(chosen.today), people, chosen.run_name)
    decision = decide(load_policy(chosen.policy), evidence)
    print(decision.text, file=sys.stderr)
    written = write_decision(decision, Path(chosen.out) if chosen.out else path.with_name("decision.json"))
    print(f"record: {written}", file=sys.stderr)
    if not decision.passed:
        raise AttractorError(f"blocked by {', '.join(rule.measure for rule, _ in decision.broken)}")
    return decision.as_dict()


def sign(chosen: Namespace) -> dict:
    """Signed content credentials into pictures."""
    concept = load_concept(Path(chosen.concept)) if chosen.concept else None
    signer = Signer(Path(chosen.key), Path(chosen.certificate), chosen.algorithm, chosen.timestamp)
    return {"signed": [{"file": path, **signer.sign(Path(path), concept)} for path in chosen.pictures]}


def forget(chosen: Namespace) -> dict:
    """List what was made of photos; delete it with --yes."""
    found = search(hashes_of(chosen.photos), [Path(root) for root in chosen.within])
    print(found.text, file=sys.stderr)
    if not chosen.yes:
        if found.traces:
            print("Nothing was deleted. Add --yes to delete all of it.", file=sys.stderr)
        return {"photos": list(found.photos), "found": [str(t.path) for t in found.traces], "deleted": False}
    return forget_found(found, Path(chosen.receipt))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text) if text else date.today()
    except ValueError:
        raise AttractorError(f"--today {text}: write a date as YYYY-MM-DD.") from None
