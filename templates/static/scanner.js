// Shows another view without loading the page anew. The server renders every view; this script
// fetches the one at an address and replaces the parts that differ. The address holds everything that
// the user has chosen, so the same links and forms work without JavaScript.

import { showAfter } from "./after.js";
import { fetchJson, fetchText, NO_SENSE, ServerError } from "./answers.js";
import { closeCharts, showCharts } from "./charts.js";
import { enableHeadlinesButton } from "./headlines.js";

const PARTS = ["steps", "summary", "csv", "filters-summary", "clear-filters", "list", "detail"];
const LOOK_FOR_NEW_TABLE_EVERY = 30_000; // ms
const htmlFromServer = new Map(); // a part's id: its HTML as the server sent it

const find = (selector, root = document) => root.querySelector(selector);
const listRows = () => [...document.querySelectorAll("#anomalies tbody tr")];
const chosenRow = () => find('#anomalies tr[aria-selected="true"]');
const rowOf = (ticker) => listRows().find((row) => row.dataset.ticker === ticker);
const currentAddress = () => new URL(location.href);
const tickerInAddress = () => currentAddress().searchParams.get("ticker");

let shownAddress = location.href; // the address of the view that is shown
let lastTicker = tickerInAddress(); // the one chosen last: the arrow keys go on from its row
let choosing = new AbortController(); // aborts the request for the detail of a row chosen before

// Actions run one after the other, so that three quick presses of a key go on by three days.

let lastAction = Promise.resolve();
const enqueue = (action) => (lastAction = lastAction.then(() => run(action)));

/** Run an action. If it fails, say why. */
async function run(action) {
  let notice = "";
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    notice = error.message;
    if (!(error instanceof ServerError)) {
      reportError(error); // writes it to the browser's console
      notice = `This page has an error (${error.message}): reload it.`;
    }
    // The browser's Back changes the address before the view is fetched: undo that.
    if (location.href !== shownAddress) history.pushState(null, "", shownAddress);
  }
  find("#notice").textContent = notice;
}

// Showing a view.

/** The view at an address, as a document. Throws a ServerError, or an AbortError. */
async function fetchView(address, signal) {
  const [, html] = await fetchText(address, signal);
  const view = new DOMParser().parseFromString(html, "text/html");
  if (!find("main", view)) throw new ServerError(NO_SENSE);
  return view;
}

/** Set the address of the view that is shown. method: "pushState", "replaceState"; null after Back. */
function setAddress(address, method) {
  if (method) history[method](null, "", address);
  shownAddress = location.href;
}

/** Show the view at an address. method is that of setAddress. */
async function showView(address, method = "pushState") {
  choosing.abort();
  const oldValues = fieldValues();
  const view = await fetchView(address);
  choosing.abort(); // a row that was chosen while the view loaded belongs to the old list
  const oldParameters = new URL(shownAddress).searchParams;
  setAddress(address, method);
  document.title = view.title;
  const version = find("main").dataset.tableVersion;
  const hasSameParts = PARTS.every((id) => !find(`#${id}`) === !find(`#${id}`, view));
  if (hasSameParts) {
    replaceParts(view, oldParameters, oldValues, method ? document.activeElement : null);
  } else {
    closeCharts();
    find("main").replaceWith(find("main", view));
    htmlFromServer.clear();
    start();
  }
  reportNewTable(version, view);
}

/**
 * Replace the parts that differ in a view. oldParameters are those of the address shown before. oldValues
 * and typedInto are those of updateFields.
 */
function replaceParts(view, oldParameters, oldValues, typedInto) {
  const list = find("#list");
  const oldDate = list?.dataset.date;
  const focused = document.activeElement;
  const selector = selectorOf(focused);
  lastTicker = tickerInAddress() ?? lastTicker;
  PARTS.forEach((id) => replacePart(id, view));
  updateFields(view, oldValues, typedInto);
  if (list) scrollList(list, oldDate, oldParameters);
  if (!focused.isConnected) (find(selector) ?? list)?.focus({ preventScroll: true });
}

const FIELDS = "#settings :is(input, select)[id]";
const valueOf = (field) => (field.type === "checkbox" ? field.checked : field.value);
const fieldValues = () => new Map([...document.querySelectorAll(FIELDS)].map((field) => [field.id, valueOf(field)]));

