// The figures: accuracy against speed with memory as area, speed and memory against length, learning curves.
const TOP = 16, BOTTOM = 48;
const narrow = window.matchMedia("(max-width: 40rem)").matches;
const LEFT = narrow ? 50 : 62;

/** A scale from [low, high] to [from, to], by logarithm where `log`. */
function scale(low, high, from, to, log) {
  const f = log ? Math.log10 : (value) => value;
  const span = f(high) - f(low) || 1;
  return (value) => from + ((f(value) - f(low)) / span) * (to - from);
}

function niceTicks(low, high, log, most = 6) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    let kept = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    if (kept.length > most) kept = kept.filter((value) => String(value.toPrecision(1)).replace(/[0.e+-]/g, "")[0] === "1");
    return kept;
  }
  const rough = (high - low) / (most - 1) || 1;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * base).find((value) => value >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

/** An empty plot with axes; returns the drawing and its two scales. */
function plot({ label, x, y, wide, high, right }) {
  const svg = draw("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": label });
  const sx = scale(x.low, x.high, LEFT, wide - right, x.log);
  const sy = scale(y.low, y.high, high - BOTTOM, TOP, y.log);
  for (const value of y.ticks || niceTicks(y.low, y.high, y.log)) {
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: wide - right, y1: sy(value), y2: sy(value) }));
    svg.append(draw("text", { class: "tick", x: LEFT - 7, y: sy(value) + 4, "text-anchor": "end" }, y.text(value)));
  }
  let last = -Infinity;
  for (const value of x.ticks || niceTicks(x.low, x.high, x.log)) {
    if (sx(value) - last < 38) continue;
    last = sx(value);
    svg.append(draw("line", { class: "axis", x1: sx(value), x2: sx(value), y1: high - BOTTOM, y2: high - BOTTOM + 5 }));
    svg.append(draw("text", { class: "tick", x: sx(value), y: high - BOTTOM + 19, "text-anchor": "middle" }, x.text(value)));
  }
  svg.append(draw("text", { x: (LEFT + wide - right) / 2, y: high - 8, "text-anchor": "middle" }, x.name));
  const middle = (TOP + high - BOTTOM) / 2;
  svg.append(draw("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, y.name));
  return { svg, sx, sy };
}

function spread(values, share, log) {
  const low = Math.min(...values), high = Math.max(...values);
  if (log) return [low / (1 + share), high * (1 + share)];
  const room = (high - low || Math.abs(high) || 1) * share;
  return [low - room, high + room];
}

/** One memory method for all points, since two may never share a figure. */
function memoryMethod(points) {
  if (points.length && points.every((point) => point.device)) return ["device", "the accelerator's peak memory"];
  if (points.length && points.every((point) => point.compiled)) return ["compiled", "the compiled program's memory"];
  return [null, ""];
}

/** Keeps labels apart: moves each below those it would cover. */
function apart(labels) {
  const width = ({ text }) => 7 * text.length;
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, place) => {
    for (const above of labels.slice(0, place).sort((a, b) => a.y - b.y)) {
      const beside = label.x > above.x + width(above) || above.x > label.x + width(label);
      if (!beside && Math.abs(label.y - above.y) < 13) label.y = above.y + 13;
    }
  });
  return labels;
}

function buildSpeed() {
  const sets = new Map();
  for (const row of data.rows) {
    for (const [name, score] of Object.entries(row.scores)) {
      if (score.mean === undefined || !score.steps) continue;
      const key = `${name} · ${row.protocol} · ${row.accelerator}`;
      if (!sets.has(key)) sets.set(key, []);
      sets.get(key).push({ row, name, ...score });
    }
  }
  const place = document.getElementById("speed");
  if (!sets.size) { place.append(make("p", { class: "note" }, "No cell has both an accuracy and a speed.")); return; }
  const keys = [...sets.keys()].sort((a, b) => sets.get(b).length - sets.get(a).length || a.localeCompare(b));
  const figure = make("figure", { id: "speed-figure" });
  const show = (key) => figure.replaceChildren(...speedFigure(key, sets.get(key)));
  place.append(select("Task, protocol, accelerator", keys.map((key) => [key, key]), show, keys[0]), figure);
  show(keys[0]);
}

