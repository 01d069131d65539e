"""People vote in a real browser, on the page that the real server serves."""

from __future__ import annotations

import os
import signal
import sqlite3

import pytest
from attractor_pack.tools.graphs import node
from attractor_pack.tools.host import Host
from playwright.sync_api import expect

pytestmark = pytest.mark.browser

SAMPLER = {"negative": "", "first_seed": 1, "seeds": 2, "batch_size": 4, "steps": 2, "cfg": 3.0,
           "sampler_name": "euler", "scheduler": "normal", "width": 64, "height": 64}  # fmt: skip


@pytest.fixture(scope="module")
def graph():
    """Two ways of painting, put to people; the names would run as a script where they are shown unescaped."""
    grid = {"model": ["demo", 0], "clip": ["demo", 1], "vae": ["demo", 2], **SAMPLER,
            "prompts": "a photo of a <subject>\na <subject> <img src=x onerror=\"document.title=1\">"}  # fmt: skip
    return {
        "demo": node("Attractor_LoadDemo"),
        "split": node("Attractor_Split", subject=["demo", 3], held_out=4, split_seed=4),
        "one": node("Attractor_SampleGrid", class_word="cup", **grid),
        "two": node("Attractor_SampleGrid", class_word="lamp", **grid),
        "study": node("Attractor_Study", generations_a=["one", 2], generations_b=["two", 2], names="<b>one</b>\ntwo",
                      question="overall", pairs=4, study_seed=0, held_out_set=["split", 1]),
    }  # fmt: skip


@pytest.fixture
def person(browser):
    """A new visitor, whose page must not report a problem."""
    made, problems = [], []

    def come(**how):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **how)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.problems = problems
        made.append(context)
        return page

    yield come
    for context in made:
        context.close()


def opened(page, link):
    page.goto(link)
    page.wait_for_selector("#ask:not([hidden]) #left img")
    expect(page.locator("#left img")).to_have_js_property("complete", True)
    return page


def answered(page):
    return page.inner_text("#count")


def result(host, graph):
    return host.queue(graph).outputs["study"]["text"][0]


def test_people_vote_with_the_keyboard_and_find_their_place_again(server, graph, person):
    link = result(server, graph).splitlines()[0].removeprefix("vote: ")
    page = opened(person(), link)
    assert "this very cup" in page.inner_text("#question") and page.locator("#references img").count() == 4
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt !== null)")
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert answered(page) == "3 of 6 answered"
    page.keyboard.press("Backspace")
    assert "chosen" in page.get_attribute("#tie", "class")
    page.click("#right img")
    assert answered(page) == "3 of 6 answered"
    page.wait_for_timeout(500)
    opened(page, link)
    assert answered(page) == "3 of 6 answered", "a reload loses nothing"
    assert "<b>one</b>" not in page.content() and page.title() == "Which picture?"
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#done:not([hidden])")
    other = opened(person(color_scheme="dark"), link)
    assert answered(other) == "0 of 6 answered", "another person has an own count"
    assert other.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    other.keyboard.press("ArrowLeft")
    other.wait_for_timeout(500)
    other.click("#other")
    expect(other.locator("#count")).to_have_text("0 of 6 answered")
    assert page.problems == []
    said = result(server, graph)
    assert "no votes yet" not in said
    folder = server.base / "user" / "__attractor" / "studies" / link.split("/")[-1]
    with sqlite3.connect(folder / "votes.db") as votes:
        by_rater = dict(votes.execute("SELECT rater, count(*) FROM votes GROUP BY rater"))
    assert sorted(by_rater.values()) == [1, 6], "what each person answered, and nothing else"


def test_votes_wait_in_the_page_while_the_server_is_away(tmp_path, graph, person):
    with Host(tmp_path) as host:
        link = result(host, graph).splitlines()[0].removeprefix("vote: ")
        page = opened(person(), link)
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(500)
        os.killpg(host.pid, signal.SIGKILL)
        host.stop()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        expect(page.locator("#notice")).to_contain_text("2 of your answers")
        assert answered(page) == "3 of 6 answered"
        host.start(port=int(link.split(":")[2].split("/")[0]))
        expect(page.locator("#notice")).to_have_text("", timeout=20_000)
        opened(page, link)
        assert answered(page) == "3 of 6 answered"
        folder = host.base / "user" / "__attractor" / "studies" / link.split("/")[-1]
        with sqlite3.connect(folder / "votes.db") as votes:
            assert votes.execute("SELECT count(*) FROM votes").fetchone() == (3,), "on disk, each once"


def test_a_link_of_no_study_says_so(server, person):
    page = person()
    answer = page.goto(f"{server.url}/attractor/study/{'0' * 16}")
    assert answer.status == 404 and "no study of this address" in page.inner_text("body")
