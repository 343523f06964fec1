// Nodes on an ellipse, sessions as lines between them. A large cluster shows those that want looking at, and one sign
// for all others.

import { byId, count, keep, make, plural, rove, say, set } from "./dom.js";
import { LINE_MARKS, NODE_MARKS, endText, isHeard, isUnwell, nodeSentence, sessionsMark, sessionsText } from "./sentences.js";

/** So many nodes are drawn one by one; of more, those that are worst off. */
const MOST_NODES = 48;
const MOST_UNWELL = 24;
/** From so many on, names stand like the spokes of a wheel: side by side they would lie on each other. */
const SPOKES = 15;
const LONGEST_NAME = 16;
/** From so many lines on they are thin. */
const CROWD = 60;
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
  const few = chosenFew(nodes);
  const places = placed(few, sizeFor(few.length));
  const lines = linesBetween(places, sessions);
  byId("map").classList.toggle("crowded", lines.length > CROWD);
  drawLines(lines, places);
  drawPlaces([...places.values()]);
  say(byId("map-note"), noteOf(places, lines.length, counts));
  if (chosen !== null && !places.has(chosen)) chosen = null;
  showDetail();
  emphasize();
  refreshStops();
}

/** All nodes if they find room, else those that are worst off, and a sign for the others. */
function chosenFew(nodes) {
  if (nodes.length <= MOST_NODES) return nodes;
  const worst = nodes.filter((node) => isUnwell(node) || node.is_here);
  worst.sort((one, other) => badness(other) - badness(one));
  // Where some are gone, everybody misses them: those are not to be looked at.
  const culprits = worst.filter((node) => badness(node) > 0.5);
  const few = (culprits.length > 1 ? culprits : worst).slice(0, MOST_UNWELL);
  const left = nodes.filter((node) => !few.includes(node));
  const unwell = left.filter(isUnwell).length;
  const below = unwell ? "✕ not all well" : "all well";
  return [...few, { name: GROUP, label: plural(left.length, "other"), below, size: left.length, state: "ready" }];
}

/** How much a node wants looking at: one that is gone or here, then by its share of broken sessions. */
function badness(node) {
  if (node.is_here) return 3;
  if (node.state === "no answer" || node.state === "not ready") return 2;
  return node.configured ? 1 - node.established / node.configured : 0;
}

/** The sessions between what is drawn; those with the others are one line, if one of them is broken. */
function linesBetween(places, sessions) {
  const lines = new Map();
  for (const line of sessions) {
    const [one, other] = [line.one, line.other].map((end) => (places.has(end) ? end : GROUP));
    const grouped = one === GROUP || other === GROUP;
    if (one === other || (grouped && (!places.has(GROUP) || line.state === "established"))) continue;
    const key = JSON.stringify(one === GROUP ? [other, one] : [one, other]);
    if (lines.get(key)?.state !== "broken") lines.set(key, { key, one, other, state: line.state });
  }
  return [...lines.values()];
}

function sizeFor(many) {
  const spokes = many >= SPOKES;
  if (narrow.matches) return { width: 420, height: spokes ? 520 : 460, across: spokes ? 96 : 122, down: spokes ? 150 : 168, spokes };
  return { width: 860, height: spokes ? 700 : 540, across: spokes ? 300 : 302, down: spokes ? 225 : 208, spokes };
}

function placed(nodes, { width, height, across, down, spokes }) {
  set(byId("map"), { viewBox: `0 0 ${width} ${height}` });
  const radius = Math.min(26, Math.max(9, 420 / Math.max(nodes.length, 1)));
  const angles = nodes.map((_, index) => (2 * Math.PI * index) / nodes.length - Math.PI / 2);
  const sines = nodes.length === 1 ? [0] : angles.map(Math.sin);
  // An odd number of nodes leaves room at the bottom: they spread until it is filled.
  const [top, bottom] = [Math.min(...sines), Math.max(...sines)];
  const stretch = (2 * down) / Math.max(1, bottom - top);
  return new Map(nodes.map((node, index) => {
    const cos = nodes.length === 1 ? 0 : Math.cos(angles[index]);
    const place = { node, radius, cos, sin: sines[index], spokes };
    place.x = width / 2 + across * cos;
    place.y = height / 2 + stretch * (sines[index] - (top + bottom) / 2);
    place.turn = (Math.atan2(place.y - height / 2, place.x - width / 2) * 180) / Math.PI;
    return [node.name, place];
  }));
}

function drawLines(lines, places) {
  const broken = lines.filter((line) => line.state !== "established");
  const keyOf = (line) => line.key;
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
    const { node, radius, x, y } = place;
    const kind = node.is_peer ? "peer" : node.state.replaceAll(" ", "-");
    set(group, {
      class: `place ${kind}${node.is_reflector ? " reflector" : ""}`,
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      "aria-label": node.label ? `${node.label}, ${node.below}` : nodeSentence(node),
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
    const counted = node.label ? node.below : [sessionsMark(node), node.is_here ? "here" : ""].filter(Boolean).join(", ");
    below.classList.toggle("short", node.established < node.configured);
    if (place.spokes) spoke(place, name, below);
    else label(place, name, below, counted);
  });
}

/** Name and count beside the node, or above and below it where there is more room. */
function label({ node, radius, cos, sin }, name, below, counted) {
  const anchor = cos > 0.3 ? "start" : cos < -0.3 ? "end" : "middle";
  const side = anchor === "middle" ? 0 : radius + 10;
  const base = anchor === "middle" ? (sin < 0 ? -radius - 22 : radius + 20) : -2;
  const x = anchor === "end" ? -side : side;
  set(name, { x, y: base, dy: null, "text-anchor": anchor, transform: null });
  say(name, shortName(node));
  set(below, { x, y: base + 15, "text-anchor": anchor });
  say(below, counted);
}

/** As much of a node's name as finds room. */
function shortName({ label, name }) {
  const text = label ?? name;
  return text.length > LONGEST_NAME ? `${text.slice(0, LONGEST_NAME - 1)}…` : text;
}

/** The name in one line that leads away from the middle, never upside down. */
function spoke({ node, radius, turn }, name, below) {
  const left = Math.abs(turn) > 90;
  const outward = (radius + 9) * (left ? -1 : 1);
  set(name, {
    x: outward, y: 0, dy: "0.35em", "text-anchor": left ? "end" : "start",
    transform: `rotate(${(left ? turn - 180 : turn).toFixed(1)})`,
  });
  say(name, shortName(node));
  say(below, "");
}

function makePlace() {
  return make(
    "svg:g", { role: "button", tabindex: -1 },
    make("svg:rect", { class: "halo" }), make("svg:rect", { class: "shape" }),
    make("svg:text", { class: "sign", "text-anchor": "middle", "aria-hidden": "true" }),
    make("svg:text", { class: "name" }), make("svg:text", { class: "below", "aria-hidden": "true" }),
  );
}

function noteOf(places, lineCount, counts) {
  const notes = [];
  const group = places.get(GROUP);
  if (group) notes.push(`${plural(group.node.size, "node")} are drawn as one.`);
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
