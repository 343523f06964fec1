// Nodes on an ellipse, sessions as lines between them. A large cluster shows those that want looking at, and one sign
// for all others.

import { byId, count, keep, make, plural, rove, say, set } from "./dom.js";
import { LINE_MARKS, NODE_MARKS, endText, isHeard, isUnwell, nodeSentence, sessionsMark, sessionsText } from "./sentences.js";

const MOST_NODES = 60;
/** So many broken sessions are marked with a word; more, with the sign alone. */
const MOST_WORDS = 12;
const GROUP = "\u0000others";
const narrow = matchMedia("(max-width: 40rem)");

let shown = { nodes: [], sessions: [], counts: {} };
let chosen = null;
let hovered = null;
let refreshStops = () => {};

/** Prepare the map; call once. */
export function prepareMap() {
  const svg = byId("map");
  svg.append(make("svg:g", { class: "lines" }), make("svg:g", { class: "marks" }), make("svg:g", { class: "places" }));
  refreshStops = rove(svg, ".place");
  svg.addEventListener("click", (event) => choose(event.target.closest(".place")?.dataset.key ?? null));
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(event.target.closest(".place")?.dataset.key ?? null);
    } else if (event.key === "Escape") {
      choose(null);
    }
  });
  for (const [enter, leave] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    svg.addEventListener(enter, (event) => hover(event.target.closest(".place")?.dataset.key ?? null));
    svg.addEventListener(leave, () => hover(null));
  }
  narrow.addEventListener("change", () => drawMap(shown));
}

/** Draw these nodes and sessions. */
export function drawMap({ nodes, sessions, counts }) {
  shown = { nodes, sessions, counts };
  const size = narrow.matches ? { width: 420, height: 460 } : { width: 860, height: 540 };
  set(byId("map"), { viewBox: `0 0 ${size.width} ${size.height}` });
  const places = placed(chosenFew(nodes), size);
  const lines = sessions.filter((line) => places.has(line.one) && places.has(line.other));
  drawLines(lines, places);
  drawPlaces([...places.values()]);
  say(byId("map-note"), noteOf(nodes, places, lines.length, counts));
  if (chosen !== null && !places.has(chosen)) chosen = null;
  showDetail();
  emphasize();
  refreshStops();
}

/** All nodes if they find room, else those that are unwell, and a sign for the others. */
function chosenFew(nodes) {
  if (nodes.length <= MOST_NODES) return nodes;
  const few = nodes.filter((node) => isUnwell(node) || node.is_here).slice(0, MOST_NODES);
  const left = nodes.length - few.length;
  return [...few, { name: GROUP, label: plural(left, "other"), size: left, state: "ready" }];
}

function placed(nodes, { width, height }) {
  const radius = Math.min(26, Math.max(9, 420 / Math.max(nodes.length, 1)));
  const angles = nodes.map((_, index) => (2 * Math.PI * index) / nodes.length - Math.PI / 2);
  const sines = nodes.length === 1 ? [0] : angles.map(Math.sin);
  const [top, bottom] = [Math.min(...sines), Math.max(...sines)];
  const across = width / 2 - (narrow.matches ? 74 : 128);
  // An odd number of nodes leaves room at the bottom: they spread until it is filled.
  const down = (height - 124) / Math.max(1, bottom - top);
  return new Map(nodes.map((node, index) => {
    const [cos, sin] = [nodes.length === 1 ? 0 : Math.cos(angles[index]), sines[index]];
    return [node.name, { node, radius, cos, sin, x: width / 2 + across * cos, y: height / 2 + down * (sin - (top + bottom) / 2) }];
  }));
}

