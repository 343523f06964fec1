// What is said in the same words in several places.

import { count, timeText } from "./dom.js";

/** The mark of a node's state: a sign besides every colour. */
export const NODE_MARKS = {
  "ready": "✓", "not ready": "!", "draining": "↓", "drained": "↓", "no answer": "?", "not asked yet": "…",
};

/** The mark of a session's state. */
export const LINE_MARKS = { established: "✓", broken: "✕", unknown: "?" };

/** Whether something about a node wants looking at. */
export const isUnwell = (node) => ["not ready", "no answer"].includes(node.state) || node.established < node.configured;

/** A node's sessions as "4 of 4"; empty while they are not known. */
export const sessionsText = (node) => (node.configured ? `${count(node.established)} of ${count(node.configured)}` : "");

/** The same for those who see it, with a mark if some are not. */
export const sessionsMark = (node) => `${node.established < node.configured ? "✕ " : ""}${sessionsText(node)}`;

/** Whether what a node says of itself is known at present. */
export const isHeard = (node) => !node.is_peer && !["no answer", "not asked yet"].includes(node.state);

/** A node in one sentence, for those who hear the page. */
export function nodeSentence(node) {
  if (node.is_peer) return `${node.name}, a BGP peer that is no node`;
  const parts = [node.name, node.state];
  if (node.is_here) parts.push("serves this page");
  if (node.is_reflector) parts.push("route reflector");
  if (node.configured) parts.push(`${sessionsText(node)} sessions established`);
  if (node.problem_count) parts.push(`${count(node.problem_count)} ${node.problem_count === 1 ? "problem" : "problems"}`);
  return parts.join(", ");
}

/** What one end says of a session. */
export function endText(end) {
  const since = end.since ? ` since ${timeText(end.since)}` : "";
  return `${end.node} says ${end.state}${since}${end.info ? `: ${end.info}` : ""}`;
}
