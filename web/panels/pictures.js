// A contact sheet: a row for each prompt, a column for each seed; a click shows a picture large.
import { button, hint, make } from "../dom.js";
import { say } from "../words.js";

export function pictures(_node, page) {
  const element = make("div", { class: "attractor-pictures" }, hint(say("pictures_hint")));
  const panel = { element, height: 44, show };

  function show(found) {
    const all = found.flatMap((one) => one.pictures);
    const prompts = [...new Set(all.map((one) => one.prompt))];
    const seeds = [...new Set(all.map((one) => one.seed))];
    const rows = prompts.map((prompt) => {
      const row = all.filter((one) => one.prompt === prompt);
      return make(
        "div",
        { class: "attractor-row" },
        make("div", { class: "attractor-prompt", title: prompt }, prompt),
        make("div", { class: "attractor-cells" }, ...row.map(cell)),
      );
    });
    const title = say("pictures_title", { prompts: prompts.length, seeds: seeds.length, count: all.length });
    element.replaceChildren(make("div", { class: "attractor-status" }, title), make("div", { class: "attractor-rows" }, ...rows));
    panel.height = Math.min(460, 48 + 112 * prompts.length);

    function cell(one) {
      const label = `${one.prompt}, ${say("seed", { seed: one.seed })}`;
      const picture = make("img", { src: page.file(one, true), alt: label, title: label, loading: "lazy" });
      picture.addEventListener("error", () => (picture.alt = say("gone")));
      const opens = () => enlarge(all, all.indexOf(one), page);
      return make("button", { type: "button", class: "attractor-cell", onclick: opens }, picture, make("span", {}, `${one.seed}`));
    }
  }
  return panel;
}

function enlarge(all, index, page) {
  const picture = make("img");
  const caption = make("p");
  const dialog = make("dialog", { class: "attractor-large" }, picture, caption);
  const turn = (by) => {
    index = (index + by + all.length) % all.length;
    const one = all[index];
    picture.src = page.file(one);
    picture.alt = one.prompt;
    caption.textContent = `${one.prompt} · ${say("seed", { seed: one.seed })} · ${index + 1}/${all.length}`;
  };
  const bar = make(
    "div",
    { class: "attractor-buttons" },
    button("‹", () => turn(-1), { "aria-label": say("previous") }),
    button("›", () => turn(1), { "aria-label": say("next") }),
    button(say("close"), () => dialog.close()),
  );
  dialog.append(bar);
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // the host has keys of its own
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  turn(0);
  dialog.showModal();
}
