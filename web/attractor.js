// Panels in Attractor's nodes: live curves, masks at any strength, pictures with prompt and seed, verdicts, studies.
// They show what the nodes report anyway; without this extension every graph works the same.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { button } from "./dom.js";
import { masks } from "./panels/masks.js";
import { pictures } from "./panels/pictures.js";
import { study } from "./panels/study.js";
import { training } from "./panels/training.js";
import { verdicts } from "./panels/verdicts.js";
import { say, speak } from "./words.js";

const PANELS = {
  Attractor_Train: training,
  Attractor_Propose: training,
  Attractor_Mask: masks,
  Attractor_SampleGrid: pictures,
  Attractor_Score: verdicts,
  Attractor_Compare: verdicts,
  Attractor_Study: study,
  Attractor_ReleaseGate: verdicts,
};
const SETTING = "Attractor.Panels";
const EMPTY_HEIGHT = 44;
const REMEMBERED = 64; // runs of the history that are searched after a reload

const page = {
  file: (file, small = false) => {
    const query = new URLSearchParams({ filename: file.filename, subfolder: file.subfolder, type: file.type });
    if (small) query.set("preview", "webp;80");
    return api.apiURL(`/view?${query}`);
  },
  open: (path) => window.open(api.fileURL(path), "_blank", "noopener"),
  changed: () => app.graph?.setDirtyCanvas(true, true),
};

function isOn() {
  return app.ui.settings.getSettingValue(SETTING) !== false;
}

function addPanel(node) {
  const panel = PANELS[node.comfyClass](node, page);
  const frame = document.createElement("div");
  frame.className = "attractor-panel";
  frame.append(panel.element);
  if (node.widgets?.some((widget) => widget.advanced)) {
    frame.classList.add("attractor-has-more");
    frame.append(button("⋯", () => node.toggleAdvanced(), { class: "attractor-more", title: say("more") }));
  }
  frame.addEventListener("pointerdown", (event) => event.stopPropagation()); // not a drag of the node
  frame.addEventListener("wheel", (event) => keepsWheel(event, frame) && event.stopPropagation());
  let height = EMPTY_HEIGHT;
  const widget = node.addDOMWidget("attractor_panel", "attractor_panel", frame, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  node.attractorPanel = {
    show: (found) => grow(() => panel.show(found)),
    live: (told) => panel.live && grow(() => panel.live(told)),
  };

  function grow(draw) {
    draw();
    if (height === panel.height) return;
    height = panel.height;
    frame.style.setProperty("--attractor-height", `${height}px`);
    const [width, now] = node.size;
    const needed = node.computeSize()[1];
    if (needed > now) node.setSize([width, needed]);
    page.changed();
  }

  const before = node.onExecuted;
  node.onExecuted = function (output) {
    before?.apply(this, arguments);
    if (output?.attractor?.length) node.attractorPanel.show(output.attractor);
  };
}

// Front ends up to 1.32 keep the mark of a rarely used input among the options, where their own canvas does not look, and
// leave a gap where an input is hidden.
function markRare(node) {
  if (window.LiteGraph?.vueNodesMode) return;
  for (const widget of node.widgets ?? []) {
    if (!widget.options?.advanced || widget.computeSize) continue;
    widget.advanced = true;
    widget.computeSize = (width) =>
      node.isWidgetVisible(widget) ? [width, window.LiteGraph.NODE_WIDGET_HEIGHT] : [0, -4]; // 4 lie between two
  }
}

// A hidden input that is wired would leave a link that ends nowhere.
function showWired(node) {
  for (const input of node.inputs ?? []) {
    const widget = input.link != null && node.widgets?.find((one) => one.name === input.widget?.name);
    if (widget) widget.advanced = false;
  }
}

// A wheel over a list that can still move scrolls it; anywhere else it zooms the canvas as ever.
function keepsWheel(event, frame) {
  for (let at = event.target; at && at !== frame.parentElement; at = at.parentElement) {
    if (at.scrollHeight <= at.clientHeight + 1) continue;
    const room = event.deltaY < 0 ? at.scrollTop : at.scrollHeight - at.clientHeight - at.scrollTop;
    if (room > 1 && ["auto", "scroll"].includes(getComputedStyle(at).overflowY)) return true;
  }
  return false;
}

// "4" is a node of the graph, "7:4" node 4 in the subgraph of node 7.
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById?.(Number.isNaN(Number(part)) ? part : Number(part));
    graph = node?.subgraph;
  }
  return node;
}

function graphId() {
  return (app.rootGraph ?? app.graph)?.id;
}

// Old graphs share an id of zeros, and a template its own: every node that ran must still be here as well.
function isOfThisGraph([, , prompt, extra]) {
  const id = extra?.extra_pnginfo?.workflow?.id;
  return id === graphId() && Object.entries(prompt).every(([key, one]) => nodeOf(key)?.comfyClass === one.class_type);
}

// After a reload: what the host remembers of this graph's last runs, and of the one that goes on.
async function findAgain() {
  const [history, queue] = await Promise.all([
    api.fetchApi(`/history?max_items=${REMEMBERED}`).then((answer) => answer.json()),
    api.fetchApi("/queue").then((answer) => answer.json()),
  ]);
  for (const { prompt, outputs } of Object.values(history)) {
    if (!isOfThisGraph(prompt)) continue;
    for (const [id, output] of Object.entries(outputs ?? {})) {
      if (output.attractor?.length) nodeOf(id)?.attractorPanel?.show(output.attractor);
    }
  }
  const going = (queue.queue_running ?? []).filter(isOfThisGraph).map((entry) => entry[1]);
  if (!going.length) return;
  const told = await (await fetch(api.fileURL("/attractor/running"), { cache: "no-store" })).json();
  for (const one of told.filter((one) => going.includes(one.prompt_id))) nodeOf(one.node)?.attractorPanel?.live(one);
}

function quietly(promise) {
  promise.catch((error) => console.warn("Attractor: the host did not answer:", error.message));
}

async function sayThatWeDraw() {
  await fetch(api.fileURL("/attractor/page"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ client_id: api.clientId, draws: isOn() }),
  });
}

app.registerExtension({
  name: "Attractor.Panels",
  settings: [
    {
      id: SETTING,
      category: ["Attractor", "Nodes", "Panels"],
      name: "Show curves, masks, pictures and verdicts inside the nodes",
      tooltip: "Takes effect when the page is loaded again.",
      type: "boolean",
      defaultValue: true,
    },
  ],
  async setup() {
    speak(app.ui.settings.getSettingValue("Comfy.Locale"));
    if (!isOn()) return;
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./attractor.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener("attractor.curve", ({ detail }) => nodeOf(detail.node)?.attractorPanel?.live(detail));
    api.addEventListener("status", () => quietly(onceFor(api.clientId)));
    quietly(onceFor(api.clientId));
    api.addEventListener("reconnected", () => quietly(sayThatWeDraw()));
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("Attractor_") || !isOn()) return;
    markRare(node);
    if (node.comfyClass in PANELS) addPanel(node);
    node.setSize([node.size[0], node.computeSize()[1]]); // a saved graph says another size after this
  },
  loadedGraphNode(node) {
    if (node.comfyClass?.startsWith("Attractor_") && isOn()) showWired(node);
  },
  afterConfigureGraph() {
    if (isOn()) quietly(findAgain());
  },
});

// The host gives a page its client id with the first status.
let saidFor;
async function onceFor(client) {
  if (!client || client === saidFor) return;
  saidFor = client;
  await sayThatWeDraw();
}