function drawLines(lines, places) {
  const broken = lines.filter((line) => line.state !== "established");
  const keyOf = (line) => JSON.stringify([line.one, line.other]);
  const svg = byId("map");
  keep(svg.querySelector(".lines"), lines, keyOf, () => make("svg:path"), (path, line) => {
    const [one, other] = [places.get(line.one), places.get(line.other)];
    set(path, { class: `line ${line.state}`, d: `M${one.x} ${one.y}L${other.x} ${other.y}` });
    [path.dataset.one, path.dataset.other] = [line.one, line.other];
  });
  const makeMark = () => make("svg:g", { class: "mark" }, make("svg:rect", { rx: 10, height: 20, y: -10 }), make("svg:text"));
  keep(svg.querySelector(".marks"), broken, keyOf, makeMark, (mark, line) => {
    const [one, other] = [places.get(line.one), places.get(line.other)];
    const text = broken.length > MOST_WORDS ? LINE_MARKS[line.state] : `${LINE_MARKS[line.state]} ${line.state}`;
    const width = 14 + 7.8 * text.length;
    // Not in the middle, where the marks of all diagonals would meet.
    const [x, y] = [one.x + (other.x - one.x) * 0.38, one.y + (other.y - one.y) * 0.38];
    set(mark, { class: `mark ${line.state}`, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` });
    set(mark.firstElementChild, { x: -width / 2, width });
    say(mark.lastElementChild, text);
    [mark.dataset.one, mark.dataset.other] = [line.one, line.other];
  });
}

function drawPlaces(places) {
  keep(byId("map").querySelector(".places"), places, (place) => place.node.name, makePlace, (group, place) => {
    const { node, radius, cos, sin, x, y } = place;
    const kind = node.is_peer ? "peer" : node.state.replaceAll(" ", "-");
    set(group, {
      class: `place ${kind}${node.is_reflector ? " reflector" : ""}`,
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      "aria-label": node.label ? `${node.label}, all well` : nodeSentence(node),
      "aria-pressed": node.name === chosen,
    });
    const [halo, shape, sign, name, below] = group.children;
    const corner = node.is_peer ? radius * 0.3 : radius;
    for (const [rect, more] of [[halo, 6], [shape, 0]]) {
      const half = radius + more;
      set(rect, { x: -half, y: -half, width: 2 * half, height: 2 * half, rx: corner + more });
    }
    say(sign, node.is_peer ? "⇄" : (NODE_MARKS[node.state] ?? ""));
    set(sign, { "font-size": Math.max(11, radius * 0.9), dy: "0.35em" });
    const anchor = cos > 0.3 ? "start" : cos < -0.3 ? "end" : "middle";
    const side = anchor === "middle" ? 0 : radius + 10;
    const base = anchor === "middle" ? (sin < 0 ? -radius - 22 : radius + 20) : -2;
    const textX = anchor === "end" ? -side : side;
    set(name, { x: textX, y: base, "text-anchor": anchor });
    say(name, node.label ?? node.name);
    set(below, { x: textX, y: base + 15, "text-anchor": anchor });
    say(below, node.label ? "all well" : [sessionsMark(node), node.is_here ? "here" : ""].filter(Boolean).join(", "));
    below.classList.toggle("short", node.established < node.configured);
  });
}

function makePlace() {
  return make(
    "svg:g", { role: "button", tabindex: -1 },
    make("svg:rect", { class: "halo" }), make("svg:rect", { class: "shape" }),
    make("svg:text", { class: "sign", "text-anchor": "middle", "aria-hidden": "true" }),
    make("svg:text", { class: "name" }), make("svg:text", { class: "below" }),
  );
}

function noteOf(nodes, places, lineCount, counts) {
  const notes = [];
  const left = nodes.length - [...places.keys()].filter((name) => name !== GROUP).length;
  if (left) notes.push(`${plural(left, "node")} without anything to look at are drawn as one.`);
  const undrawn = counts.established + counts.broken + counts.unknown - lineCount;
  if (undrawn > 0) notes.push(`${plural(undrawn, "session")} counted but not drawn.`);
  return notes.join(" ");
}

function choose(name) {
  chosen = name === chosen || name === GROUP ? null : name;
  for (const place of byId("map").querySelectorAll(".place")) set(place, { "aria-pressed": place.dataset.key === chosen });
  showDetail();
  emphasize();
}

function hover(name) {
  hovered = name;
  emphasize();
}

/** Lines of the node that is looked at stand out, the others step back; broken ones never do. */
function emphasize() {
  const name = hovered ?? chosen;
  const svg = byId("map");
  svg.classList.toggle("focused", name !== null && name !== GROUP);
  for (const each of svg.querySelectorAll(".line, .marks > .mark")) {
    each.classList.toggle("near", each.dataset.one === name || each.dataset.other === name);
  }
  for (const place of svg.querySelectorAll(".place")) place.classList.toggle("chosen", place.dataset.key === chosen);
}

function showDetail() {
  const panel = byId("detail");
  const node = shown.nodes.find((each) => each.name === chosen);
  panel.hidden = !node;
  if (!node) return panel.replaceChildren();
  const lines = shown.sessions.filter((line) => line.one === chosen || line.other === chosen);
  const wrong = lines.filter((line) => line.state !== "established");
  const facts = [
    ["State", node.is_peer ? "a peer that is no node" : `${NODE_MARKS[node.state]} ${node.state}${node.reason ? `: ${node.reason}` : ""}`],
    ["Addresses", node.addresses.join(", ")],
    ["Sessions", node.configured ? `${sessionsText(node)} established` : ""],
    ["Workloads", isHeard(node) ? count(node.workloads) : ""],
    ["Routes", isHeard(node) ? count(node.routes) : ""],
    ["Version", node.version],
  ].filter(([, text]) => text);
  const list = make("dl", {}, ...facts.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
  const said = wrong.slice(0, 10).map((line) => {
    const other = line.one === chosen ? line.other : line.one;
    return make("li", {}, make("b", {}, `${LINE_MARKS[line.state]} ${line.state} with ${other}. `), line.ends.map(endText).join("; "));
  });
  if (wrong.length > said.length) said.push(make("li", {}, `and ${count(wrong.length - said.length)} more: see the table`));
  const fresh = [make("h3", {}, node.name), list, ...(said.length ? [make("ul", {}, ...said)] : [])];
  if (panel.textContent !== fresh.map((each) => each.textContent).join("")) panel.replaceChildren(...fresh);
}
