// Photos with their masks: what the loss sees of them at any attractor strength, at once and without queueing.
import { button, hint, make } from "../dom.js";
import { say } from "../words.js";

const TINT = [0.21, 0.26, 0.46]; // of the grey of a pixel that is wholly kept out, as in the node's overlay picture
const GRID = [
  [0.1, 0.12, 0.3],
  [1.0, 0.75, 0.2],
]; // colours of no weight and of the largest

export function masks(node, page) {
  const photo = make("canvas", { class: "attractor-photo" });
  const grid = make("canvas", { class: "attractor-grid" });
  const strength = make("input", { type: "range", min: 0, max: 1, step: 0.05, "aria-label": say("strength") });
  const value = make("output");
  const share = make("span", { class: "attractor-share" });
  const advice = make("div", { class: "attractor-advice" });
  const list = make("div", { class: "attractor-list", role: "listbox", "aria-label": say("photos") });
  const toTrain = button(say("use_strength"), useIt, { title: say("use_strength_title") });
  const element = make("div", { class: "attractor-masks" }, hint(say("masks_hint")));
  const panel = { element, show };
  let photos = [];
  let chosen = 0;
  let data = null; // pixels of the chosen photo
  let token = 0;

  strength.addEventListener("input", redraw); // only looked at: the input itself would make the graph train again

  function show(found) {
    const last = found[found.length - 1];
    photos = found.flatMap((one) => one.photos);
    chosen = Math.min(chosen, photos.length - 1);
    strength.value = last.strength;
    element.replaceChildren(
      make("div", { class: "attractor-pair" }, photo, make("div", {}, grid, share)),
      make("label", { class: "attractor-slider" }, say("strength"), strength, value, toTrain),
      advice,
      list,
    );
    list.replaceChildren(
      ...photos.map((one, i) =>
        button(one.name, () => choose(i), {
          class: `attractor-badge ${one.verdict === "good" ? "good" : "doubt"}`,
          role: "option",
          title: [one.verdict, one.advice].filter(Boolean).join(": "),
        }),
      ),
    );
    choose(chosen);
  }

  async function choose(index) {
    chosen = index;
    const mine = ++token;
    const one = photos[index];
    [...list.children].forEach((child, i) => child.setAttribute("aria-selected", i === index));
    advice.textContent = `${one.name}: ${one.verdict}, ${say("covers", { share: percent(one.covers) })}${one.advice ? ` – ${one.advice}` : ""}`;
    advice.classList.toggle("doubt", one.verdict !== "good");
    data = null;
    try {
      const read = await Promise.all([one.photo, one.mask, one.grid].map((file) => pixels(page.file(file))));
      if (mine !== token) return;
      data = read;
      redraw();
    } catch {
      if (mine === token) advice.textContent = say("gone");
    }
  }

  function redraw() {
    const s = Number(strength.value);
    value.textContent = s.toFixed(2);
    if (!data) return;
    const [colour, mask, cells] = data;
    paint(photo, colour.width, colour.height, (i) => {
      const weight = weigh(mask.data[i] / 255, s);
      const grey = (colour.data[i] + colour.data[i + 1] + colour.data[i + 2]) / 3;
      return TINT.map((tint, c) => colour.data[i + c] * weight + grey * tint * (1 - weight));
    });
    let total = 0;
    let inside = 0;
    let most = 1e-6;
    for (let i = 0; i < cells.data.length; i += 4) {
      const m = cells.data[i] / 255;
      total += weigh(m, s);
      inside += weigh(m, s) * m;
      most = Math.max(most, weigh(m, s));
    }
    paint(grid, cells.width, cells.height, (i) => {
      const part = weigh(cells.data[i] / 255, s) / most;
      return GRID[0].map((low, c) => 255 * (low + (GRID[1][c] - low) * part));
    });
    share.textContent = say("share", { share: percent(inside / Math.max(total, 1e-6)) });
    share.dataset.share = inside / Math.max(total, 1e-6);
  }

  // The strength that was looked at becomes that of the Train Concept nodes that this node's photos reach.
  function useIt() {
    const trains = trainsOf(node);
    for (const train of trains) train.widgets.find((one) => one.name === "strength").value = Number(strength.value);
    toTrain.textContent = trains.length ? say("used", { count: trains.length }) : say("no_train");
    setTimeout(() => (toTrain.textContent = say("use_strength")), 2500);
    page.changed();
  }
  return panel;
}

// m + (1 - s)(1 - m): a pixel's weight in the subject's loss.
function weigh(mask, strength) {
  return mask + (1 - strength) * (1 - mask);
}

// The Train nodes that learn from this node's photos, but for those whose strength is wired.
function trainsOf(node) {
  const found = new Set();
  const seen = new Set();
  const walk = (from) => {
    for (const id of (from.outputs ?? []).flatMap((output) => output.links ?? [])) {
      const link = from.graph.links.get?.(id) ?? from.graph.links[id];
      const next = link?.type === "SUBJECT_SET" && from.graph.getNodeById(link.target_id);
      if (!next) continue;
      if (next.comfyClass === "Attractor_Train") {
        const wired = next.inputs.some((input) => input.name === "strength" && input.link != null);
        if (next.inputs[link.target_slot]?.name === "train_set" && !wired) found.add(next);
      } else if (!seen.has(next)) {
        seen.add(next);
        walk(next);
      }
    }
  };
  walk(node);
  return [...found];
}

async function pixels(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, canvas.width, canvas.height);
}

function paint(canvas, width, height, colour) {
  canvas.width = width;
  canvas.height = height;
  const data = new ImageData(width, height);
  for (let i = 0; i < data.data.length; i += 4) {
    const [red, green, blue] = colour(i);
    data.data[i] = red;
    data.data[i + 1] = green;
    data.data[i + 2] = blue;
    data.data[i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
}

function percent(share) {
  return `${Math.round(share * 100)}%`;
}
