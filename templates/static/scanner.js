// Moves about the pages without loading them anew. The server renders everything; this fetches
// the page of an address and replaces the parts that differ. The address holds the whole state,
// so the same links and forms work without this file.

import { connectAfter } from "./after.js";
import { SERVER_IS_GONE } from "./answers.js";
import { drawnCharts, keepOldCharts, loadPlotly, showCharts } from "./charts.js";
import { connectHeadlines } from "./headlines.js";

const PARTS = ["steps", "summary", "csv", "filters-summary", "clear-filters", "list", "detail"];
const LOOK_FOR_NEW_TABLE_EVERY = 30_000; // ms
const htmlFromServer = new Map(); // a part's id: its HTML before charts and choices changed it

const find = (selector, root = document) => root.querySelector(selector);
const listRows = () => [...document.querySelectorAll("#anomalies tbody tr")];
const chosenRow = () => find('#anomalies tr[aria-selected="true"]');
const rowOf = (ticker) => listRows().find((row) => row.dataset.ticker === ticker);
const currentAddress = () => new URL(location.href);
const tickerInAddress = () => currentAddress().searchParams.get("ticker");

let shownAddress = location.href; // the address of what is seen
let lastTicker = tickerInAddress(); // the place in the list, also once its row is no longer chosen
let choosing = new AbortController(); // ends the request for a detail that is no longer wanted

// One action after the other, so that three quick presses of a key are three days.

let lastAction = Promise.resolve();
const enqueue = (action) => (lastAction = lastAction.then(() => run(action)));

/** Run an action and say whether the server answered it. */
async function run(action) {
  let notice = "";
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    notice = SERVER_IS_GONE;
    // The way back changes the address before the server is asked.
    if (location.href !== shownAddress) history.pushState(null, "", shownAddress);
  }
  find("#notice").textContent = notice;
}

async function fetchPage(address, signal) {
  const answer = await fetch(address, { signal });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

/** Remember an address as that of what is seen; method is pushState, replaceState or null. */
function setAddress(address, method) {
  if (method) history[method](null, "", address);
  shownAddress = location.href;
}

/** Show the page of an address. method is pushState, replaceState or, on the way back, null. */
async function showPage(address, method = "pushState") {
  choosing.abort();
  const typed = fieldValues();
  const page = await fetchPage(address);
  const before = new URL(shownAddress).searchParams;
  setAddress(address, method);
  document.title = page.title;
  const version = find("main").dataset.tableVersion;
  if (PARTS.some((id) => !find(`#${id}`) !== !find(`#${id}`, page))) {
    find("main").replaceWith(find("main", page));
    htmlFromServer.clear();
    start();
  } else {
    replaceParts(page, before, method === null ? {} : typed);
  }
  reportNewTable(version, page);
}

const fieldValues = () => Object.fromEntries([...document.querySelectorAll("#settings input[id]")].map(({ id, value }) => [id, value]));

/** Replace what differs in a page. A field keeps what was typed since its value in typed was read. */
function replaceParts(page, before, typed) {
  const list = find("#list");
  const date = list?.dataset.date;
  const focused = document.activeElement;
  const selector = selectorOf(focused);
  lastTicker = tickerInAddress() ?? lastTicker;
  PARTS.forEach((id) => replacePart(id, page));
  for (const input of page.querySelectorAll("#settings input[id]")) {
    const mine = find(`#${input.id}`);
    const isTyping = input.id in typed && (mine === focused || mine.value !== typed[input.id]);
    if (input.type === "checkbox") mine.checked = input.checked;
    else if (!isTyping) mine.value = input.value;
    if (input.min) [mine.min, mine.max] = [input.min, input.max];
  }
  const select = find("#min_record", page);
  if (select) replaceOptions(find("#min_record"), select);
  if (list) scrollList(list, date, before);
  if (!focused.isConnected) (find(selector) ?? list)?.focus({ preventScroll: true });
}

/** Make a select that of another page; with new options alone, Chromium would choose one of them. */
function replaceOptions(mine, { value, options }) {
  const texts = (these) => Array.from(these, ({ text }) => text).join();
  if (texts(mine.options) !== texts(options)) mine.replaceChildren(...options);
  mine.value = value;
}

/** Another order shows its top, everything else the chosen row. */
function scrollList(list, date, before) {
  const after = currentAddress().searchParams;
  const isSorted = ["sort", "order"].some((name) => before.get(name) !== after.get(name));
  if (isSorted || list.dataset.date !== date) list.scrollTop = 0;
  if (!isSorted) chosenRow()?.scrollIntoView({ block: "nearest" });
}

/** A selector that finds an element's successor in another page. */
function selectorOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const row = element.closest("#anomalies tr[data-ticker]");
  if (row) return `#anomalies tr[data-ticker="${CSS.escape(row.dataset.ticker)}"] a`;
  const header = element.closest("th[data-sort]");
  if (header) return `th[data-sort="${header.dataset.sort}"] a`;
  const box = element.closest(".chart-box");
  return box && element.className ? `#${box.id} .${element.classList[0]}` : "#list";
}

