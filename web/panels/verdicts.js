// What a score says in words, for each run, with the page that says more.
import { button, hint, make } from "../dom.js";
import { say } from "../words.js";

export function verdicts(_node, page) {
  const element = make("div", { class: "attractor-verdicts" }, hint(say("verdict_hint")));
  const panel = { element, show };

  function show(found) {
    const all = found.flatMap((one) => one.verdicts);
    const pages = [...new Set(found.map((one) => one.page).filter(Boolean))];
    const runs = all.map(({ name, grade, headline, answers }) =>
      make(
        "section",
        {},
        make("h4", {}, badge(grade), name ? `${name}: ` : "", headline),
        ...answers.map((one) =>
          make("details", {}, make("summary", {}, badge(one.grade), one.question), make("p", {}, one.text)),
        ),
      ),
    );
    element.replaceChildren(
      ...pages.map((path) => button(say("open_report"), () => page.open(`/attractor/report/${path}`), { title: path })),
      make("div", { class: "attractor-rows" }, ...runs),
    );
      }
  return panel;
}

function badge(grade) {
  return make("span", { class: `attractor-grade ${grade}` }, say(`grade_${grade}`));
}
