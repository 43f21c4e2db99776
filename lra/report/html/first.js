// The first table: one row a model, a column a task, with scores of one or several rows of the tables below; it opens
// the learning curves and records.
function buildFirst() {
  const place = document.getElementById("first"), table = data.first;
  if (!table) { place.append(make("p", { class: "note" }, "No row has a protocol's own recipe: see all results.")); return; }
  for (const entry of table.rows) {
    entry.row = { ...data.rows[entry.row] };
    entry.row.scores = Object.fromEntries(Object.entries(entry.scores).map(([name, from]) =>
      [name, { ...data.rows[from].scores[name], accelerator: data.rows[from].accelerator, seen: entry.seen[name] }]));
  }
  const methods = { device_peak_bytes: "peak", compiled_bytes: "compiled" };
  const far = table.rows.some((entry) => entry.distance);
  const columns = [
    { key: "rank", text: "#", value: (entry) => entry.rank },
    { key: "model", text: "Model", value: (entry) => entry.row.model },
    { key: "family", text: "Family", value: (entry) => data.looks.families[entry.family] },
    ...table.columns.map((name) => ({ key: name, text: name.split("@")[0], small: `@${name.split("@").slice(1).join("@")}, %`, down: true,
      value: (entry) => entry.row.scores[name]?.mean })),
    ...(table.average ? [{ key: "average", text: "Average", small: "%", down: true, value: (entry) => entry.value.mean }] : []),
    ...(far ? [{ key: "distance", text: "Distance", small: "tokens", down: true, value: (entry) => entry.distance?.solved }] : []),
    { key: "speed", text: "Speed", small: table.speed ? `steps/s, ${table.speed}` : "steps/s", down: true,
      value: (entry) => entry.speed },
    { key: "memory", text: "Memory", small: methods[table.memory], value: (entry) => entry.memory },
  ];
  const body = make("tbody"), order = { key: "", down: false };
  const heads = columns.map((column) => make("th", { scope: "col", "aria-sort": "none" }, make("button", {
    type: "button", "data-key": column.key, onclick: () => sortBy(column),
  }, column.text), column.small ? make("small", {}, column.small) : null));
  const rows = table.rows.map((entry) => [entry, firstRow(entry, table, far)]);
  const sortBy = (column) => {
    order.down = order.key === column.key ? !order.down : Boolean(column.down);
    order.key = column.key;
    heads.forEach((head, i) => head.setAttribute("aria-sort",
      columns[i] === column ? (order.down ? "descending" : "ascending") : "none"));
    body.append(...ordered(rows, ([entry]) => column.value(entry) ?? null, order.down).map(([, row]) => row));
  };
  body.append(...rows.map(([, row]) => row));
  place.append(make("h2", {}, table.title), scrolling(table.title, make("table", { class: "all" },
    make("thead", {}, make("tr", {}, ...heads)), body)),
    ...table.notes.map((note) => make("p", { class: "note" }, note)));
}

function firstRow(entry, table, far) {
  const row = entry.row;
  const open = () => openDetail(row, table.columns.filter((name) => row.scores[name]));
  const name = make("button", { type: "button", "aria-haspopup": "dialog", title: row.accelerator },
    ...breakable(row.model), entry.mark);
  const cells = [
    make("td", { class: "number" }, entry.rank === null ? "–" : String(entry.rank)),
    make("th", { scope: "row" }, name),
    make("td", { class: "kin" }, make("i"), make("span", {}, data.looks.families[entry.family])),
    ...table.columns.map((column) => firstScore(row.scores[column], entry.best.includes(column))),
    ...(table.average ? [firstScore(entry.value, entry.best.includes(""))] : []),
    ...(far ? [make("td", { class: "number", title: entry.distance?.told }, entry.distance?.text ?? "–")] : []),
    make("td", { class: "number", title: table.accelerator }, short(entry.speed)),
    make("td", { class: "number", title: table.accelerator }, bytes(entry.memory)),
  ];
  return make("tr", { class: `family-${entry.family}`, onclick: open }, ...cells);
}

function firstScore(score, best) {
  if (score?.mean === undefined) {
    const lost = Object.keys(score?.lost || {}).join(", ");
    return make("td", { class: lost ? "number lost" : "number" }, lost || "–");
  }
  const error = score.low === null ? null : make("span", { class: "error" }, ` ± ${fixed((score.high - score.low) / 2)}`);
  const seeds = `${score.seeds} seed${score.seeds === 1 ? "" : "s"}`;
  const title = score.accelerator ? `${seeds}, ${score.accelerator}` : seeds;
  const seen = score.seen ? make("small", { title: "tokens within which half / nine tenths of what a state depends on lies" }, score.seen) : null;
  return make("td", { class: best ? "number best" : "number", title }, make("span", { class: "mean" }, fixed(score.mean)), error, seen);
}
