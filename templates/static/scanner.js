// Moves about the pages without loading them anew. The server renders everything; this fetches
// the page that an address stands for and puts its parts in the place of those that are there.
// The address holds the whole state, so that without this file the same links and forms work.

import { loadPlotly, showCharts } from "./charts.js";

const PARTS = ["steps", "summary", "list", "detail"];
const served = new Map(); // a part's id: its HTML as the server sent it, before charts filled it

const get = (selector, root = document) => root.querySelector(selector);
const rows = () => [...document.querySelectorAll("#anomalies tbody tr")];
const chosenRow = () => get('#anomalies tr[aria-selected="true"]');
const here = () => new URL(location.href);

// One thing after the other, so that three quick presses of a key are three days.
let turn = Promise.resolve();
const inTurn = (action) => (turn = turn.then(() => attempt(action)));

async function attempt(action) {
  let notice = "";
  await Promise.resolve().then(action).catch(() => (notice = "The server does not answer: is gui-lookup-table.py still running?"));
  get("#notice").textContent = notice;
}

async function fetchPage(address) {
  const answer = await fetch(address);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

/** Show the page of an address; how is pushState, replaceState or, on the way back, null. */
async function visit(address, how = "pushState") {
  const page = await fetchPage(address);
  if (how) history[how](null, "", address);
  document.title = page.title;
  if (PARTS.some((id) => !get(`#${id}`) !== !get(`#${id}`, page))) {
    get("main").replaceWith(get("main", page));
    served.clear();
    start();
    return;
  }
  const list = get("#list");
  const date = list?.dataset.date;
  const focused = document.activeElement;
  const focusedPlace = placeOf(focused);
  PARTS.forEach((id) => swap(id, page));
  for (const input of page.querySelectorAll("#settings input[id]")) {
    const mine = get(`#${input.id}`);
    if (mine !== focused || !how) mine.value = input.value;
    if (input.min) [mine.min, mine.max] = [input.min, input.max];
  }
  if (list?.dataset.date !== date) list.scrollTop = 0;
  chosenRow()?.scrollIntoView({ block: "nearest" });
  if (!focused.isConnected && focusedPlace) get(focusedPlace)?.focus({ preventScroll: true });
}

/** A selector for an element that finds its successor in another page. */
function placeOf(element) {
  if (element.id) return `#${element.id}`;
  const cell = element.closest("tr[data-ticker], th[data-sort]");
  if (!cell) return "";
  const [name, value] = cell.dataset.sort ? ["sort", cell.dataset.sort] : ["ticker", cell.dataset.ticker];
  return `[data-${name}="${CSS.escape(value)}"] a`;
}

/** Make a part here what it is in a page, unless it is. The element stays: screen readers watch it. */
function swap(id, page) {
  const part = get(`#${id}`, page);
  if (!part || part.outerHTML === served.get(id)) return;
  served.set(id, part.outerHTML);
  const mine = get(`#${id}`);
  for (const { name } of [...mine.attributes]) mine.removeAttribute(name);
  for (const { name, value } of part.attributes) mine.setAttribute(name, value);
  mine.replaceChildren(...part.childNodes);
  if (id === "list") roveTabStop();
  if (id === "detail") showCharts(mine, goToDay);
}

/** Of the rows' links only one is on the way of the tab key: the arrows lead to the others. */
function roveTabStop() {
  const stop = chosenRow() ?? rows()[0];
  for (const row of rows()) get("a", row).tabIndex = row === stop ? 0 : -1;
}

/** The address with the ticker that is chosen now, which a link may not know of. */
function withTicker(href) {
  const address = new URL(href, location.href);
  const ticker = here().searchParams.get("ticker");
  if (ticker) address.searchParams.set("ticker", ticker);
  else address.searchParams.delete("ticker");
  return address;
}

function goToDay(date) {
  const address = here();
  address.searchParams.set("date", date);
  if (date !== get("#detail").dataset.date) inTurn(() => visit(address));
}

/** Choose a row at once, its detail as soon as it is there. */
function choose(row, how = here().searchParams.has("ticker") ? "replaceState" : "pushState") {
  chosenRow()?.setAttribute("aria-selected", "false");
  row.setAttribute("aria-selected", "true");
  served.delete("list");
  roveTabStop();
  history[how](null, "", get("a", row).href);
  row.scrollIntoView({ block: "nearest" });
  get("a", row).focus({ preventScroll: true });
  attempt(() => showDetail(how === "pushState"));
}

async function showDetail(mayScroll) {
  const { ticker } = chosenRow().dataset;
  const { date } = get("#list").dataset;
  const shown = get("#detail").dataset;
  if (shown.ticker === ticker && shown.date === date) return;
  const page = await fetchPage(`/chart?${new URLSearchParams({ ticker, date })}`);
  if (chosenRow()?.dataset.ticker !== ticker || get("#list").dataset.date !== date) return;
  if (!get("#detail", page)) {
    inTurn(() => visit(here(), "replaceState"));
    return;
  }
  document.title = page.title;
  swap("detail", page);
  if (mayScroll && matchMedia("(max-width: 899px)").matches) get("#detail").scrollIntoView();
}

/** Show what the fields say. To change a filter, unlike to begin one, is no step to go back from. */
function applySettings() {
  const form = get("#settings");
  if (!form?.checkValidity()) return null;
  const address = here();
  const changed = [];
  for (const { name, value, dataset } of ["date", "threshold", "filter"].map((id) => form.elements[id])) {
    const before = address.searchParams.get(name) ?? "";
    const after = value === dataset.default ? "" : value;
    if (before !== after) changed.push(before && after ? name : "");
    if (after) address.searchParams.set(name, after);
    else address.searchParams.delete(name);
  }
  if (!changed.length) return null;
  return visit(address, changed.every((name) => name === "filter") ? "replaceState" : "pushState");
}

function step(by) {
  const all = rows();
  const place = all.indexOf(chosenRow());
  const row = all[place < 0 ? (by > 0 ? 0 : all.length - 1) : place + by];
  if (row) choose(row);
}

function follow(id) {
  const link = document.getElementById(id);
  if (link?.href) return visit(link.closest(".scanner") ? withTicker(link.href) : link.href);
  return null;
}

/** Close the detail or, when it is, take the filter away. */
function close() {
  const address = here();
  const open = ["ticker", "filter"].find((name) => address.searchParams.has(name));
  if (!get("#list") || !open) return;
  address.searchParams.delete(open);
  inTurn(() => visit(address));
}

const KEYS = {
  ArrowLeft: () => inTurn(() => follow("previous-day")),
  ArrowRight: () => inTurn(() => follow("next-day")),
  ArrowDown: () => inTurn(() => (get("#list") ? step(1) : follow("next-anomaly"))),
  ArrowUp: () => inTurn(() => (get("#list") ? step(-1) : follow("previous-anomaly"))),
  "/": () => get("#filter")?.select(),
  Escape: close,
};
KEYS.j = KEYS.ArrowDown;
KEYS.k = KEYS.ArrowUp;

/** What keys do inside the filter field: to the first row, to the list, out of it. */
const FILTER_KEYS = {
  Enter: () => {
    get("#filter").blur();
    inTurn(() => rows()[0] && choose(rows()[0]));
  },
  ArrowDown: () => {
    get("#filter").blur();
    inTurn(() => step(1));
  },
  Escape: () => {
    get("#filter").value = "";
    get("#filter").blur();
    inTurn(applySettings);
  },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.closest("input");
  const keys = !inField ? KEYS : inField.id === "filter" ? FILTER_KEYS : {};
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("click", (event) => {
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const row = event.target.closest("#anomalies tbody tr");
  const link = event.target.closest("a[href]");
  if (row) {
    event.preventDefault();
    choose(row, row === chosenRow() ? "replaceState" : "pushState");
  } else if (link && link.pathname === location.pathname && link.closest("main:not(.error)")) {
    event.preventDefault();
    inTurn(() => (link.id ? follow(link.id) : visit(withTicker(link.href))));
  }
});

document.addEventListener("input", (event) => event.target.id === "filter" && inTurn(applySettings));
document.addEventListener("change", (event) => event.target.closest("#settings") && inTurn(applySettings));
document.addEventListener("submit", (event) => {
  event.preventDefault();
  inTurn(applySettings);
});
addEventListener("popstate", () => inTurn(() => visit(location.href, null)));

function start() {
  for (const id of PARTS) if (get(`#${id}`)) served.set(id, get(`#${id}`).outerHTML);
  roveTabStop();
  chosenRow()?.scrollIntoView({ block: "nearest" });
  if (get(".chart-box")) showCharts(get("#detail"), goToDay);
}

start();
// Not before the list can be used, and before a chart is asked for.
setTimeout(() => loadPlotly().catch(() => {}), 50);