/**
 * Give the settings' fields the values that they have in a view, except those that the user changed
 * after oldValues were read, and the input that is typed into, if any.
 */
function updateFields(view, oldValues, typedInto) {
  for (const newField of view.querySelectorAll(FIELDS)) {
    const field = find(`#${newField.id}`);
    if (newField.min) [field.min, field.max] = [newField.min, newField.max];
    if (valueOf(field) !== oldValues.get(field.id)) continue;
    if (field.type === "checkbox") field.checked = newField.checked;
    else if (field.options) copySelect(newField, field);
    else if (field !== typedInto) field.value = newField.value;
  }
}

/** Give a select element the options and the value of another. */
function copySelect(from, to) {
  const { value, options } = from;
  const texts = (select) => Array.from(select.options, ({ text }) => text).join();
  if (texts(to) !== texts(from)) to.replaceChildren(...options);
  to.value = value; // Chromium has chosen one of the new options by itself
}

/** Scroll to the top if the day or order changed; then to the chosen row if the order did not. */
function scrollList(list, oldDate, oldParameters) {
  const parameters = currentAddress().searchParams;
  const hasNewOrder = ["sort", "order"].some((name) => oldParameters.get(name) !== parameters.get(name));
  if (hasNewOrder || list.dataset.date !== oldDate) list.scrollTop = 0;
  if (!hasNewOrder) chosenRow()?.scrollIntoView({ block: "nearest" });
}

/** A selector that finds the same element after the parts have been replaced. */
function selectorOf(element) {
  if (element.id) return `#${CSS.escape(element.id)}`;
  const row = element.closest("#anomalies tr[data-ticker]");
  if (row) return `#anomalies tr[data-ticker="${CSS.escape(row.dataset.ticker)}"] a`;
  const header = element.closest("th[data-sort]");
  if (header) return `th[data-sort="${header.dataset.sort}"] a`;
  const box = element.closest(".chart-box");
  return box && element.className ? `#${box.id} .${element.classList[0]}` : "#list";
}

/**
 * Give a part the attributes and the content that it has in a view, if they have changed. The element
 * itself stays, because screen readers watch it.
 */
function replacePart(id, view) {
  const newPart = find(`#${id}`, view);
  if (!newPart || newPart.outerHTML === htmlFromServer.get(id)) return;
  htmlFromServer.set(id, newPart.outerHTML);
  const part = find(`#${id}`);
  if (id === "detail") closeCharts();
  for (const { name } of [...part.attributes]) part.removeAttribute(name);
  for (const { name, value } of newPart.attributes) part.setAttribute(name, value);
  part.replaceChildren(...newPart.childNodes);
  if (id === "list") setTabStop();
  if (id === "detail") activateDetail();
}

/** Load what the server leaves out of the detail, and make its buttons and links work. */
function activateDetail() {
  const detail = find("#detail");
  // The server makes these links lead to the list. On a ticker's own page, make them stay there.
  for (const link of detail.querySelectorAll(".anomaly-days a")) link.pathname = location.pathname;
  enableCopyButton(detail);
  enableHeadlinesButton(detail);
  showCharts(detail, goToDay);
  showAfter(detail);
}

function enableCopyButton(detail) {
  const button = find(".copy", detail);
  if (!button || !navigator.clipboard) return;
  button.hidden = false;
  button.onclick = async () => {
    await navigator.clipboard.writeText(detail.dataset.ticker);
    button.textContent = "Copied";
  };
}

// Choosing a row.

/** Let the Tab key reach the link of one row only; the arrow keys reach the other rows. */
function setTabStop() {
  const stop = chosenRow() ?? rowOf(lastTicker) ?? listRows()[0];
  for (const row of listRows()) find("a", row).tabIndex = row === stop ? 0 : -1;
}

/** Mark a row as the chosen one; without a row, none is. */
function markChosen(row) {
  chosenRow()?.setAttribute("aria-selected", "false");
  row?.setAttribute("aria-selected", "true");
  htmlFromServer.delete("list"); // the list is no longer as the server sent it: replace it next time
  setTabStop();
}

/** A link's address, with the ticker that is chosen now. (The link may be older than the choice.) */
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
  if (date !== find("#detail").dataset.date) enqueue(() => showView(address));
}

/** Mark a row at once; show its detail and change the address once the server has answered. */
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

