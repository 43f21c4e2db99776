// Draws what Python has laid out: every position and text comes with the data. Here are families, tips and light.
const picked = new Set();
const phone = window.matchMedia("(max-width: 40rem)");

function pairs(values) {
  const found = [];
  for (let i = 0; i < values.length; i += 2) found.push([values[i], values[i + 1]]);
  return found;
}

const trace = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");
const around = (points, x, y, size) => points.map(([a, b]) => [x + size * a, y + size * b]);

/** A chart as SVG. */
function chart(plot) {
  const svg = draw("svg", { viewBox: `0 0 ${plot.wide} ${plot.high}`, role: "group", "aria-label": plot.title });
  const [left, top, right, bottom] = plot.box;
  for (const [place, text] of plot.y.ticks) {
    svg.append(draw("line", { class: "axis", x1: left, x2: right, y1: place, y2: place }),
      draw("text", { class: "tick", x: left - 6, y: place + 4, "text-anchor": "end" }, text));
  }
  for (const [place, text] of plot.x.ticks) {
    svg.append(draw("line", { class: "axis", x1: place, x2: place, y1: bottom, y2: bottom + 4 }),
      draw("text", { class: "tick", x: place, y: bottom + 16, "text-anchor": "middle" }, text));
  }
  const middle = (top + bottom) / 2;
  svg.append(draw("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, plot.x.name),
    draw("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, plot.y.name));
  const marks = plot.marks.map((mark) => [drawMark(mark), drawLabel(mark), mark]);
  svg.append(...marks.map(([shape]) => shape), ...marks.flatMap(([, label]) => (label ? [label] : [])));
  for (const [shape, label, mark] of marks) light(svg, [shape, label].filter(Boolean), mark);
  return svg;
}

function drawMark(mark) {
  const parts = [], dash = data.looks.dashes[mark.dash].join(" ");
  if (mark.band) parts.push(draw("path", { class: "band", d: `${trace(pairs(mark.band))}Z` }));
  if (mark.disc) {
    const [cx, cy, r] = mark.disc;
    parts.push(draw("circle", { class: mark.hollow ? "disc hollow" : "disc", cx, cy, r }));
  }
  if (mark.line) {
    const d = trace(pairs(mark.line));
    parts.push(draw("path", { class: "reach", d }), draw("path", { class: "line", d, "stroke-dasharray": dash }));
  }
  if (mark.failure) {
    const [x0, y0, x, y, status] = mark.failure;
    parts.push(draw("path", { class: "line until", d: trace([[x0, y0], [x, y]]) }));
    const strokes = data.looks.failures[status].map((stroke) => trace(around(stroke, x, y, 5))).join("");
    parts.push(draw("path", { class: "line", d: strokes }));
  }
  const shape = data.looks.shapes[mark.shape];
  const markers = pairs(mark.points || []).map(([x, y]) => `${trace(around(shape, x, y, 4.5))}Z`).join("");
  if (markers) parts.push(draw("path", { class: "marker", d: markers }));
  const told = [mark.name, ...(mark.told || [])].join(", ");
  return draw("g", { class: `mark family-${mark.colour}`, tabindex: "0", role: "img", "aria-label": told }, ...parts);
}

function drawLabel(mark) {
  if (!mark.label) return null;
  const [x, y, text] = mark.label;
  const parts = mark.lead ? [draw("path", { class: "lead", d: trace(pairs(mark.lead)) })] : [];
  return draw("g", { class: `name family-${mark.colour}`, "aria-hidden": "true" }, ...parts,
    draw("text", { class: "halo", x, y }, text));
}

/** While the pointer or the focus is on a mark or its label, the others are pale and its numbers are shown. */
function light(svg, elements, mark) {
  const set = (on) => {
    svg.classList.toggle("lit", on);
    elements.forEach((element) => element.classList.toggle("on", on));
    tip(on ? [mark.name, ...(mark.told || [])] : [], elements[0]);
  };
  for (const element of elements) {
    element.addEventListener("pointerenter", () => set(true));
    element.addEventListener("pointerleave", () => set(false));
    element.addEventListener("focus", () => set(true));
    element.addEventListener("blur", () => set(false));
  }
}

const box = make("div", { id: "tip", role: "tooltip", hidden: "" });

/** Lines of text beside an element; none hides them. They stand in its dialog, which covers the page. */
function tip(lines, element) {
  box.hidden = !lines.length;
  box.replaceChildren(...lines.map((line, place) => make(place ? "div" : "b", {}, line)));
  if (box.hidden) return;
  (element.closest("dialog") || document.body).append(box);
  const mark = (element.querySelector(".marker, .line") || element).getBoundingClientRect();
  const x = Math.min(Math.max(6, mark.right + 12), document.documentElement.clientWidth - box.offsetWidth - 6);
  const above = mark.top - box.offsetHeight - 10;
  box.style.left = `${x}px`;
  box.style.top = `${above > 6 ? above : mark.bottom + 10}px`;
}

/** Buttons for the families; the picked ones, or all where none is, are shown in every figure. */
function familyButtons(families) {
  const buttons = families.map((family) => make("button", {
    type: "button", class: `family family-${family}`, "aria-pressed": "false", "data-family": family,
    title: "Show only the families that are picked",
    onclick: () => {
      if (!picked.delete(family)) picked.add(family);
      showPicked(document);
    },
  }, make("i"), data.looks.families[family]));
  return make("div", { class: "families", role: "group", "aria-label": "Families to show" }, ...buttons);
}

function showPicked(root) {
  data.looks.families.forEach((_, family) => {
    const out = picked.size > 0 && !picked.has(family);
    for (const element of root.querySelectorAll(`.all .family-${family}`)) element.classList.toggle("out", out);
    for (const button of root.querySelectorAll(`button.family-${family}`)) button.setAttribute("aria-pressed", picked.has(family));
  });
}

/** Figures one of which is shown, with their families: `draws` makes its elements. */
function buildFigures(id, figures, empty, draws) {
  const place = document.getElementById(id);
  if (!figures.length) { place.append(make("p", { class: "note" }, empty)); return; }
  const shown = make("div", { class: "all", id: `${id}-figure` }), bar = make("div", { class: "bar" });
  const show = (key) => {
    const figure = figures[Number(key)];
    bar.querySelector(".families")?.remove();
    bar.prepend(familyButtons(figure.families));
    shown.replaceChildren(...draws(figure),
      make("p", { class: "note" }, figure.notes.join(" ")));
    showPicked(document);
  };
  const options = figures.map((figure, number) => [String(number), figure.title]);
  if (figures.length > 1) bar.append(select("Figure", options, show, "0"));
  place.append(bar, shown);
  show("0");
  if (figures.some((figure) => figure.narrow)) {
    phone.addEventListener("change", () => show(place.querySelector("select")?.value ?? "0"));
  }
}

const framed = (plot, title) => make("figure", {}, title ? make("figcaption", {}, title) : null, chart(plot));
const discs = (figure) => (phone.matches ? figure.narrow : figure.plots).map((plot) => framed(plot, figure.title));
const lines = (figure) => [make("div", { class: "pair" }, ...figure.plots.map((plot) => framed(plot, plot.title)))];
