"""Plans as people write them, right and wrong."""

import json
from pathlib import Path

import pytest
from attractor_pack.attractor.errors import AttractorError
from attractor_pack.studio.plan import MOST_RUNS, plan_from, read_plan

WRONG = {
    "foo: 1\nsubjects: x": "'foo' is not known",
    "methods: [attractor]": "subjects is missing",
    "- a": "a plan is a list of 'key: value' lines",
    "": "a plan is a list of 'key: value' lines",
    "subjects: [": "not YAML",
    "subjects: x\nmethods: [ours]": "'ours' is not one of attractor, plain, masked",
    "subjects: x\nmethods: []": "methods is empty",
    "subjects: x\nmethods: [attractor, {strong: {vectors: 2}}]": "methods: a list of attractor, plain, masked, or",
    "subjects: x\ngrid: {vectors: [1, 1]}": "grid: vectors names a value twice",
    "subjects: x\nseeds: []": "seeds is empty",
    "subjects: x\nseeds: [1, 1]": "names one twice",
    "subjects: x\nseeds: 3": "a list is expected",
    "subjects: x\nsettings: {strenght: 1}": "'strenght' is no setting of the training; there are steps",
    "subjects: x\nsettings: {steps: many}": "steps is 'many': a whole number is expected",
    "subjects: x\nsettings: {strength: 2}": "strength is 2",
    "subjects: x\ngrid: {vectors: []}": "grid: vectors: the list is empty",
    "subjects: x\ngrid: {vectors: [1, 99]}": "vectors is 99",
    "subjects: x\npainting: {sides: 64}": "painting: 'sides' is not known",
    "subjects: x\npainting: {seeds: 0}": "painting: seeds is 0",
    "subjects: x\nmasking: {backend: external}": "masking: backend is 'external'",
    "subjects: x\nprompts: [a dog]": "'a dog' has no <subject>",
    "subjects: x\ntogether: 0": "together is 0",
    "subjects: x\nheld_out: 0": "held_out is 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_plan_is_named(text):
    with pytest.raises(AttractorError, match="plan.yaml: ") as error:
        plan_from(text, "plan.yaml", Path())
    assert WRONG[text] in str(error.value)


def test_a_million_runs_are_refused_before_they_are_counted_out():
    rates = ", ".join(f"{n + 1}e-5" for n in range(1000))
    with pytest.raises(AttractorError, match=f"at most {MOST_RUNS:,}"):
        plan_from(f"subjects: x\ngrid: {{learning_rate: [{rates}], ema: [{rates}]}}", "plan.yaml", Path())


def test_a_plan_is_read_from_where_it_lies(tmp_path):
    path = tmp_path / "plan.yaml"
    text = """subjects: photos
methods: {own: {strength: 0.5}, plain: }
grid: {vectors: [1, 2], learning_rate: [1e-3]}
settings: {steps: 50, strength: 1}
seeds: [3, 4]
painting: {cfg: 7}"""
    path.write_text("\ufeff" + text, encoding="utf-8")
    plan = read_plan(path)
    assert Path(plan.subjects) == tmp_path / "photos"
    assert len(plan.runs_of_a_subject()) == 2 * 2 * 2 and plan.painting.cfg == 7.0
    settings = plan.training("own", plan.variants[1], 4)
    assert (settings.strength, settings.vectors, settings.learning_rate, settings.steps) == (0.5, 2, 1e-3, 50)
    assert settings.seed == 4 and plan.training("plain", {}, 3).strength == 0
    assert type(plan).of(plan.as_dict()) == plan, "a worker has another plan than the driver"


def test_a_plan_is_the_same_after_a_way_through_json(tmp_path):
    """YAML reads 5e-05, which is how JSON writes .00005, as a text."""
    plan = plan_from("subjects: x\nsettings: {learning_rate: 0.00005}\ngrid: {ema: [0.00001, 0.5]}", "plan", tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps(plan.as_dict()), encoding="utf-8")
    assert read_plan(tmp_path / "plan.json") == plan


def test_demo_is_the_demo_whatever_lies_beside_the_plan(tmp_path):
    (tmp_path / "demo").mkdir()
    assert plan_from("subjects: x\nmodel: demo", "plan", tmp_path).model == "demo"
