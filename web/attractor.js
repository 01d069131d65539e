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

// What is shown in a node, and the height that is kept for it: a panel that grew would change the saved graph.
const PANELS = {
  Attractor_Train: { kind: "training", make: training, height: 250 },
  Attractor_Propose: { kind: "training", make: training, height: 250 },
  Attractor_Mask: { kind: "masks", make: masks, height: 350 },
  Attractor_SampleGrid: { kind: "pictures", make: pictures, height: 320 },
  Attractor_Score: { kind: "verdicts", make: verdicts, height: 190 },
  Attractor_Compare: { kind: "verdicts", make: verdicts, height: 240 },
  Attractor_Study: { kind: "study", make: study, height: 84 },
  Attractor_Sweep: { kind: "verdicts", make: verdicts, height: 260 },
  Attractor_ReleaseGate: { kind: "verdicts", make: verdicts, height: 190 },
};
const SETTING = "Attractor.Panels";
const REMEMBERED = 64; // runs of the history that are searched after a reload
let on = false; // as the setting stood when the page was loaded

const page = {
  file: (file) => {
    const query = new URLSearchParams({ filename: file.filename, subfolder: file.subfolder, type: file.type });
    return api.apiURL(`/view?${query}`);
  },
  open: (path) => window.open(api.fileURL(path), "_blank", "noopener"),
  changed: () => app.graph?.setDirtyCanvas(true, true),
};

