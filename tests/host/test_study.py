"""Two ways of painting, compared by scores and by people, through a real server that may die."""

import json
import os
import signal

import pytest
import requests
from attractor_pack.tools.graphs import node
from attractor_pack.tools.host import GraphError, Host

pytestmark = pytest.mark.host

SAMPLER = {"negative": "", "first_seed": 1, "seeds": 2, "batch_size": 4, "steps": 3, "cfg": 3.0,
           "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}  # fmt: skip
PROMPTS = "a photo of a <subject>\na photo of a <subject> on a red plain background"


def graph(load_demo, demo, **changes):
    """Two class words against one base, scored, compared and put to people."""
    grid = {**demo, "prompts": PROMPTS, **SAMPLER}
    scored = {"train_set": ["split", 0], "held_out_set": ["split", 1], "image_encoder": "efficientnet-lite0",
              "text_encoder": "demo-clip", "base_generations": ["base", 2], "report_name": ""}  # fmt: skip
    return load_demo(
        split=node("Attractor_Split", subject=["demo", 3], held_out=4, split_seed=4),
        one=node("Attractor_SampleGrid", class_word="cup", **grid),
        two=node("Attractor_SampleGrid", class_word="teapot", **grid),
        base=node("Attractor_SampleGrid", class_word="bottle", **grid),
        score_one=node("Attractor_Score", generations=["one", 2], **{**scored, **changes.pop("score", {})}),
        score_two=node("Attractor_Score", generations=["two", 2], **scored),
        study=node("Attractor_Study", **{
            "generations_a": ["one", 2], "generations_b": ["two", 2], "names": "cup\nteapot", "question": "subject",
            "pairs": 4, "study_seed": 0, "held_out_set": ["split", 1], **changes.pop("study", {})}),
        compare=node("Attractor_Compare", **{
            "report_a": ["score_one", 0], "report_b": ["score_two", 0], "names": "cup\nteapot", "report_name": "both",
            "study": ["study", 0], **changes.pop("compare", {})}),
    )  # fmt: skip


@pytest.fixture
def own_server(tmp_path):
    """A server that a test may kill."""
    with Host(tmp_path) as host:
        yield host


def test_people_and_scores_come_together_even_if_the_server_dies(own_server, load_demo, demo):
    run = own_server.queue(graph(load_demo, demo))
    text = run.outputs["study"]["text"][0]
    assert "no votes yet" in text
    path = text.splitlines()[0].removeprefix("vote: ").removeprefix(own_server.url)
    assert path.startswith("/attractor/study/")
    page = requests.get(own_server.url + path, timeout=10)
    assert page.status_code == 200 and "script-src 'sha256-" in page.headers["Content-Security-Policy"]
    state = ask(own_server, path, "rater-0001")
    assert len(state["pairs"]) == 6 and "cup\n" not in json.dumps(state)
    picture = requests.get(f"{own_server.url}{path}/picture/{state['pairs'][0]['left']}", timeout=10)
    assert picture.content[:4] == b"\x89PNG"
    assert not {"ETag", "Last-Modified"} & set(picture.headers), "they would say in which order pictures were written"
    for position in range(3):
        assert send(own_server, path, "rater-0001", position, "left").status_code == 200
    os.killpg(own_server.pid, signal.SIGKILL)
    own_server.stop()
    own_server.start()
    state = ask(own_server, path, "rater-0001")
    assert [p["choice"] for p in state["pairs"]] == ["left"] * 3 + [None] * 3, "a vote that was answered is kept"
    for position in range(3, 6):
        send(own_server, path, "rater-0001", position, "tie")
        send(own_server, path, "rater-0002", position, "right")
    run = own_server.queue(graph(load_demo, demo))
    assert path in run.outputs["study"]["text"][0], "the same pictures are the same study"
    assert "votes of" in run.outputs["compare"]["text"][0] and "agrees with people" in run.outputs["compare"]["text"][0]
    folder = own_server.base / "output" / "attractor" / "both"
    data = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert data["names"] == ["cup", "teapot"] and data["people"]["votes"] > 0
    assert "What people said" in (folder / "comparison.html").read_text(encoding="utf-8")
    again = own_server.queue(graph(load_demo, demo))
    assert "one" in again.cached, "pictures are not painted again for a new vote"
    assert own_server.log.count("Traceback") == 0


def test_only_what_belongs_to_a_study_is_served(server, load_demo, demo):
    run = server.queue(graph(load_demo, demo))
    path = run.outputs["study"]["text"][0].splitlines()[0].removeprefix(f"vote: {server.url}")
    other = server.queue(graph(load_demo, demo, study={"question": "overall", "names": "x\ny"}, compare={
        "names": "x\ny"})).outputs["study"]["text"][0]  # fmt: skip
    foreign = other.splitlines()[0].removeprefix(f"vote: {server.url}")
    assert foreign != path
    said = len(server.log)
    manifest = next((server.base / "user" / "__attractor" / "studies").glob("*/study.json"))
    assert manifest.is_file()
    for kind in ("output", "input", "temp"):
        for where in ("attractor/studies", "../user/__attractor/studies", "__attractor/studies"):
            query = f"type={kind}&subfolder={where}/{manifest.parent.name}&filename=study.json"
            assert requests.get(f"{server.url}/view?{query}", timeout=10).status_code in (400, 403, 404)
    for name in ("__attractor", "..%2F__attractor"):
        file = f"{name}%2Fstudies%2F{manifest.parent.name}%2Fstudy.json"
        assert requests.get(f"{server.url}/userdata/{file}", timeout=10).status_code in (400, 403, 404)
    for tail in ("/study.json", "/votes.db", "/picture/../study.json", "/picture/..%2Fstudy.json",
                 "/picture/..%2F..%2F" + foreign.split("/")[-1] + "%2Fstudy.json", "/picture/" + "0" * 24):  # fmt: skip
        answer = requests.get(server.url + path + tail, timeout=10)
        assert answer.status_code in (404, 405) and "methods" not in answer.text, tail
    assert requests.get(f"{server.url}/attractor/study/{'0' * 16}", timeout=10).status_code == 404
    assert requests.get(f"{server.url}/attractor/study/%2e%2e", timeout=10).status_code == 404
    for vote in ({"rater": "<script>alert(1)</script>"}, {"choice": "x"}, {"position": 99}, {"position": None}):
        answer = requests.post(f"{server.url}{path}/vote", timeout=10, json={
            "rater": "rater-0001", "position": 0, "choice": "left", "seconds": 1, **vote})  # fmt: skip
        assert answer.status_code == 400 and answer.json()["error"], vote
    for body in ("[]", "{", "x" * 9000):
        assert requests.post(f"{server.url}{path}/vote", data=body, timeout=10).status_code in (400, 413)
    assert "Traceback" not in server.log[said:]


def test_regions_and_look_alikes_are_scored(server, load_demo, demo):
    look_alikes = {"images": node("Attractor_SampleGrid", class_word="lamp", **demo, prompts=PROMPTS, **SAMPLER)}
    run = server.queue({**graph(load_demo, demo, score={
        "regions": "subject and background too", "look_alikes": ["images", 0]}), **look_alikes})  # fmt: skip
    text = run.outputs["score_one"]["text"][0]
    assert "background only" in text and "backgrounds moved toward" in text and "among look-alikes" in text
    assert text.splitlines()[1].startswith("- Does it look like the subject?")
    masks = {f"{name} seen": node("ImageToMask", image=[name, 0], channel="red") for name in ("one", "base")}
    given = {"picture_masks": ["one seen", 0], "base_masks": ["base seen", 0]}
    run = server.queue({**graph(load_demo, demo, score=given), **masks})
    text = run.outputs["score_one"]["text"][0]
    assert "background only" in text and "backgrounds moved toward" in text
    lamps = node("Attractor_SampleGrid", class_word="lamp", **demo, prompts="a photo of a <subject>", **SAMPLER)
    few = {**graph(load_demo, demo, score=given), **masks, "lamps": lamps}
    few["one seen"]["inputs"]["image"] = ["lamps", 0]
    with pytest.raises(GraphError, match="picture_masks: 2 masks of 64 x 64 pixels came in for 4 pictures of 64 x 64"):
        server.queue(few)


@pytest.mark.parametrize("changes, message", [
    ({"study": {"names": "cup"}}, "names: 1 for 2 runs"),
    ({"study": {"held_out_set": None}}, "voters who are asked about the subject must see it"),
    ({"compare": {"names": "a\nb"}}, "give the same names to both"),
    ({"compare": {"report_name": "../both"}}, "name"),
], ids=["names", "no photos", "other names", "report name"])  # fmt: skip
def test_what_cannot_be_compared_says_so(server, load_demo, demo, changes, message):
    wrong = graph(load_demo, demo, **changes)
    for entry in wrong.values():
        entry["inputs"] = {k: v for k, v in entry["inputs"].items() if v is not None}
    with pytest.raises(GraphError, match=message):
        server.queue(wrong)


def ask(host, path, rater):
    return requests.get(f"{host.url}{path}/state?rater={rater}", timeout=10).json()


def send(host, path, rater, position, choice):
    vote = {"rater": rater, "position": position, "choice": choice, "seconds": 1.0}
    return requests.post(f"{host.url}{path}/vote", json=vote, timeout=10)


def test_scoring_moves_the_bar_and_can_be_cancelled(server, load_demo, demo):
    """The page's Cancel, pressed when the first batch of pictures has been looked at."""
    told = []

    def press(kind, data):
        if kind == "progress" and data.get("node") == "score_one":
            told.append((data["value"], data["max"]))
            if len(told) == 2:
                server.interrupt()

    many = graph(load_demo, demo, score={"regions": "subject and background too"})
    for name in ("one", "base"):
        many[name]["inputs"].update(seeds=40, batch_size=40, steps=1)
    kept = {"demo", "split", "one", "base", "score_one"}
    with pytest.raises(GraphError, match="interrupted"):
        server.queue({k: v for k, v in many.items() if k in kept}, on_event=press)
    assert told[0][1] == told[1][1] > told[1][0] > told[0][0]
    assert told[-1][0] < told[-1][1], "it went on to the end"
