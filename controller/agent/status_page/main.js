// The connection to the agent, and what is drawn when it brings something new.

import { byId, count, keep, make, plural, say, set, timeText } from "./dom.js";
import { drawMap, prepareMap } from "./map.js";
import { drawPools } from "./pools.js";
import { drawTables, prepareTables } from "./tables.js";

/** The agent says something every second; after so long without a word it is gone. In milliseconds. */
const SILENCE = 3500;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 5000;

const view = {
  about: { here: "", round_seconds: 1 },
  nodes: [], sessions: [], counts: { established: 0, broken: 0, unknown: 0, untold: 0 },
  problems: [], untold_problems: 0, log: [],
  pools: { pictures: [], read_at: 0, reason: "", malformed_count: 0 },
};
let complete = false;
let source = null;
let heardAt = performance.now();
let toldAt = 0;
let quietSeconds = 0;
let pause = FIRST_PAUSE;

prepareMap();
prepareTables();
connect();
setInterval(watch, 500);

function connect() {
  source = new EventSource("events");
  heardAt = performance.now();
  source.addEventListener("view", (event) => draw(heard(event)));
  source.addEventListener("beat", heard);
  source.addEventListener("error", disconnected);
}

/** Take note of a sign of life, and return what it brings. */
function heard(event) {
  const news = JSON.parse(event.data);
  heardAt = performance.now();
  toldAt = news.at;
  quietSeconds = news.quiet_seconds;
  pause = FIRST_PAUSE;
  showLink();
  return news;
}

/** Begin anew after a while: a browser by itself gives up after an answer that is no stream. */
function disconnected() {
  if (!source) return;
  source.close();
  source = null;
  setTimeout(connect, pause * (0.75 + Math.random() / 2));
  pause = Math.min(2 * pause, LONGEST_PAUSE);
  showLink();
}

function watch() {
  if (source && performance.now() - heardAt > SILENCE) disconnected();
  showLink();
}

function showLink() {
  const silent = !source || performance.now() - heardAt > SILENCE || !toldAt;
  const stale = quietSeconds > Math.max(5, 4 * view.about.round_seconds);
  const state = !silent && !stale && complete ? "live" : silent && toldAt ? "lost" : stale ? "stale" : "waiting";
  const [mark, text, banner] = {
    live: ["●", "Live", ""],
    waiting: ["…", "Connecting", ""],
    stale: ["!", "Stale", `The agent has not finished asking the nodes for ${Math.round(quietSeconds)} s. What you see may be old.`],
    lost: ["✕", "Not connected", `No connection to the agent since ${timeText(toldAt)}. What you see is as it was then; trying again.`],
  }[state];
  set(byId("link"), { "data-state": state });
  say(byId("link").firstElementChild, mark);
  say(byId("link-text"), text);
  byId("stale").hidden = !banner;
  say(byId("stale"), banner);
  document.body.classList.toggle("old", state === "lost" || state === "stale");
}

function draw(news) {
  if (!news.nodes && !complete) return;
  complete = true;
  Object.assign(view, news);
  const cluster = ["nodes", "sessions", "counts"].some((section) => section in news);
  if (news.about) say(byId("here"), view.about.here);
  if (cluster) {
    drawMap(view);
    drawTables(view);
  }
  if (news.pools) drawPools(view.pools);
  if ("problems" in news || "untold_problems" in news) drawProblems();
  if (news.log) drawLog();
  drawTiles();
  showLink();
}

function drawTiles() {
  const { established, broken, unknown } = view.counts;
  const nodes = view.nodes.filter((node) => !node.is_peer);
  const states = new Map();
  for (const node of nodes) states.set(node.state, (states.get(node.state) ?? 0) + 1);
  const unwell = nodes.some((node) => node.state === "not ready" || node.state === "no answer");
  const inUse = view.pools.pictures.reduce((sum, pool) => sum + pool.in_use, 0);
  const claimed = view.pools.pictures.reduce((sum, pool) => sum + pool.claimed_count, 0);
  const problems = view.problems.length + view.untold_problems;
  const sessions = [`${count(established)} established`, broken && `✕ ${count(broken)} broken`, unknown && `? ${count(unknown)} unknown`];
  tile("tile-nodes", nodes.length, nodes.length === 1 ? "node" : "nodes", [...states].map(([state, many]) => `${count(many)} ${state}`), unwell);
  tile("tile-sessions", established + broken + unknown, "sessions", sessions.filter(Boolean), broken > 0);
  tile("tile-addresses", inUse, "addresses", [`in use, in ${plural(claimed, "block")} of ${plural(view.pools.pictures.length, "pool")}`], false);
  tile("tile-problems", problems, problems === 1 ? "problem" : "problems", [problems ? "told by the nodes themselves" : "✓ all is well"], problems > 0);
  document.title = broken ? `✕ ${count(broken)} broken – tortie` : unwell || problems ? "! tortie" : "tortie";
}

function tile(id, number, what, notes, alarming) {
  const link = byId(id);
  if (!link.firstElementChild) link.append(make("b"), " ", make("span"), " ", make("small"));
  const [big, name, note] = link.children;
  say(big, count(number));
  say(name, what);
  say(note, notes.join(", "));
  set(link, { class: alarming ? "tile alarming" : "tile" });
}

function drawProblems() {
  const list = byId("problem-list");
  keep(list, view.problems, (problem) => problem.text, () => make("li", {}, make("b"), " ", make("span")), (item, problem) => {
    const more = problem.node_count - problem.nodes.length;
    say(item.firstElementChild, `! ${problem.nodes.join(", ")}${more ? ` and ${count(more)} more` : ""}`);
    say(item.lastElementChild, problem.text);
  });
  const { untold_problems: untold } = view;
  say(byId("problem-note"), untold ? `and ${count(untold)} more; see tortiectl doctor.` : view.problems.length ? "" : "✓ No node has anything to complain about.");
}

function drawLog() {
  const marks = { worse: "✕", better: "✓", neutral: "·" };
  const entries = view.log.map((entry, index) => ({ ...entry, key: `${entry.at} ${entry.text} ${view.log.slice(0, index).filter((each) => each.at === entry.at && each.text === entry.text).length}` }));
  const create = () => make("li", {}, make("time"), make("b", { "aria-hidden": "true" }), make("span"));
  keep(byId("log"), entries.reverse(), (entry) => entry.key, create, (item, entry) => {
    const [time, mark, text] = item.children;
    say(time, timeText(entry.at));
    say(mark, marks[entry.tone]);
    say(text, entry.text);
    set(item, { class: entry.tone });
  });
}
