// The tables: one a group, because rows of different groups are never ranked together.
const filters = { words: "", protocol: "", kind: "", accelerator: "", task: "" };
const orders = data.groups.map(() => ({ key: null, down: true }));
const opened = data.groups.map(() => false);
const MOST_ROWS = 200;

function buildFilters() {
  const form = document.getElementById("filters");
  const search = make("input", {
    type: "search", id: "search", placeholder: "model, setting…",
    oninput: () => { filters.words = search.value.toLowerCase(); renderTables(); },
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.append(make("label", {}, "Search", search));
  const every = {
    protocol: ["Protocol", data.groups.map((group) => group.protocol)],
    kind: ["Comparison", data.groups.map((group) => group.kind)],
    task: ["Task", Object.values(data.columns).map((column) => column.task)],
    accelerator: ["Accelerator", data.rows.map((row) => row.accelerator)],
  };
  for (const [name, [label, values]] of Object.entries(every)) {
    const options = unique(values);
    if (options.length < 2) continue;
    const all = ["", "all"];
    form.append(select(label, [all, ...options.map((value) => [value, value])], (value) => {
      filters[name] = value;
      renderTables();
    }));
  }
}

function shownRows(group) {
  if (filters.protocol && group.protocol !== filters.protocol) return [];
  if (filters.kind && group.kind !== filters.kind) return [];
  const columns = shownColumns(group);
  return group.rows.map((place) => data.rows[place]).filter((row) =>
    (!filters.accelerator || row.accelerator === filters.accelerator)
    && [row.model, row.overrides, row.variant].join(" ").toLowerCase().includes(filters.words)
    && columns.some((name) => row.scores[name]));
}

function shownColumns(group) {
  return group.columns.filter((name) => !filters.task || data.columns[name].task === filters.task);
}

/** What a row is sorted by: a number or text; null goes last in both directions. */
function sortValue(row, key) {
  if (key === "model") return row.model;
  if (key === "rank") return row.rank;
  if (key === "parameters") return row.parameters;
  const score = row.scores[key] || row.averages[key];
  return score && score.mean !== undefined ? score.mean : null;
}

function sorted(rows, { key, down }) {
  return key === null ? rows : ordered(rows, (row) => sortValue(row, key), down);
}

function header(group, place, key, label, small, wide) {
  const order = orders[place];
  const state = order.key === key ? (order.down ? "descending" : "ascending") : "none";
  const first = key === "model" || key === "rank" || key === "parameters" ? false : true;
  const button = make("button", {
    type: "button",
    onclick: () => {
      orders[place] = order.key === key ? { key, down: !order.down } : { key, down: first };
      renderTables();
      document.querySelector(`[data-group="${place}"] [data-key="${CSS.escape(key)}"]`)?.focus();
    },
    "data-key": key,
  }, label);
  return make("th", { scope: "col", "aria-sort": state, class: wide ? "wide" : "" }, button,
    small ? make("small", {}, small) : null);
}

function renderTables() {
  const place = document.getElementById("tables");
  const scrolls = [...place.querySelectorAll(".scroll")].map((box) => [box.dataset.group, box.scrollLeft]);
  let count = 0;
  const parts = [];
  data.groups.forEach((group, index) => {
    const rows = sorted(shownRows(group), orders[index]);
    count += rows.length;
    if (rows.length) parts.push(renderGroup(group, index, rows));
  });
  place.replaceChildren(...parts);
  for (const [group, left] of scrolls) {
    const box = place.querySelector(`.scroll[data-group="${group}"]`);
    if (box) box.scrollLeft = left;
  }
  document.getElementById("count").textContent = `${count} of ${data.rows.length} rows`;
}

function renderGroup(group, index, rows) {
  const columns = shownColumns(group);
  const averages = filters.task ? [] : group.averages;
  const ranges = Object.fromEntries([...columns, ...averages].map((name) => [name, range(group, name)]));
  const head = make("tr", {},
    header(group, index, "model", "Model"),
    ...averages.map((name) => header(group, index, name, name.split(" (")[0], name.slice(name.indexOf("(")), true)),
    ...columns.map((name) => header(group, index, name, name, "accuracy, %")),
    header(group, index, "parameters", "Parameters"),
  );
  const kept = opened[index] ? rows : rows.slice(0, MOST_ROWS);
  const body = make("tbody", {}, ...kept.map((row) => renderRow(row, columns, averages, ranges)));
  const table = make("table", {}, make("thead", {}, head), body);
  const box = scrolling(group.title, table);
  box.dataset.group = index;
  const section = make("section", {}, make("h3", {}, group.title), make("p", { class: "note" }, group.told), box);
  if (kept.length < rows.length) {
    section.append(make("button", {
      type: "button", class: "plain", onclick: () => { opened[index] = true; renderTables(); },
    }, `Show all ${rows.length} rows`));
  }
  return section;
}

/** The least and greatest end of a column's intervals in a group: what its little bars span. */
function range(group, name) {
  const ends = group.rows.flatMap((place) => {
    const score = data.rows[place].scores[name] || data.rows[place].averages[name];
    return score && score.mean !== undefined ? [score.low ?? score.mean, score.high ?? score.mean] : [];
  });
  return ends.length ? [ends.reduce((a, b) => Math.min(a, b)), ends.reduce((a, b) => Math.max(a, b))] : [0, 1];
}

function renderRow(row, columns, averages, ranges) {
  const reasons = row.reasons.filter((reason) => !row.overrides.split(" ").includes(reason));
  const why = reasons.length > 1 ? `${reasons[0]}; ${reasons.length - 1} more` : reasons.join("");
  const under = [row.overrides, row.variant, row.accelerator, why].filter(Boolean);
  const name = make("th", { scope: "row", title: row.reasons.join("\n") },
    ...breakable(row.rank ? `${row.rank}. ${row.model}` : row.model),
    ...under.map((text) => make("small", {}, text)));
  return make("tr", {}, name,
    ...averages.map((key) => renderScore(row, key, row.averages[key], ranges[key])),
    ...columns.map((key) => renderScore(row, key, row.scores[key], ranges[key])),
    make("td", {}, row.parameters ? row.parameters.toLocaleString("en") : "–"));
}

/** A name that may be broken after its underlines and colons. */
function breakable(text) {
  return text.split(/(?<=[_:,])/).flatMap((part) => [part, make("wbr")]);
}

function renderScore(row, name, score, [low, high]) {
  if (!score) return make("td", { class: "score" }, make("div", {}, "–"));
  const parts = [];
  if (score.mean !== undefined) {
    parts.push(make("span", { class: "mean" }, fixed(score.mean)));
    if (score.low !== null) parts.push(make("span", { class: "error" }, ` ± ${fixed((score.high - score.low) / 2)}`));
    parts.push(track(score, low, high));
  }
  const more = [];
  const lost = Object.entries(score.lost || {}).map(([status, count]) => `${count} ${status}`).join(", ");
  if (score.seeds && score.cells) more.push(`${score.seeds} seed${score.seeds > 1 ? "s" : ""}`);
  if (score.steps) more.push(`${short(score.steps)} steps/s`);
  if (lost) parts.push(make("span", { class: "more lost" }, lost));
  if (more.length) parts.push(make("span", { class: "more" }, more.join(" · ")));
  if (score.published && score.mean !== undefined) parts.push(besidePaper(score));
  const inner = score.cells
    ? make("button", { type: "button", onclick: () => openDetail(row, [name]), "aria-haspopup": "dialog" }, ...parts)
    : make("div", {}, ...parts);
  return make("td", { class: score.best ? "score best" : "score" }, inner);
}

function besidePaper(score) {
  const difference = score.mean - score.published.value;
  const text = `${difference < 0 ? "−" : "+"}${fixed(Math.abs(difference))}`;
  return make("span", { class: "more", title: `${score.published.name}: ${score.published.source}` },
    `paper ${fixed(score.published.value)}, `, make("span", { class: difference < 0 ? "down" : "up" }, text));
}

function track(score, low, high) {
  const at = (value) => `${high > low ? (100 * (value - low)) / (high - low) : 50}%`;
  const bar = make("span", { class: "track", "aria-hidden": "true" });
  if (score.low !== null) {
    const band = make("i");
    band.style.left = at(score.low);
    band.style.right = `calc(100% - ${at(score.high)})`;
    bar.append(band);
  }
  const mean = make("b");
  mean.style.left = at(score.mean);
  bar.append(mean);
  return bar;
}