/** Make a part what it is in a page, unless it is. The element stays: screen readers watch it. */
function replacePart(id, page) {
  const part = find(`#${id}`, page);
  if (!part || part.outerHTML === htmlFromServer.get(id)) return;
  htmlFromServer.set(id, part.outerHTML);
  const mine = find(`#${id}`);
  const charts = id === "detail" ? drawnCharts(mine) : [];
  for (const { name } of [...mine.attributes]) mine.removeAttribute(name);
  for (const { name, value } of part.attributes) mine.setAttribute(name, value);
  mine.replaceChildren(...part.childNodes);
  if (id === "list") setTabStop();
  if (id === "detail") connectDetail(charts);
}

/** Fill the detail with its charts, and make its buttons and links work. */
function connectDetail(oldCharts) {
  const detail = find("#detail");
  keepOldCharts(oldCharts, detail);
  // The detail of /chart is shown beside the list too: its links to days lead to the page that is seen.
  for (const link of detail.querySelectorAll("a.same-page")) link.pathname = location.pathname;
  const copy = find(".copy", detail);
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.onclick = async () => {
      await navigator.clipboard.writeText(detail.dataset.ticker);
      copy.textContent = "Copied";
    };
  }
  connectHeadlines(detail);
  showCharts(detail, goToDay);
  connectAfter(detail);
}

/** Of the rows' links, the tab key reaches one; the arrow keys reach the others. */
function setTabStop() {
  const stop = chosenRow() ?? rowOf(lastTicker) ?? listRows()[0];
  for (const row of listRows()) find("a", row).tabIndex = row === stop ? 0 : -1;
}

function markChosen(row) {
  chosenRow()?.setAttribute("aria-selected", "false");
  row?.setAttribute("aria-selected", "true");
  htmlFromServer.delete("list");
  setTabStop();
}

/** A link's address with the ticker that is chosen now, of which the link may not know. */
function withChosenTicker(href) {
  const address = new URL(href, location.href);
  const ticker = chosenRow()?.dataset.ticker ?? tickerInAddress();
  if (ticker) address.searchParams.set("ticker", ticker);
  else address.searchParams.delete("ticker");
  return address;
}

function goToDay(date) {
  const address = withChosenTicker(location.href);
  address.searchParams.set("date", date);
  if (date !== find("#detail").dataset.date) enqueue(() => showPage(address));
}

/** Mark a row at once; show its detail, and change the address, once the server has answered. */
function chooseRow(row, isClick = false) {
  const { ticker } = row.dataset;
  choosing.abort();
  choosing = new AbortController();
  const { signal } = choosing;
  lastTicker = ticker;
  markChosen(row);
  row.scrollIntoView({ block: "nearest" });
  find("a", row).focus({ preventScroll: true });
  run(async () => {
    try {
      await showDetail(ticker, find("a", row).href, isClick, signal);
    } catch (error) {
      if (!signal.aborted) markChosen(rowOf(tickerInAddress()));
      throw error;
    }
  });
}

async function showDetail(ticker, address, isClick, signal) {
  const isFirst = !tickerInAddress();
  const shown = find("#detail").dataset;
  if (shown.ticker === ticker && shown.date === find("#list").dataset.date) return;
  const source = new URL(address);
  source.pathname = "/chart";
  const page = await fetchPage(source, signal);
  if (signal.aborted) return;
  if (!find("#detail", page)) {
    enqueue(() => showPage(location.href, "replaceState"));
    return;
  }
  setAddress(address, isFirst || isClick ? "pushState" : "replaceState");
  document.title = page.title;
  replacePart("detail", page);
  if ((isFirst || isClick) && matchMedia("(max-width: 859px)").matches) find("#detail").scrollIntoView();
}

