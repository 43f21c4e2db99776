// A cell's dialog: learning curves, every seed's result, and all that made them. Then the page is put together.
function openDetail(row, names) {
  const dialog = document.getElementById("detail");
  const close = make("button", { type: "button", class: "plain close", onclick: () => dialog.close() }, "Close");
  dialog.replaceChildren(...[
    close,
    make("h2", { id: "detail-title" }, names.length === 1 ? `${row.model} on ${names[0]}` : row.model),
    make("p", { class: "note" }, [row.protocol, row.kind, row.accelerator, row.overrides, row.variant].filter(Boolean).join(" · ")),
    ...row.reasons.map((reason) => make("p", { class: "note" }, reason)),
    ...names.flatMap((name) => [names.length > 1 ? make("h3", {}, name) : null, ...scoreDetails(row.scores[name], names.length === 1)]),
    make("p", { class: "note" }, "Solid: validation. Dashed: training. One colour a seed."
      + (data.thinned ? ` Thinned to ${data.thinned} points a seed for this page; records hold them all.` : "")),
  ].filter(Boolean));
  dialog.showModal();
  dialog.scrollTop = 0;
  close.focus();
}

/** Learning curves, seeds and records of a row in one column. */
function scoreDetails(score, open) {
  const cells = score.cells.map((place) => data.cells[place]);
  return [
    score.curves.length
      ? make("div", { class: "pair" }, ...score.curves.map((plot) => framed(plot, plot.title)))
      : make("p", { class: "note" }, "No learning curve was recorded."),
    seedTable(cells.flatMap((cell) => cell.seeds)),
    ...(score.published ? [make("p", {}, `Published under this protocol: ${fixed(score.published.value)} % `
      + `(${score.published.name}; ${score.published.source}).`)] : []),
    ...cells.map((cell, place) => cellDetails(cell, open && place === 0)),
  ];
}

function seedTable(seeds) {
  const percent = (value) => (value === null || value === undefined ? "–" : `${fixed(100 * value)} %`);
  const head = ["Seed", "Status", "Test at best", "Validation best", "Best step", "Test at last", "Steps", "Error"];
  const rows = seeds.map((seed) => [
    String(seed.seed), seed.status, percent(seed.test_best), percent(seed.validation_best),
    seed.best_step?.toLocaleString("en") ?? "–", percent(seed.test_last), seed.steps?.toLocaleString("en") ?? "–",
    seed.error || "",
  ]);
  return scrolling("Results of each seed", plainTable(head, rows));
}

function plainTable(head, rows) {
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) =>
      make("td", {}, text instanceof Node ? text : String(text ?? "–")))))));
}

function cellDetails(cell, open) {
  const names = cell.seeds.map((seed) => seed.seed).join(", ");
  const { command, log, ...own } = cell.own;
  const parts = [make("summary", {}, `Record of seed ${names}: ${cell.own.status}`)];
  if (command) parts.push(make("pre", { "aria-label": "command" }, command));
  parts.push(nested("Record", own));
  for (const [name, place] of Object.entries(cell.shared)) parts.push(nested(name[0].toUpperCase() + name.slice(1), data.pool[place]));
  if (log) parts.push(make("h3", {}, "Log"), make("pre", {}, log.join("\n")));
  return make("details", open ? { open: "" } : {}, ...parts);
}

/** Nested values as a table of names and values, names joined by dots. */
function nested(title, values) {
  const rows = [];
  const walk = (value, name) => {
    if (Array.isArray(value) && value.every((part) => Array.isArray(part) && part.length === 2)) {
      value.forEach(([key, part]) => walk(part, `${name}.${key}`));
    } else if (value !== null && typeof value === "object" && !Array.isArray(value)) {
      for (const [key, part] of Object.entries(value)) walk(part, name ? `${name}.${key}` : key);
    } else rows.push([name, Array.isArray(value) ? value.join("; ") : value]);
  };
  walk(values, "");
  const body = rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value ?? "–"))));
  return make("div", {}, make("h3", {}, title), scrolling(title, make("table", {}, make("tbody", {}, ...body))));
}

function buildPublished() {
  const tasks = ["listops", "text", "retrieval", "image", "pathfinder", "pathx"];
  const place = document.getElementById("published");
  const box = make("div");
  const show = (protocol) => {
    const rows = data.published.filter((row) => !protocol || row.protocol === protocol).map((row) => [
      row.model, row.protocol, ...tasks.map((task) => row[task]), row.avg, [row.paper, row.source, row.note].filter(Boolean).join(". "),
    ]);
    box.replaceChildren(scrolling("Published results",
      plainTable(["Model", "Protocol", ...tasks, "Average as printed", "Source"], rows)));
  };
  const protocols = unique(data.published.map((row) => row.protocol));
  const words = {
    "lra-paper": "lra-paper: the benchmark's own", small: "small: 2 layers, width 64", ssm: "ssm: its family's own",
    "own-tuned": "own-tuned: each paper's own",
  };
  place.append(
    make("p", { class: "note" }, "Test accuracy (%) as printed in papers, each with its source. Printed averages follow three rules "
      + "(5 tasks, 6 with a failure as 50, 6 with a missing one as 0), so they can't be laid side by side."),
    make("details", {}, make("summary", {}, `${data.published.length} published rows`),
      select("Protocol", [["", "all"], ...protocols.map((name) => [name, words[name] || name])], show), box));
  show("");
}

function buildNotes() {
  const rows = Object.entries(data.columns).map(([name, column]) => [
    name, column.source, column.version, column.fingerprint.slice(0, 12), column.examples?.toLocaleString("en") ?? "–",
    column.majority === null ? "–" : fixed(column.majority),
  ]);
  document.getElementById("notes").append(
    make("p", {}, `${data.metric}. ${data.explained}`),
    ...data.conflicts.map((line) => make("p", { class: "lost" }, line)),
    scrolling("Data", plainTable(["Task", "Data", "Version", "Fingerprint", "Examples", "Most frequent class (%)"], rows)),
    ...Object.entries(data.columns).flatMap(([name, column]) => column.notes.map((note) =>
      make("p", { class: "note" }, `${name}: ${note}`))));
}

const count = (values) => new Set(values).size;
const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
document.getElementById("summary").textContent = [
  counted(data.cells.length, "record"), counted(count(data.rows.map((row) => row.model)), "model"),
  counted(count(Object.values(data.columns).map((column) => column.task)), "task"),
  counted(count(data.rows.map((row) => row.accelerator)), "accelerator"),
].join(", ") + `. ${data.metric}.`;
buildFigures("speed", data.speed, "No two models have both an accuracy and a speed on one accelerator, so there is no picture.", discs);
buildFirst();
buildFilters();
renderTables();
buildFigures("length", data.length, "No model was run or measured at more than one length yet.", lines);
buildFigures("windows", data.windows, "How far a model looks was not measured in these records.", lines);
buildFigures("curves", data.curves, "No learning curve was recorded.", lines);
buildPublished();
buildNotes();
