// The loss while a node trains: fixed-noise losses as lines, every step's as dots, and the step that was kept.
import { draw, hint, make } from "../dom.js";
import { say } from "../words.js";

const WIDTH = 340;
const HEIGHT = 170;
const LEFT = 40;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const LINES = ["background", "train", "held_out"];

export function training() {
  const element = make("div", { class: "attractor-training" }, hint(say("curve_hint")));
  const panel = { element, show, live, ended };
  let shown = 0;
  let latest = null; // what was told of the training that goes on

  function show(found) {
    latest = null;
    const { curves } = found[found.length - 1];
    shown = Math.min(shown, curves.length - 1);
    const several =
      curves.length > 1 &&
      make(
        "select",
        { "aria-label": say("which_training"), onchange: (event) => ((shown = Number(event.target.value)), show(found)) },
        ...curves.map((_, i) => make("option", { value: i, ...(i === shown && { selected: "" }) }, `${i + 1}: ${curves[i].word ?? ""}`)),
      );
    const curve = curves[shown];
    const status = curve.stopped || (curve.kept ? say("kept", { step: curve.kept }) : say("done"));
    redraw(curve, status, several || null);
  }

  function live(told) {
    latest = told;
    if (told.said) return redraw({}, told.said, null); // before the first step
    const { phase, step, total, loss } = told;
    redraw(told, say("at_step", { phase, step, total, loss: loss.toFixed(4) }), null, step / Math.max(1, total));
  }

  // A run that was cancelled or failed leaves its curve, and no bar that seems to move.
  function ended() {
    if (latest) element.querySelector("progress")?.remove();
    latest = null;
  }

  function redraw(curve, status, choice, progress) {
    const notes = (curve.notes ?? []).map((note) => make("li", {}, note));
    const bar = progress === undefined ? null : make("progress", { max: 1, value: progress });
    element.replaceChildren(
      make("div", { class: "attractor-status", role: "status" }, make("span", {}, status), choice),
      ...(bar ? [bar] : []),
      chart(curve),
      legend(curve),
      ...(notes.length ? [make("ul", { class: "attractor-notes" }, ...notes)] : []),
    );
  }
  return panel;
}

function chart(curve) {
  const all = ["losses", ...LINES].flatMap((name) => curve[name] ?? []).filter(([, y]) => Number.isFinite(y));
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "attractor-chart", role: "img" });
  picture.append(draw("title", {}, say("curve_title")));
  if (!all.length) return picture;
  const firm = LINES.flatMap((name) => curve[name] ?? []).map(([, y]) => y);
  const values = firm.length > 2 ? firm : all.map(([, y]) => y);
  const x = scale(Math.min(...all.map(([s]) => s)), Math.max(1, ...all.map(([s]) => s)), LEFT, WIDTH - RIGHT);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max((high - low) * 0.15, high * 0.02, 1e-6);
  const y = scale(low - room, high + room, HEIGHT - BOTTOM, TOP);
  for (const value of ticks(low - room, high + room, 4)) {
    picture.append(
      draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  for (const step of ticks(x.low, x.high, 4)) {
    picture.append(draw("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, `${step}`));
  }
  for (const [step, loss] of curve.losses ?? []) {
    if (loss < y.low || loss > y.high) continue;
    const kind = step <= 0 ? "background" : "train";
    picture.append(draw("circle", { cx: x(step).toFixed(1), cy: y(loss).toFixed(1), r: 1.2, class: `dot ${kind}` }));
  }
  for (const name of LINES) {
    const points = (curve[name] ?? []).map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`);
    if (points.length) picture.append(draw("polyline", { points: points.join(" "), class: `line ${name}` }));
  }
  if (curve.kept) {
    const at = x(curve.kept);
    const flip = at > WIDTH * 0.75;
    picture.append(
      draw("line", { x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM, class: "kept" }),
      draw(
        "text",
        { x: at + (flip ? -5 : 5), y: TOP + 12, "text-anchor": flip ? "end" : "start", class: "kept-label" },
        say("kept", { step: curve.kept }),
      ),
    );
  }
  return picture;
}

function legend(curve) {
  const there = LINES.filter((name) => (curve[name] ?? []).length);
  const items = there.map((name) => make("span", { class: name }, say(`line_${name}`)));
  return make("div", { class: "attractor-legend" }, ...items);
}

function scale(low, high, from, to) {
  const width = high - low || 1;
  return Object.assign((value) => from + ((value - low) / width) * (to - from), { low, high });
}

// Round numbers between two ends.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const first = Math.ceil(low / step);
  const last = Math.floor(high / step);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

function short(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : `${Number(value.toPrecision(3))}`;
}