function speedFigure(key, points) {
  const [method, words] = memoryMethod(points);
  const [left, right] = spread(points.map((point) => point.steps), 0.35, true);
  const [low, high] = spread(points.map((point) => point.mean), 0.2);
  const [wide, reach] = narrow ? [420, 20] : [860, 34];
  const { svg, sx, sy } = plot({
    wide, high: narrow ? 380 : 440, right: narrow ? 40 : 150,
    label: `Accuracy against training speed: ${key}`,
    x: { low: left, high: right, log: true, name: "training steps per second", text: short },
    y: { low, high, name: `${points[0].name}, accuracy (%)`, text: (value) => String(Number(value.toFixed(2))) },
  });
  const most = method ? Math.max(...points.map((point) => point[method])) : 1;
  const radius = (point) => (method ? Math.max(3, reach * Math.sqrt(point[method] / most)) : 6);
  const marks = [...points].sort((a, b) => radius(b) - radius(a)).map((point) => {
    const { colour } = look(point.row.model);
    const free = point.row.kind === "free for all";
    const told = `${point.row.model}: ${fixed(point.mean)} %, ${short(point.steps)} steps/s, ${bytes(point[method])}`;
    const disc = draw("circle", {
      cx: sx(point.steps), cy: sy(point.mean), r: radius(point), fill: colour, "fill-opacity": free ? 0.08 : 0.4,
      stroke: colour, "stroke-width": 1.5, ...(free ? { "stroke-dasharray": "4 3" } : {}),
    });
    return draw("g", { class: "series", tabindex: "0" }, draw("title", {}, told), disc,
      draw("circle", { cx: sx(point.steps), cy: sy(point.mean), r: 2, fill: colour }));
  });
  const labels = points.map((point) => {
    const text = point.row.model;
    return { x: Math.min(sx(point.steps) + 7, wide - 7 * text.length), y: sy(point.mean) + 4, text };
  });
  svg.append(...marks, ...apart(labels).map(({ x, y, text }) => draw("text", { class: "halo", x, y }, text)));
  if (method && !narrow) svg.append(...areaLegend(wide - 62, reach, most));
  const told = method ? ` A disc's area is ${words}; the largest is ${bytes(most)}.` : " No memory method covers all of these cells, so discs are alike.";
  return [svg, make("figcaption", {}, `Up and right is better.${told} Dashed discs: free for all.`)];
}

function areaLegend(x, reach, most) {
  const parts = [draw("text", { class: "tick", x, y: TOP + 10, "text-anchor": "middle" }, "memory")];
  let y = TOP + 22;
  for (const share of [1, 0.25, 0.0625]) {
    const r = reach * Math.sqrt(share);
    parts.push(draw("circle", { cx: x, cy: y + r, r, fill: "none", stroke: "currentColor", opacity: 0.5 }));
    parts.push(draw("text", { class: "tick", x, y: y + 2 * r + 13, "text-anchor": "middle" }, bytes(most * share)));
    y += 2 * r + 22;
  }
  return parts;
}

function buildLength() {
  const sets = new Map();
  for (const point of data.points) {
    const key = [point.task, point.protocol, point.accelerator, point.setting, point.kind].filter(Boolean).join(" · ");
    if (!sets.has(key)) sets.set(key, []);
    sets.get(key).push(point);
  }
  const keys = [...sets.keys()].filter((key) => new Set(sets.get(key).map((point) => point.length)).size > 1).sort();
  const place = document.getElementById("length");
  if (!keys.length) {
    place.append(make("p", { class: "note" }, "No model was run or measured at more than one length yet."));
    return;
  }
  const pair = make("div", { class: "pair", id: "length-figures" });
  const show = (key) => pair.replaceChildren(...lengthFigures(sets.get(key)));
  place.append(select("Task, protocol, accelerator", keys.map((key) => [key, key]), show, keys[0]), pair);
  show(keys[0]);
}

function lengthFigures(points) {
  const [method, words] = memoryMethod(points.filter((point) => point.status === "ok"));
  const parts = [lengthFigure(points, "steps", "training steps per second", short)];
  if (method) parts.push(lengthFigure(points, method, words, bytes));
  return parts.filter(Boolean);
}

function lengthFigure(points, field, name, text) {
  const kept = points.filter((point) => point[field] && point.status === "ok");
  if (!kept.length) return null;
  const lengths = unique(kept.map((point) => point.length)).sort((a, b) => a - b);
  const [low, high] = spread(kept.map((point) => point[field]), 0.3, true);
  const { svg, sx, sy } = plot({
    label: `${name} against length`, wide: narrow ? 420 : 560, high: 380, right: narrow ? 128 : 130,
    x: { low: lengths[0], high: lengths[lengths.length - 1], log: true, name: "length (tokens)", ticks: lengths, text: short },
    y: { low, high, log: true, name, text },
  });
  const labels = [];
  for (const model of unique(kept.map((point) => point.model))) {
    const line = lengths.map((length) => {
      const there = kept.filter((point) => point.model === model && point.length === length).map((point) => point[field]);
      return there.length ? [length, there.sort((a, b) => a - b)[Math.floor(there.length / 2)]] : null;
    }).filter(Boolean);
    const { colour, dash, shape } = look(model);
    const path = line.map(([x, y], i) => `${i ? "L" : "M"}${sx(x)} ${sy(y)}`).join("");
    const series = draw("g", { class: "series", tabindex: "0" }, draw("title", {}, model),
      draw("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
    for (const [x, y] of line) series.append(marker(shape, sx(x), sy(y), colour));
    svg.append(series);
    const [x, y] = line[line.length - 1];
    labels.push({ x: sx(x) + 9, y: sy(y) + 4, text: model });
  }
  for (const { x, y, text: words } of apart(labels)) svg.append(draw("text", { class: "halo", x, y }, words));
  return make("figure", {}, svg);
}

function marker(shape, x, y, colour) {
  const d = [
    `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0`, `M${x - 4} ${y - 4}h8v8h-8z`,
    `M${x} ${y - 5}l5 9h-10z`, `M${x} ${y - 5}l5 5l-5 5l-5 -5z`,
  ][shape];
  return draw("path", { d, fill: colour });
}
