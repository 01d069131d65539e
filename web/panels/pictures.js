// A contact sheet: a row for each prompt, a column for each seed; a click shows a picture large.
import { button, hint, make } from "../dom.js";
import { say } from "../words.js";

export function pictures(_node, page) {
  const element = make("div", { class: "attractor-pictures" }, hint(say("pictures_hint")));
  const panel = { element, show };

  function show(found) {
    const parts = found.map((one, i) => section(one, found.length > 1 ? `${i + 1} · ${one.subject}` : ""));
    element.replaceChildren(make("div", { class: "attractor-rows" }, ...parts));
  }

  // One execution's pictures: a node that is given a list runs once for each of it.
  function section({ pictures: all }, name) {
    const prompts = [...new Set(all.map((one) => one.prompt))];
    const seeds = new Set(all.map((one) => one.seed));
    const title = say("pictures_title", { prompts: prompts.length, seeds: seeds.size, count: all.length });
    const rows = prompts.map((prompt) =>
      make(
        "div",
        { class: "attractor-row" },
        make("div", { class: "attractor-prompt", title: prompt }, prompt),
        make("div", { class: "attractor-cells" }, ...all.filter((one) => one.prompt === prompt).map(cell)),
      ),
    );
    const head = make("div", { class: "attractor-status" }, name ? `${name}: ${title}` : title);
    return make("section", { class: "attractor-rows" }, head, ...rows);

    function cell(one) {
      const label = `${one.prompt}, ${say("seed", { seed: one.seed })}`;
      const picture = make("img", { loading: "lazy", alt: label, title: label, src: page.file(one.small) });
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
