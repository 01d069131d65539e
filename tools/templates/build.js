// Builds one template on the front end's own canvas and gives what it would save; see __main__.py.
async ({ columns, models, tall, id }) => {
  app.graph.clear();
  app.graph.id = id;
  const made = {};
  const problems = [];
  let left = 0;
  for (const column of columns) {
    const note = LiteGraph.createNode("MarkdownNote");
    note.title = column.title;
    note.widgets[0].value = column.note;
    app.graph.add(note);
    const nodes = [note];
    for (const [name, entry] of Object.entries(column.nodes)) {
      const node = LiteGraph.createNode(entry.class_type);
      if (!node) { problems.push(`${name}: no node ${entry.class_type}`); continue; }
      app.graph.add(node);
      made[name] = node;
      nodes.push(node);
      for (const [key, value] of Object.entries(entry.inputs)) {
        if (Array.isArray(value)) continue;
        const widget = node.widgets?.find((w) => w.name === key);
        if (!widget) { problems.push(`${name}: no widget ${key}`); continue; }
        widget.value = value;
      }
      const model = models.find((m) => Object.values(entry.inputs).includes(m.name));
      if (model) node.properties.models = [model];
    }
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const width = Math.max(340, ...nodes.map((n) => n.computeSize()[0]));
    let top = 0;
    for (const node of nodes) {
      const least = tall.includes(node.type) ? 300 : 0;
      const height = node === note ? 110 : Math.max(node.computeSize()[1], least); // with room for what its panel shows
      node.setSize([width, height]);
      node.pos = [left, top];
      top += height + (node === note ? 60 : node.attractorPanel ? 172 : 100); // Vue nodes are taller by up to 112
    }
    left += width + 60;
  }
  for (const column of columns) {
    for (const [name, entry] of Object.entries(column.nodes)) {
      for (const [key, value] of Object.entries(entry.inputs)) {
        if (!Array.isArray(value)) continue;
        const [source, slot] = value;
        const place = made[name].inputs.findIndex((input) => input.name === key);
        if (place < 0 || !made[source]) { problems.push(`${name}: cannot connect ${key}`); continue; }
        made[source].connect(slot, made[name], place);
      }
    }
  }
  const prompt = await app.graphToPrompt();
  const names = Object.fromEntries(Object.entries(made).map(([name, node]) => [String(node.id), name]));
  return JSON.stringify({ graph: app.graph.serialize(), prompt: prompt.output, names, problems });
}
