// Pools and their blocks: a cell for a block, filled from below as far as it is used, with the number in it.

import { byId, count, keep, make, plural, rove, say, set, timeText } from "./dom.js";

/** So many cells have room for their owner's name. */
const MOST_NAMED = 64;
const LEVELS = [0, 0.25, 0.5, 0.75, 0.9];

/** Draw the pools. */
export function drawPools({ pictures, read_at, reason, malformed_count }) {
  const notes = [];
  if (reason) notes.push(`✕ ${reason}${read_at ? `; what you see was read at ${timeText(read_at)}` : ""}.`);
  if (malformed_count) notes.push(`${plural(malformed_count, "record")} cannot be read; see tortiectl ipam check.`);
  if (!pictures.length && read_at) notes.push("There is no pool; create one with tortiectl apply.");
  say(byId("pools-note"), notes.join(" "));
  keep(byId("pool-list"), pictures, (pool) => pool.name, makePool, drawPool);
}

function makePool() {
  const cells = make("div", { class: "cells", role: "group", "aria-describedby": "cells-help" });
  const about = make("p", { class: "about" });
  const article = make(
    "article", { class: "pool" },
    make("div", { class: "pool-head" }, make("h3"), make("p", { class: "quiet" })),
    make("div", { class: "gauge", "aria-hidden": "true" }, make("i", { class: "claimed" }), make("i", { class: "used" })),
    cells, about,
  );
  const tell = (cell) => {
    say(about, cell?.getAttribute("aria-label") ?? "");
  };
  article.refreshStops = rove(cells, ".cell", { choose: tell, perRow: () => columnsOf(cells) });
  cells.addEventListener("mouseover", (event) => tell(event.target.closest(".cell")));
  cells.addEventListener("mouseleave", () => tell(cells.querySelector(".cell:focus")));
  return article;
}

function drawPool(article, pool) {
  const [head, gauge, cells, about] = article.children;
  head.firstElementChild.replaceChildren(pool.name, " ", make("code", {}, pool.cidr));
  const disabled = pool.disabled ? "disabled, no new assignments; " : "";
  say(
    head.lastElementChild,
    `${disabled}${count(pool.in_use)} of ${count(pool.total)} addresses in use; ` +
      `${count(pool.claimed_count)} of ${count(pool.block_count)} blocks (/${pool.block_prefix_length}) claimed`,
  );
  const share = (part) => `${Math.min(100, part * 100)}%`;
  gauge.firstElementChild.style.width = share(pool.claimed_count / Number(pool.block_count));
  gauge.lastElementChild.style.width = share(pool.used_share);
  const named = pool.cells.length <= MOST_NAMED;
  set(cells, { "aria-label": `Blocks of pool ${pool.name}`, class: named ? "cells named" : "cells" });
  keep(cells, pool.cells, (cell) => cell.first, makeCell, drawCell);
  const focused = cells.querySelector(".cell:focus");
  if (focused) say(about, focused.getAttribute("aria-label"));
  article.refreshStops();
}

function makeCell() {
  return make(
    "button", { type: "button", class: "cell", tabindex: -1 },
    ...["fill", "share", "owner", "cidr"].map((part) => make(part === "fill" ? "i" : "span", { class: part, "aria-hidden": "true" })),
  );
}

function drawCell(button, cell) {
  const share = cell.total ? cell.in_use / cell.total : 0;
  const level = share === 0 ? 0 : LEVELS.filter((least) => share >= least).length;
  set(button, { "data-level": level, "aria-label": sentenceOf(cell, share) });
  const [fill, number, owner, cidr] = button.children;
  fill.style.height = `${share * 100}%`;
  say(number, percent(share));
  say(owner, cell.owners[0]);
  say(cidr, cell.first);
}

/** A share in whole per cent, never rounded to nothing or to all. */
function percent(share) {
  const rounded = Math.round(share * 100);
  return `${share > 0 && share < 1 ? Math.min(99, Math.max(1, rounded)) : rounded} %`;
}

/** It begins with what is seen in the cell, so that one can be named by voice. */
function sentenceOf(cell, share) {
  const used = `${count(cell.in_use)} of ${count(cell.total)} addresses in use`;
  const seen = `${percent(share)} ${cell.owners[0]} ${cell.first}`;
  if (cell.block_count === 1) return `${seen}: ${used}`;
  const more = cell.owner_count - cell.owners.length;
  const owners = cell.owners.join(", ") + (more ? ` and ${count(more)} more` : "");
  return `${seen} to ${cell.last}: ${used}, ${count(cell.block_count)} blocks of ${owners}`;
}

function columnsOf(cells) {
  return getComputedStyle(cells).gridTemplateColumns.split(" ").length;
}