/** Go that many rows down; from the place where the list was left, if no row is chosen. */
function moveBy(steps) {
  const rows = listRows();
  const index = rows.indexOf(chosenRow() ?? rowOf(lastTicker));
  const row = rows[index < 0 ? (steps > 0 ? 0 : rows.length - 1) : index + steps];
  if (row) chooseRow(row);
}

function moveToEnd(which) {
  const row = listRows().at(which);
  if (row) chooseRow(row);
}

/** Show the ticker that the filter names, anomaly or not; else the first row. */
function chooseTyped() {
  const { meant } = find("#list").dataset;
  const row = meant ? rowOf(meant) : listRows()[0];
  if (row) {
    chooseRow(row);
  } else if (meant) {
    const address = currentAddress();
    address.searchParams.set("ticker", meant);
    return showPage(address);
  }
  return null;
}

const FIELDS = ["date", "threshold", "filter", "min_price", "min_trades", "min_record"];

/** What the fields say, by name, without what is half typed; an empty text is what is usual. */
function settings() {
  const fields = FIELDS.map((id) => find(`#${id}`)).filter(({ id, value, validity }) => validity.valid || (id === "date" && value >= "1000"));
  const skip = [...document.querySelectorAll("#filters [name=skip]:checked")].map(({ value }) => value).join();
  return { ...Object.fromEntries(fields.map(({ id, value, dataset }) => [id, value === dataset.default ? "" : value])), skip };
}

/** Show what the fields say. To change a filter, unlike to begin one, is no step to go back from. */
function applySettings() {
  const address = withChosenTicker(location.href);
  const changed = [];
  for (const [name, after] of Object.entries(settings())) {
    const isDefaultDate = name === "date" && after === find("#list").dataset.date;
    const before = address.searchParams.getAll(name).join() || (isDefaultDate ? after : "");
    if (before === after) continue;
    changed.push(before && after ? name : "");
    if (after) address.searchParams.set(name, after);
    else address.searchParams.delete(name);
  }
  if (!changed.length) return null;
  return showPage(address, changed.every((name) => name === "filter") ? "replaceState" : "pushState");
}

/** Follow a link; those of the header and of the list's headings keep the chosen ticker. */
function follow(link) {
  if (!link?.href) return null;
  const keepsTicker = link.closest(".scanner #steps, th, #clear-filters");
  return showPage(keepsTicker ? withChosenTicker(link.href) : link.href);
}

/** Go to the day before or after. At the table's end, ask whether it has got longer. */
async function stepDay(id) {
  if (!find(`#${id}`)?.href) await refresh();
  await follow(find(`#${id}`));
}

/** Show the same day again, as it is in the table now. */
function refresh() {
  if (find("main").classList.contains("error")) return null;
  const address = withChosenTicker(location.href);
  const { date } = find("#list")?.dataset ?? find("#detail").dataset;
  if (date) address.searchParams.set("date", date);
  return showPage(address, "replaceState");
}

/** Leave the ticker's own page, or close the detail, or take the filter away. */
function close() {
  const wayBack = find("#all-anomalies");
  if (wayBack) return enqueue(() => follow(wayBack));
  choosing.abort();
  const address = currentAddress();
  const name = chosenRow() || address.searchParams.has("ticker") ? "ticker" : "filter";
  if (!find("#list")) return null;
  if (!address.searchParams.has(name)) return markChosen(null);
  address.searchParams.delete(name);
  return enqueue(() => showPage(address));
}

// A new table.

async function lookForNewTable() {
  const { tableVersion } = find("main").dataset;
  if (document.hidden || !tableVersion) return;
  const answer = await fetch(document.body.dataset.tableUrl).catch(() => null);
  const { version } = answer?.ok ? await answer.json() : {};
  if (version && version !== find("main").dataset.tableVersion) enqueue(refresh);
}