/** Show a ticker's detail beside the list. Only a click, or the first choice, adds an entry for Back. */
async function showDetail(ticker, address, isClick, signal) {
  const addsEntry = isClick || !tickerInAddress();
  const shown = find("#detail").dataset;
  if (shown.ticker === ticker && shown.date === find("#list").dataset.date) return;
  const chartAddress = new URL(address);
  chartAddress.pathname = "/chart"; // the same detail, but sent without the list
  const view = await fetchView(chartAddress, signal);
  if (signal.aborted) return;
  if (!find("#detail", view)) {
    // It is an error, such as a row that a new table lacks: show the list anew.
    enqueue(() => showView(location.href, "replaceState"));
    return;
  }
  setAddress(address, addsEntry ? "pushState" : "replaceState");
  document.title = view.title;
  replacePart("detail", view);
  if (addsEntry && matchMedia("(max-width: 859px)").matches) find("#detail").scrollIntoView();
}

/**
 * Choose the row at an offset from the chosen one, or from the one chosen last: 1 is the next row, -1 the
 * one above. If neither is in the list, 1 chooses its first row and -1 its last.
 */
function moveChoice(offset) {
  const rows = listRows();
  const index = rows.indexOf(chosenRow() ?? rowOf(lastTicker));
  const row = rows[index < 0 ? (offset > 0 ? 0 : rows.length - 1) : index + offset];
  if (row) chooseRow(row);
}

/** Choose the row at an index of the list; -1 is the last. */
function chooseRowAt(index) {
  const row = listRows().at(index);
  if (row) chooseRow(row);
}

/** Choose the ticker that the filter names, an anomaly or not; if it names none, the first row. */
function chooseFiltered() {
  const { filteredTicker } = find("#list").dataset;
  const row = filteredTicker ? rowOf(filteredTicker) : listRows()[0];
  if (row) {
    chooseRow(row);
  } else if (filteredTicker) {
    const address = currentAddress();
    address.searchParams.set("ticker", filteredTicker);
    return showView(address);
  }
  return null;
}

// Settings and links.

/** { name: text } of the settings. A default is the empty text. Half-typed fields are left out. */
function settings() {
  // A date outside the table is invalid but complete; while its year is typed, it starts with a 0.
  const isComplete = ({ id, value, validity }) => validity.valid || (id === "date" && value >= "1000");
  const fields = [...document.querySelectorAll(`${FIELDS}:not([type=checkbox])`)].filter(isComplete);
  const skip = [...document.querySelectorAll("#filters [name=skip]:checked")].map(({ value }) => value).join();
  return { ...Object.fromEntries(fields.map(({ id, value, dataset }) => [id, value === dataset.default ? "" : value])), skip };
}

/** Show the view that the settings ask for. Typing further letters of a filter adds no entry for Back. */
function applySettings() {
  const address = withChosenTicker(location.href);
  let isChanged = false, addsEntry = false;
  for (const [name, after] of Object.entries(settings())) {
    const isShownDate = name === "date" && after === find("#list").dataset.date;
    const before = address.searchParams.getAll(name).join() || (isShownDate ? after : "");
    if (before === after) continue;
    isChanged = true;
    addsEntry ||= name !== "filter" || !before || !after;
    if (after) address.searchParams.set(name, after);
    else address.searchParams.delete(name);
  }
  return isChanged ? showView(address, addsEntry ? "pushState" : "replaceState") : null;
}

/** Show the view that a link leads to. The chosen ticker stays if the link only changes the list or its day. */
function follow(link) {
  if (!link?.href) return null;
  const keepsTicker = link.closest(".scanner #steps, th, #clear-filters");
  return showView(keepsTicker ? withChosenTicker(link.href) : link.href);
}

/** Follow the link to the day before or after. If it leads nowhere, read the table again first. */
async function followDayLink(id) {
  if (!find(`#${id}`)?.href) await refresh();
  await follow(find(`#${id}`));
}

/** Show the same day again, as it is in the table now. */
function refresh() {
  if (find("main").classList.contains("error")) return null;
  const address = withChosenTicker(location.href);
  const { date } = find("#list")?.dataset ?? find("#detail").dataset;
  if (date) address.searchParams.set("date", date);
  return showView(address, "replaceState");
}

