// The same as the map, in rows.

import { byId, count, keep, make, plural, say, set } from "./dom.js";
import { LINE_MARKS, NODE_MARKS, endText, isHeard, isUnwell, sessionsMark } from "./sentences.js";

const MOST_ROWS = 200;

let shown = { nodes: [], sessions: [], counts: {} };

/** Prepare filter and switch; call once. */
export function prepareTables() {
  byId("filter").addEventListener("input", () => drawTables(shown));
  const views = [["show-map", "map-view"], ["show-table", "table-view"]];
  for (const [button] of views) {
    byId(button).addEventListener("click", () => {
      for (const [each, view] of views) {
        set(byId(each), { "aria-pressed": each === button });
        byId(view).hidden = each !== button;
      }
    });
  }
}

/** Show these nodes and sessions, what is unwell first. */
export function drawTables(view) {
  shown = view;
  const wanted = byId("filter").value.trim().toLowerCase();
  const nodes = view.nodes.filter((node) => node.name.toLowerCase().includes(wanted));
  nodes.sort((one, other) => isUnwell(other) - isUnwell(one));
  rows("node-rows", nodes, (node) => node.name, (node) => [
    node.is_here ? `${node.name} (here)` : node.name,
    node.is_peer ? "⇄ peer" : `${NODE_MARKS[node.state]} ${node.state}`,
    sessionsMark(node),
    isHeard(node) ? count(node.workloads) : "",
    isHeard(node) ? count(node.routes) : "",
    node.addresses.join(" "),
    node.version,
  ]);
  say(byId("node-rows-note"), noteOf(nodes.length, "node"));
  const lines = view.sessions.filter((line) => [line.one, line.other].some((end) => end.toLowerCase().includes(wanted)));
  rows("session-rows", lines, (line) => JSON.stringify([line.one, line.other]), (line) => [
    `${line.one} – ${line.other}`,
    `${LINE_MARKS[line.state]} ${line.state}`,
    line.ends.map(endText).join("; "),
  ]);
  const untold = view.counts.untold ? `; ${plural(view.counts.untold, "other")} only counted` : "";
  say(byId("session-rows-note"), noteOf(lines.length, "session") + untold);
}

const noteOf = (all, what) => (all > MOST_ROWS ? `the first ${MOST_ROWS} of ${plural(all, what)}` : plural(all, what));

function rows(id, items, keyOf, cellsOf) {
  const numbers = [...byId(id).parentElement.querySelectorAll("th")].map((th) => th.className);
  const create = (item) => make("tr", {}, ...cellsOf(item).map((_, index) =>
    index ? make("td", { class: numbers[index] }) : make("th", { scope: "row" })));
  keep(byId(id), items.slice(0, MOST_ROWS), keyOf, create, (row, item) => {
    cellsOf(item).forEach((text, index) => say(row.children[index], text));
    set(row, { class: item.state.replaceAll(" ", "-") });
  });
}