/** Say so if a page is of another table than the one before it. */
function reportNewTable(before, page) {
  const { tableVersion: after } = find("main", page)?.dataset ?? find("main").dataset;
  const message = find("#new-table");
  if (after) find("main").dataset.tableVersion = after;
  if (before && after && before !== after) {
    const last = find("#date")?.max;
    message.replaceChildren(`There is a new table${last ? ` up to ${last}` : ""}. `);
    if (last && last !== find("#list").dataset.date) message.append(linkToDay(last));
  } else if (find("a", message)?.dataset.date === find("#list")?.dataset.date) {
    message.replaceChildren();
  }
}

function linkToDay(date) {
  const link = document.createElement("a");
  link.textContent = `Go to ${date}`;
  link.dataset.date = date;
  const address = withChosenTicker(location.href);
  address.searchParams.set("date", date);
  link.href = address;
  return link;
}

// Keys, clicks and fields.

const KEYS = {
  ArrowLeft: () => enqueue(() => stepDay("previous-day")),
  ArrowRight: () => enqueue(() => stepDay("next-day")),
  ArrowDown: () => enqueue(() => (find("#list") ? moveBy(1) : follow(find("#next-anomaly")))),
  ArrowUp: () => enqueue(() => (find("#list") ? moveBy(-1) : follow(find("#previous-anomaly")))),
  Home: () => enqueue(() => moveToEnd(0)),
  End: () => enqueue(() => moveToEnd(-1)),
  p: () => enqueue(() => follow(find("#earlier-anomaly"))),
  n: () => enqueue(() => follow(find("#later-anomaly"))),
  "/": () => find("#filter")?.select(),
  Escape: close,
};
KEYS.j = KEYS.ArrowDown;
KEYS.k = KEYS.ArrowUp;

const FILTER_KEYS = {
  Enter: () => {
    find("#filter").blur();
    enqueue(applySettings);
    enqueue(chooseTyped);
  },
  ArrowDown: () => {
    find("#filter").blur();
    enqueue(() => moveBy(1));
  },
  Escape: () => {
    find("#filter").value = "";
    find("#filter").blur();
    enqueue(applySettings);
  },
};

/** Close the panel of further filters; the focus goes back to what opened it. */
function closeFilters() {
  if (find("#filters").contains(document.activeElement)) find("#filters-summary").focus();
  find("#filters").open = false;
}

const PANEL_KEYS = { Escape: closeFilters };

/** The keys that do something where the focus is. */
function keysAt(element) {
  if (element.closest("#filters[open]")) return PANEL_KEYS;
  if (!element.closest("input")) return KEYS;
  return element.id === "filter" ? FILTER_KEYS : {};
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const keys = keysAt(event.target);
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

document.addEventListener("click", (event) => {
  if (find("#filters[open]") && !event.target.closest("#filters")) closeFilters();
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const row = event.target.closest("#anomalies tbody tr");
  const link = event.target.closest("a[href]");
  if (row) {
    event.preventDefault();
    chooseRow(row, true);
  } else if (link && isPageHere(link)) {
    event.preventDefault();
    enqueue(() => (/^(previous|next)-day$/.test(link.id) ? stepDay(link.id) : follow(link)));
  }
});

/** Whether a link leads to a page of which this script can replace the parts. */
function isPageHere(link) {
  if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return false;
  return ["/", "/chart"].includes(link.pathname) && !link.closest(".error");
}

document.addEventListener("input", (event) => event.target.id === "filter" && enqueue(applySettings));
document.addEventListener("change", (event) => event.target.closest("#settings") && enqueue(applySettings));
document.addEventListener("submit", (event) => {
  event.preventDefault();
  enqueue(applySettings);
});
addEventListener("popstate", () => enqueue(() => showPage(location.href, null)));
addEventListener("focus", lookForNewTable);
document.addEventListener("visibilitychange", lookForNewTable);
setInterval(lookForNewTable, LOOK_FOR_NEW_TABLE_EVERY);

function start() {
  for (const id of PARTS) if (find(`#${id}`)) htmlFromServer.set(id, find(`#${id}`).outerHTML);
  setTabStop();
  chosenRow()?.scrollIntoView({ block: "nearest" });
  if (find(".chart-box")) connectDetail([]);
}

start();
// The list comes first; plotly.js is loaded before the first chart is asked for.
setTimeout(() => loadPlotly().catch(() => {}), 50);
