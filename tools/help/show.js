// Leaves one node of a graph that ran on the canvas, with what it is wired to, and says where it lies; see __main__.py.
async ([type, graph]) => {
  const MOST = 5; // nodes on either side
  await app.loadGraphData(graph);
  const node = app.graph._nodes.find((one) => one.type === type);
  const panel = node.widgets?.find((one) => one.name === "attractor_panel")?.element;
  const first = panel?.textContent;
  for (let i = 0; i < 10 || (panel?.textContent === first && i < 100); i++) {
    await new Promise((done) => setTimeout(done, 100)); // the panel finds what it showed
  }
  const linked = (slots, from) => {
    const ids = (slots ?? []).flatMap((slot) => slot.links ?? (slot.link ? [slot.link] : []));
    const links = ids.map((id) => app.graph.links.get?.(id) ?? app.graph.links[id]);
    return [...new Set(links.map((link) => app.graph.getNodeById(from ? link.origin_id : link.target_id)))];
  };
  const before = linked(node.inputs, true).slice(0, MOST);
  const after = linked(node.outputs, false).filter((one) => !before.includes(one)).slice(0, MOST);
  const kept = [node, ...before, ...after];
  for (const other of [...app.graph._nodes]) if (!kept.includes(other)) app.graph.remove(other);
  const height = (one) => (one.flags.collapsed ? 0 : one.size[1]);
  const width = (one) => (one.flags.collapsed ? 220 : one.size[0]);
  const place = (nodes, left) => {
    let top = 0;
    for (const one of nodes) {
      one.flags.collapsed = !one.type.startsWith("Preview");
      one.pos = [left, top];
      top += height(one) + 60;
    }
  };
  const start = before.length ? 330 : 0;
  node.setSize([Math.max(400, node.size[0]), node.size[1]]);
  node.pos = [start, 0];
  place(before, 0);
  place(after, start + node.size[0] + 70);
  const right = start + node.size[0] + (after.length ? 70 + Math.max(...after.map(width)) : 0);
  const low = Math.max(...kept.map((one) => one.pos[1] + height(one)));
  const scale = Math.min(1, 1300 / right, 700 / (low + 40));
  app.canvas.ds.scale = scale;
  app.canvas.ds.offset = [120 / scale, 150 / scale];
  app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 700));
  return { x: 104, y: 138 - 40 * scale, width: right * scale + 32, height: (low + 40) * scale + 28 };
}
