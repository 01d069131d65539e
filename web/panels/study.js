// A blind study: where to vote, and how many have.
import { button, hint, make } from "../dom.js";
import { say } from "../words.js";

export function study(_node, page) {
  const element = make("div", { class: "attractor-study" }, hint(say("study_hint")));
  const panel = { element, show };

  function show(found) {
    const { link, votes, raters } = found[found.length - 1];
    element.replaceChildren(
      button(say("open_study"), () => page.open(link), { title: link }),
      make("div", { class: "attractor-status" }, say("votes", { votes, raters })),
    );
  }
  return panel;
}
