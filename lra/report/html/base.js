// What all parts of the page share: the data, elements made from text, colours and numbers.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

// Okabe and Ito's colours that differ for every kind of sight; yellow is left out, being too light on white.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8A8A8A"];
const DASHES = ["", "7 3", "2 3", "8 3 2 3"];

/** An element with properties and children; children that are strings become text, never markup. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same for SVG. */
function draw(name, properties = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const models = [...new Set([...data.rows.map((row) => row.model), ...data.points.map((point) => point.model)])].sort();

/** A model's colour, dash and shape: the same in every figure of the page. */
function look(model) {
  const place = Math.max(0, models.indexOf(model));
  return {
    colour: COLOURS[place % COLOURS.length],
    dash: DASHES[Math.floor(place / COLOURS.length) % DASHES.length],
    shape: place % 4,
  };
}

function unique(values) {
  return [...new Set(values)].sort((a, b) => String(a).localeCompare(String(b)));
}

function fixed(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function short(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

function bytes(value) {
  if (!value) return "–";
  return value >= 1e9 ? `${short(value / 1e9)} GB` : `${short(value / 1e6)} MB`;
}

/** A select with its label; `choose` gets the chosen value. */
function select(label, options, choose, chosen = "") {
  const element = make("select", { onchange: () => choose(element.value) });
  for (const [value, text] of options) {
    element.append(make("option", value === chosen ? { value, selected: "" } : { value }, text));
  }
  return make("label", {}, label, element);
}

/** A table in a box that scrolls by itself, so that the page never does sideways. */
function scrolling(label, table) {
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
}
