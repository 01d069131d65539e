"""The release gate: a scored concept against a policy, with a record of the decision that can be checked later."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from ..attractor.errors import AttractorError
from ..attractor.files import write_beside
from .measures import MEASURES, Evidence, Measured, value_of
from .policy import Policy, Rule

FORMAT = 1
_ADDED = ("report", "page")  # paths, which `attractor score --json` writes beside the figures


@dataclass(frozen=True)
class Decision:
    """What a policy says of a report: each rule with what was measured, in the policy's order."""

    policy: Policy
    evidence: Evidence
    rules: tuple[tuple[Rule, Measured], ...]

    @property
    def passed(self) -> bool:
        """True when every rule holds."""
        return all(rule.holds(found.value) for rule, found in self.rules)

    @property
    def broken(self) -> list[tuple[Rule, Measured]]:
        """The rules that do not hold."""
        return [(rule, found) for rule, found in self.rules if not rule.holds(found.value)]

    @property
    def text(self) -> str:
        """Decision, then a line a rule, the broken ones with why the rule is there and the pictures."""
        lines = [f"{'PASS' if self.passed else 'BLOCK'} by the policy {self.policy.name!r}"]
        for rule, found in self.rules:
            holds = rule.holds(found.value)
            lines.append(f"{'  ' if holds else '✗ '}{rule.measure}: {found.said} ({rule.limit} asked)")
            if not holds:
                lines.append(f"    {rule.why}" if rule.why else "    the policy does not say why")
                lines += [f"    picture: {prompt!r}, seed {seed}" for prompt, seed in found.pictures[:5]]
        return "\n".join(lines)

    def as_dict(self) -> dict:
        """The record; sha256 is of all the rest."""
        report = self.evidence.report
        record = {
            "format": FORMAT,
            "decision": "pass" if self.passed else "block",
            "day": self.evidence.day.isoformat(),
            "policy": {"name": self.policy.name, "sha256": self.policy.sha256},
            "report_sha256": digest({k: v for k, v in report.items() if k not in _ADDED}),
            "concept_sha256": report.get("concept_sha256"),
            "split_certificate": report.get("split_certificate"),
            "train_photos": sorted(report.get("train_photos") or []),
            "rules": [
                {
                    "measure": rule.measure, "at_least": rule.at_least, "at_most": rule.at_most, "why": rule.why,
                    "value": value_of(found), "said": found.said, "holds": rule.holds(found.value),
                    "pictures": found.pictures,
                }
                for rule, found in self.rules
            ],
        }  # fmt: skip
        return record | {"sha256": digest(record)}


def decide(policy: Policy, evidence: Evidence) -> Decision:
    """Measure what the policy asks for. Raises AttractorError when the report is of an older form."""
    try:
        found = {name: MEASURES[name](evidence) for name in dict.fromkeys(rule.measure for rule in policy.rules)}
    except KeyError as error:
        raise AttractorError(f"The report lacks {error}: score the concept again with this version.") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise AttractorError(f"The report is damaged ({error}): score the concept again.") from error
    return Decision(policy, evidence, tuple((rule, found[rule.measure]) for rule in policy.rules))


def digest(data: dict) -> str:
    """SHA-256 of a record as sorted JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def write_decision(decision: Decision, path: Path) -> Path:
    """Write the record; where another decision lies, beside it as <stem>-2 and so on. Gives the path."""
    record = decision.as_dict()
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False)
    place, number = path, 1
    while place.exists() and not _is(place, record["sha256"]):
        number += 1
        place = path.with_name(f"{path.stem}-{number}{path.suffix}")
    write_beside(place, lambda file: file.write_text(text, encoding="utf-8"))
    return place


def _is(path: Path, sha256: str) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("sha256") == sha256
    except (OSError, ValueError, AttributeError):
        return False


def check_decision(path: Path) -> dict:
    """The record, if it is what was written. Raises AttractorError when a single character of it was changed."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        told = record.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise AttractorError(f"{path}: not a decision record ({error}).") from error
    if told != digest(record):
        raise AttractorError(f"{path}: was changed after it was written: its content has another hash than it says.")
    return record | {"sha256": told}