function addPanel(node) {
  const { kind, make, height } = PANELS[node.comfyClass];
  const panel = make(node, page);
  const frame = document.createElement("div");
  frame.className = "attractor-panel";
  frame.style.minHeight = `${height}px`;
  frame.append(panel.element);
  if (node.widgets?.some((widget) => widget.advanced)) {
    frame.classList.add("attractor-has-more");
    frame.append(button("⋯", () => node.toggleAdvanced(), { class: "attractor-more", title: say("more") }));
  }
  frame.addEventListener("pointerdown", (event) => event.stopPropagation()); // not a drag of the node
  frame.addEventListener("wheel", (event) => keepsWheel(event, frame) && event.stopPropagation());
  const widget = node.addDOMWidget("attractor_panel", "attractor_panel", frame, {
    serialize: false,
    getMinHeight: () => height,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  node.attractorPanel = {
    show: (found) => {
      const own = (found ?? []).filter((one) => one.kind === kind);
      if (own.length) panel.show(own);
    },
    live: (told) => panel.live?.(told),
    ended: () => panel.ended?.(),
  };
}

// Front ends up to 1.32 keep the mark of a rarely used input among the options, where their own canvas does not look, and
// leave a gap where an input is hidden. Newer ones hide it in Vue nodes by themselves, yet count its height.
function markRare(node) {
  for (const widget of node.widgets ?? []) {
    if (!widget.options?.advanced || widget.computeSize) continue;
    widget.advanced = true;
    widget.computeSize = (width) =>
      node.isWidgetVisible(widget) ? [width, window.LiteGraph.NODE_WIDGET_HEIGHT] : [0, -4]; // 4 lie between two
  }
  for (const event of ["onConnectionsChange", "onConfigure"]) {
    const before = node[event];
    node[event] = function () {
      const answer = before?.apply(this, arguments);
      showWired(node);
      return answer;
    };
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

// Graphs that were never saved share an id of zeros, and those made from one template its own: our nodes that ran must still
// be here as well, and read the same photos.
function isOfThisGraph([, , prompt, extra]) {
  const id = extra?.extra_pnginfo?.workflow?.id;
  return (
    id === graphId() &&
    ours(prompt).every(
      ([key, one]) =>
        nodeOf(key)?.comfyClass === one.class_type &&
        (one.class_type !== "Attractor_LoadSubject" || isSetAs(nodeOf(key), one.inputs)),
    )
  );
}

function ours(prompt) {
  return Object.entries(prompt).filter(([, one]) => one.class_type.startsWith("Attractor_"));
}

// Whether a node's widgets stand where they stood when it was queued.
function isSetAs(node, inputs) {
  const widgets = new Map((node.widgets ?? []).map((widget) => [widget.name, widget.value]));
  return Object.entries(inputs).every(
    ([name, value]) => typeof value === "object" || !widgets.has(name) || widgets.get(name) === value,
  );
}

function* allNodes(graph = app.rootGraph ?? app.graph) {
  for (const node of graph?._nodes ?? []) {
    yield node;
    if (node.subgraph) yield* allNodes(node.subgraph);
  }
}

// Whether a prompt came from the graph that is open: other workflow tabs have nodes of the same numbers.
const known = new Map();
async function isHere(id) {
  const key = `${id} ${graphId()}`;
  if (!known.has(key)) {
    const queue = await ask("/queue");
    const waiting = [...(queue.queue_running ?? []), ...(queue.queue_pending ?? [])].find((entry) => entry[1] === id);
    const entry = waiting ?? (await ask(`/history/${id}`))[id]?.prompt;
    known.set(key, Boolean(entry) && isOfThisGraph(entry));
  }
  return known.get(key);
}

async function ask(path) {
  return (await api.fetchApi(path)).json();
}

// After a reload, an undo or a change of the workflow tab: what the page keeps of each node, else what the host remembers
// of this graph's last runs, and of the one that goes on.
async function findAgain() {
  if (![...allNodes()].some((node) => node.attractorPanel)) return;
  const graph = graphId();
  const last = new Map(Object.entries(app.nodeOutputs ?? {}).map(([id, output]) => [id, output?.attractor]));
  const [history, queue] = await Promise.all([ask(`/history?max_items=${REMEMBERED}`), ask("/queue")]);
  if (graph !== graphId()) return; // another graph was opened meanwhile
  const runs = Object.values(history).filter(({ prompt }) => isOfThisGraph(prompt));
  const same = ({ prompt }) => ours(prompt[2]).every(([key, one]) => isSetAs(nodeOf(key), one.inputs));
  for (const { outputs } of [...runs, ...runs.filter(same)]) // a run with these very settings before later ones with others
    for (const [id, output] of Object.entries(outputs ?? {})) if (output.attractor) last.set(id, output.attractor);
  for (const [id, found] of last) nodeOf(id)?.attractorPanel?.show(found);
  const going = (queue.queue_running ?? []).filter(isOfThisGraph).map((entry) => entry[1]);
  if (!going.length) return;
  const path = `/attractor/running?client_id=${encodeURIComponent(api.clientId ?? "")}`;
  const told = await (await fetch(api.fileURL(path), { cache: "no-store" })).json();
  for (const one of told.filter((one) => going.includes(one.prompt_id))) {
    const panel = nodeOf(one.node)?.attractorPanel;
    if (one.found) panel?.show(one.found);
    else panel?.live(one);
  }
}

async function drawn({ detail }) {
  if (await isHere(detail.prompt_id)) nodeOf(detail.node)?.attractorPanel?.live(detail);
}

async function executed({ detail }) {
  if (!detail.output?.attractor || !(await isHere(detail.prompt_id))) return;
  nodeOf(detail.display_node ?? detail.node)?.attractorPanel?.show(detail.output.attractor);
}

function ended() {
  for (const node of allNodes()) node.attractorPanel?.ended();
}

function quietly(promise) {
  promise.catch((error) => console.warn("Attractor: the host did not answer:", error.message));
}

// The host gives a page its client id with the first status. A page that is loaded again keeps the id.
let saidFor;
async function sayWhetherWeDraw(again = false) {
  const client = api.clientId;
  if (!client || (client === saidFor && !again)) return;
  const answer = await fetch(api.fileURL("/attractor/page"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ client_id: client, draws: on }),
  });
  if (answer.ok) saidFor = client;
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
    on = app.ui.settings.getSettingValue(SETTING) !== false;
    api.addEventListener("status", () => quietly(sayWhetherWeDraw()));
    api.addEventListener("reconnected", () => quietly(sayWhetherWeDraw(true)));
    quietly(sayWhetherWeDraw());
    if (!on) return;
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./attractor.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener("attractor.curve", (event) => quietly(drawn(event)));
    api.addEventListener("executed", (event) => quietly(executed(event)));
    for (const end of ["execution_interrupted", "execution_error", "execution_success"]) api.addEventListener(end, ended);
  },
  nodeCreated(node) {
    if (!on || !node.comfyClass?.startsWith("Attractor_")) return;
    markRare(node);
    if (node.comfyClass in PANELS) addPanel(node);
    node.setSize([node.size[0], node.computeSize()[1]]); // a saved graph says another size after this
  },
  afterConfigureGraph() {
    if (on) quietly(findAgain());
  },
});