/** Leave a ticker's own page, or close the detail beside the list, or else clear the filter. */
function goBackOneLevel() {
  const linkToList = find("#back-to-list");
  if (linkToList) enqueue(() => follow(linkToList));
  choosing.abort();
  if (!find("#list")) return;
  const address = currentAddress();
  const name = chosenRow() || address.searchParams.has("ticker") ? "ticker" : "filter";
  if (address.searchParams.has(name)) {
    address.searchParams.delete(name);
    enqueue(() => showView(address));
  } else {
    markChosen(null);
  }
}

// A new table.

async function lookForNewTable() {
  const { tableVersion } = find("main").dataset;
  if (document.hidden || !tableVersion) return;
  const { version } = await fetchJson(document.body.dataset.tableUrl).catch(() => ({}));
  if (version && version !== find("main").dataset.tableVersion) enqueue(refresh);
}

/** Tell the user if a view's table is not the one shown before, whose version is oldVersion. */
function reportNewTable(oldVersion, view) {
  const { tableVersion } = find("main", view)?.dataset ?? find("main").dataset;
  const message = find("#new-table");
  const link = find("a", message);
  if (tableVersion) find("main").dataset.tableVersion = tableVersion;
  if (oldVersion && tableVersion && oldVersion !== tableVersion) {
    const last = find("#date")?.max;
    message.replaceChildren(`There is a new table${last ? ` up to ${last}` : ""}. `);
    if (last && last !== find("#list").dataset.date) message.append(linkToDay(last));
  } else if (!link || link.dataset.date === find("#list")?.dataset.date) {
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
  ArrowLeft: () => enqueue(() => followDayLink("previous-day")),
  ArrowRight: () => enqueue(() => followDayLink("next-day")),
  ArrowDown: () => enqueue(() => (find("#list") ? moveChoice(1) : follow(find("#next-ticker")))),
  ArrowUp: () => enqueue(() => (find("#list") ? moveChoice(-1) : follow(find("#previous-ticker")))),
  Home: () => enqueue(() => chooseRowAt(0)),
  End: () => enqueue(() => chooseRowAt(-1)),
  p: () => enqueue(() => follow(find("#previous-anomaly"))),
  n: () => enqueue(() => follow(find("#next-anomaly"))),
  "/": () => find("#filter")?.select(),
  Escape: goBackOneLevel,
};
KEYS.j = KEYS.ArrowDown;
KEYS.k = KEYS.ArrowUp;

const FILTER_KEYS = {
  Enter: () => {
    find("#filter").blur();
    enqueue(applySettings);
    enqueue(chooseFiltered);
  },
  ArrowDown: () => {
    find("#filter").blur();
    enqueue(() => moveChoice(1));
  },
  Escape: () => {
    find("#filter").value = "";
    find("#filter").blur();
    enqueue(applySettings);
  },
};

/** Close the panel of further filters. If it has the focus, the button that opened it gets the focus. */
function closeFilters() {
  if (find("#filters").contains(document.activeElement)) find("#filters-summary").focus();
  find("#filters").open = false;
}

const PANEL_KEYS = { Escape: closeFilters };

/** The keys that do something while an element has the focus: { key: action }. */
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
  } else if (link && isLinkToView(link)) {
    event.preventDefault();
    enqueue(() => (/^(previous|next)-day$/.test(link.id) ? followDayLink(link.id) : follow(link)));
  }
});

/** Whether a link leads to a view that this script can show. */
function isLinkToView(link) {
  if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return false;
  return ["/", "/chart"].includes(link.pathname) && !link.closest(".error");
}

document.addEventListener("input", (event) => event.target.id === "filter" && enqueue(applySettings));
document.addEventListener("change", (event) => event.target.closest("#settings") && enqueue(applySettings));
document.addEventListener("submit", (event) => {
  event.preventDefault();
  enqueue(applySettings);
});
addEventListener("popstate", () => enqueue(() => showView(location.href, null)));
addEventListener("focus", lookForNewTable);
document.addEventListener("visibilitychange", lookForNewTable);
setInterval(lookForNewTable, LOOK_FOR_NEW_TABLE_EVERY);

/** Make a view work after it has been shown as a whole. */
function start() {
  for (const id of PARTS) if (find(`#${id}`)) htmlFromServer.set(id, find(`#${id}`).outerHTML);
  setTabStop();
  chosenRow()?.scrollIntoView({ block: "nearest" });
  if (find(".chart-box")) activateDetail();
}

start();
