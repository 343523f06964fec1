// Making and keeping elements. Texts always become text nodes: nothing that a node says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element of this id. */
export const byId = (id) => document.getElementById(id);

/** A new element with these attributes and children; a tag that begins with "svg:" is one of SVG. */
export function make(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4))
    : document.createElement(tag);
  set(element, attributes);
  element.append(...children);
  return element;
}

/** Set attributes where they differ; null or false removes one. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) element.removeAttribute(name);
    else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }
}

/** Set an element's text where it differs, so that a reader hears of changes only. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Make a parent's children those of the items, in their order. What has the same key stays the same element and keeps
 * the focus; `update(element, item)` brings it up to date.
 */
export function keep(parent, items, keyOf, create, update) {
  const present = new Map();
  for (const child of parent.children) present.set(child.dataset.key, child);
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = present.get(key);
    if (child) {
      present.delete(key);
    } else {
      child = create(item);
      child.dataset.key = key;
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, item);
  }
  for (const child of present.values()) child.remove();
}

/**
 * One stop of the Tab key for many elements, the arrow keys go between them. `choose(element)` is told of what has
 * the focus; `perRow()` gives how many a row has, for up and down.
 */
export function rove(container, selector, { choose = () => {}, perRow = () => 1 } = {}) {
  const all = () => [...container.querySelectorAll(selector)];
  const stopAt = (element) => {
    for (const each of all()) set(each, { tabindex: each === element ? 0 : -1 });
  };
  container.addEventListener("focusin", (event) => {
    const element = event.target.closest(selector);
    if (!element) return;
    stopAt(element);
    choose(element);
  });
  container.addEventListener("keydown", (event) => {
    const elements = all();
    const at = elements.indexOf(event.target.closest(selector));
    const to = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + perRow(), ArrowUp: at - perRow(),
      Home: 0, End: elements.length - 1,
    }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    elements[Math.min(Math.max(to, 0), elements.length - 1)].focus();
  });
  // Something must always be reachable by Tab, also when the element that was is gone.
  return () => {
    const elements = all();
    if (elements.length && !elements.some((each) => each.getAttribute("tabindex") === "0")) stopAt(elements[0]);
  };
}

/** A time in epoch seconds as the browser's people write it; with the date unless it is today. */
export function timeText(seconds) {
  const time = new Date(seconds * 1000);
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return time.toDateString() === new Date().toDateString() ? clock : `${time.toLocaleDateString()} ${clock}`;
}

/** A number as people write it; texts are numbers too large for JavaScript's own. */
export function count(number) {
  return (typeof number === "string" ? BigInt(number) : number).toLocaleString("en");
}

/** "1 node", "2 nodes". */
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
