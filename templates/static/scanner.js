// Shows another view without loading the page anew. The server renders every view; this script
// fetches the one at an address and replaces the parts that differ. The address holds everything that
// the user has chosen, so the same links and forms work without JavaScript.

import { showAfter } from "./after.js";
import { fetchJson, fetchText, NO_SENSE, ServerError } from "./answers.js";
import { closeCharts, showCharts } from "./charts.js";
import { find, newElement } from "./elements.js";
import { enableHeadlinesButton } from "./headlines.js";
import { addToDetail, enableFiles, showInList, toggle } from "./notebook.js";
import {
  checkFields, forgetSettings, formValues, InputError, rememberedAddress, rememberSettings, updateFields,
} from "./settings.js";

const PARTS = ["steps", "summary", "csv", "filters-summary", "clear-filters", "list", "detail"];
const LOOK_FOR_NEW_TABLE_EVERY = 30_000; // ms
const STAY = 1000; // ms: a row that was shown for longer is one that Back leads to
const htmlFromServer = new Map(); // a part's id: its HTML as the server sent it

const listRows = () => [...document.querySelectorAll("#anomalies tbody tr:not([hidden])")];
const chosenRow = () => find('#anomalies tr[aria-selected="true"]');
const rowOf = (ticker) => listRows().find((row) => row.dataset.ticker === ticker);
const currentAddress = () => new URL(location.href);
const tickerInAddress = () => currentAddress().searchParams.get("ticker");
const shownTicker = () => chosenRow()?.dataset.ticker ?? find("#detail")?.dataset.ticker;

let shownAddress = location.href; // the address of the view that is shown
let shownSince = 0; // by performance.now()
let lastTicker = tickerInAddress(); // the one chosen last: the arrow keys go on from its row
let choosing = new AbortController(); // aborts the request for the detail of a row chosen before
let starredRow = null; // { row, above, below }: a starred row has moved, but the arrow keys go on from here

// Actions run one after the other, so that three quick presses of a key go on by three days.

let lastAction = Promise.resolve();
let waiting = 0; // how many actions have not ended

function enqueue(action) {
  waiting += 1;
  lastAction = lastAction.then(() => run(action)).finally(() => (waiting -= 1));
}

/** Run an action. If it fails, say why. */
async function run(action) {
  let notice = "";
  try {
    await action();
  } catch (error) {
    if (error.name === "AbortError") return;
    notice = error.message;
    if (!(error instanceof ServerError || error instanceof InputError)) {
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
  shownSince = performance.now();
}

/** Show the view at an address. method is that of setAddress. */
async function showView(address, method = "pushState") {
  choosing.abort();
  const form = find("#settings");
  const oldValues = form && formValues(form);
  const hasPendingRow = chosenRow() && chosenRow().dataset.ticker !== tickerInAddress();
  const withPendingRow = withChosenTicker(location.href);
  const view = await fetchView(address);
  choosing.abort(); // a row that was chosen while the view loaded belongs to the old list
  // Back leads to the chosen row, even if its detail had not arrived.
  if (method === "pushState" && hasPendingRow) setAddress(withPendingRow, method);
  const oldParameters = new URL(shownAddress).searchParams;
  setAddress(address, method);
  if (method) rememberSettings(oldParameters, currentAddress().searchParams);
  document.title = view.title;
  const [oldVersion, { tableVersion }] = [find("main").dataset.tableVersion, find("main", view).dataset];
  const hasSameParts = PARTS.every((id) => !find(`#${id}`) === !find(`#${id}`, view));
  if (hasSameParts) {
    replaceParts(view, oldParameters, oldValues, method ? document.activeElement : null);
    if (tableVersion) find("main").dataset.tableVersion = tableVersion;
  } else {
    closeCharts();
    find("main").replaceWith(find("main", view));
    htmlFromServer.clear();
    start();
  }
  reportNewTable(oldVersion && tableVersion && oldVersion !== tableVersion);
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
  if (list) updateFields(find("#settings"), find("#settings", view), oldValues, typedInto);
  if (list) scrollList(list, oldDate, oldParameters);
  if (!focused.isConnected) (find(selector) ?? list)?.focus({ preventScroll: true });
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
  if (id === "list") activateList();
  if (id === "detail") activateDetail();
}

/** Show in the list what the server does not know. */
function activateList() {
  starredRow = null;
  showInList();
  setTabStop();
}

/** Load what the server leaves out of the detail, and make its buttons and links work. */
function activateDetail() {
  const detail = find("#detail");
  // The server makes these links lead to the list. On a ticker's own page, make them stay there.
  for (const link of detail.querySelectorAll(".anomaly-days a")) link.pathname = location.pathname;
  enableCopyButton(detail);
  addToDetail(detail, run);
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

/** Give an address a parameter; without a text, it has none. */
function setParameter(address, name, text) {
  if (text) address.searchParams.set(name, text);
  else address.searchParams.delete(name);
  return address;
}

/** A link's address, with the ticker that is chosen now. (The link may be older than the choice.) */
function withChosenTicker(href) {
  return setParameter(new URL(href, location.href), "ticker", chosenRow()?.dataset.ticker ?? tickerInAddress());
}

/** The address of the view that is shown, but on another day. */
const addressOnDay = (date) => setParameter(withChosenTicker(location.href), "date", date);

function goToDay(date) {
  const address = addressOnDay(date);
  if (date !== find("#detail").dataset.date) enqueue(() => showView(address));
}

/**
 * Mark a row at once; show its detail and change the address once the server has answered. method is that
 * of setAddress: by default, Back leads to a row that was shown for a while.
 */
function chooseRow(row, method) {
  const { ticker } = row.dataset;
  choosing.abort();
  choosing = new AbortController();
  const { signal } = choosing;
  method ??= !tickerInAddress() || performance.now() - shownSince > STAY ? "pushState" : "replaceState";
  lastTicker = ticker;
  markChosen(row);
  row.scrollIntoView({ block: "nearest" });
  run(async () => {
    try {
      await showDetail(ticker, find("a", row).href, method, signal);
    } catch (error) {
      if (!signal.aborted) markChosen(rowOf(tickerInAddress()));
      throw error;
    }
  });
}

/** Choose a row, if there is one, as the user's click or key says, and give it the focus. */
function goToRow(row, method) {
  if (!row) return;
  chooseRow(row, method);
  find("a", row).focus({ preventScroll: true });
}

/** Show a ticker's detail beside the list. method is that of setAddress. */
async function showDetail(ticker, address, method, signal) {
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
  setAddress(address, method);
  document.title = view.title;
  replacePart("detail", view);
  if (method === "pushState" && matchMedia("(max-width: 859px)").matches) find("#detail").scrollIntoView();
}

/**
 * Choose the row at an offset from the chosen one, or from the one chosen last: 1 is the next row, -1 the
 * one above. If neither is in the list, 1 chooses its first row and -1 its last.
 */
function moveChoice(offset) {
  const rows = listRows();
  const chosen = chosenRow() ?? rowOf(lastTicker);
  let row = rows.at(offset > 0 ? 0 : -1);
  if (chosen && chosen === starredRow?.row) row = offset > 0 ? starredRow.below : starredRow.above;
  else if (rows.includes(chosen)) row = rows[rows.indexOf(chosen) + offset];
  starredRow = null;
  goToRow(row);
}

/** Choose the ticker that the filter names or begins, an anomaly or not; or else the first row. */
function chooseFiltered() {
  const { filteredTicker } = find("#list").dataset;
  const row = filteredTicker ? rowOf(filteredTicker) : listRows()[0];
  if (filteredTicker && !row) return showView(setParameter(currentAddress(), "ticker", filteredTicker));
  return goToRow(row);
}

// Settings and links.

/** Show the view that the form asks for. */
async function applySettings() {
  const form = find("#settings");
  const address = withChosenTicker(location.href);
  const shownDate = find("#list").dataset.date;
  const before = (name) => address.searchParams.getAll(name).join() || (name === "date" ? shownDate : "");
  const changes = Object.entries(formValues(form)).filter(([name, text]) => text !== before(name));
  // Further letters of a filter add no entry for Back.
  const addsEntry = changes.some(([name, text]) => name !== "filter" || !text || !before(name));
  for (const [name, text] of changes) setParameter(address, name, text);
  if (changes.length) await showView(address, addsEntry ? "pushState" : "replaceState");
  checkFields(form);
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
  const { date } = find("#list")?.dataset ?? find("#detail")?.dataset ?? {};
  return showView(date ? addressOnDay(date) : location.href, "replaceState");
}

/** Close what was opened last: a panel, the headlines, a ticker's own page, the detail, the filter. */
function closeLast() {
  const headlines = find('.headlines-button[aria-expanded="true"]');
  if (openMenu()) return closeMenu();
  if (headlines) return headlines.click();
  const linkToList = find("#back-to-list");
  if (linkToList) enqueue(() => follow(linkToList));
  choosing.abort();
  if (!find("#list")) return;
  const address = currentAddress();
  const name = chosenRow() || address.searchParams.has("ticker") ? "ticker" : "filter";
  if (address.searchParams.has(name)) enqueue(() => showView(setParameter(address, name, "")));
  else markChosen(null);
}

// Stars, hidden tickers and notes.

function toggleStar() {
  const rows = listRows();
  const row = chosenRow();
  const i = rows.indexOf(row);
  toggle("stars", shownTicker());
  if (row) starredRow = { row, above: rows[i - 1], below: rows[i + 1] };
}

/** Hide the ticker that is shown, and choose the row below it, or show it again. */
function toggleHidden() {
  const rows = listRows();
  const row = chosenRow();
  toggle("hidden", shownTicker());
  if (!row?.hidden) return;
  const i = rows.indexOf(row);
  goToRow(rows[i + 1] ?? rows[i - 1]);
}

// A new table.

async function lookForNewTable() {
  if (document.hidden || find("main.error:not([data-awaits-table])")) return;
  const { version } = await fetchJson(document.body.dataset.tableUrl).catch(() => ({}));
  if (version && version !== find("main").dataset.tableVersion) enqueue(refresh);
}

/** Tell the user whether the view that is shown is the first of a new table. */
function reportNewTable(isNew) {
  const message = find("#new-table");
  const last = find("#date")?.max;
  message.replaceChildren(isNew ? `There is a new table${last ? ` up to ${last}` : ""}. ` : "");
  if (isNew && last && last !== find("#list").dataset.date) {
    message.append(newElement("a", { href: addressOnDay(last) }, `Go to ${last}`));
  }
}

// Keys, clicks and fields.

const clickIfShown = (selector) => find(`${selector}:not([hidden])`)?.click();
const forTicker = (action) => () => shownTicker() && enqueue(action);

const KEYS = {
  ArrowLeft: () => enqueue(() => followDayLink("previous-day")),
  ArrowRight: () => enqueue(() => followDayLink("next-day")),
  ArrowDown: () => enqueue(() => (find("#list") ? moveChoice(1) : follow(find("#next-ticker")))),
  ArrowUp: () => enqueue(() => (find("#list") ? moveChoice(-1) : follow(find("#previous-ticker")))),
  Home: () => enqueue(() => goToRow(listRows()[0])),
  End: () => enqueue(() => goToRow(listRows().at(-1))),
  p: () => enqueue(() => follow(find("#previous-anomaly"))),
  n: () => enqueue(() => follow(find("#next-anomaly"))),
  s: forTicker(toggleStar),
  x: forTicker(toggleHidden),
  e: () => find("#detail input.note")?.select(),
  h: () => clickIfShown(".headlines-button"),
  c: () => clickIfShown(".copy"),
  z: () => clickIfShown(".whole-day"),
  "/": () => find("#filter")?.select(),
  "?": () => find("#help")?.showPopover(),
  Escape: closeLast,
};
KEYS.j = KEYS.ArrowDown;
KEYS.k = KEYS.ArrowUp;

/** Leave a field for the list, where the arrow keys choose rows. */
function focusList() {
  const stop = find("#anomalies tbody a[tabindex='0']") ?? find("#list");
  document.activeElement.blur(); // on a ticker's own page there is no list
  stop?.focus({ preventScroll: true });
}

const FIELD_KEYS = {
  Enter: () => {
    focusList();
    enqueue(applySettings);
  },
  Escape: focusList,
};

const FILTER_KEYS = {
  Enter: () => {
    FIELD_KEYS.Enter();
    enqueue(chooseFiltered);
  },
  ArrowDown: () => {
    focusList();
    enqueue(() => moveChoice(1));
  },
  Escape: () => {
    find("#filter").value = "";
    FIELD_KEYS.Enter();
  },
};

const NOTE_KEYS = {
  Enter: focusList,
  Escape: () => {
    const field = document.activeElement;
    field.value = field.defaultValue;
    focusList();
  },
};

const openMenu = () => find("details.menu[open]");

/** Close the open panel. If it has the focus, the button that opened it gets the focus. */
function closeMenu() {
  const menu = openMenu();
  if (menu.contains(document.activeElement)) find("summary", menu).focus();
  menu.open = false;
}

const PANEL_KEYS = { Escape: closeMenu };
const HELP_KEYS = { "?": () => find("#help").hidePopover() }; // the browser closes it by Escape

/** The keys that do something while an element has the focus: { key: action }. */
function keysAt(element) {
  if (find("#help:popover-open")) return HELP_KEYS;
  if (element.closest("details.menu[open]")) return PANEL_KEYS;
  if (!element.closest("input")) return KEYS;
  if (element.matches("input.note")) return NOTE_KEYS;
  return { filter: FILTER_KEYS, date: FIELD_KEYS, threshold: FIELD_KEYS }[element.id] ?? {};
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const keys = keysAt(event.target);
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  if (!(event.repeat && waiting)) keys[event.key](); // a key that is held down waits for each view
});

document.addEventListener("click", (event) => {
  if (openMenu() && !openMenu().contains(event.target)) openMenu().open = false;
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const row = event.target.closest("#anomalies tbody tr");
  const link = event.target.closest("a[href]");
  if (row) {
    event.preventDefault();
    goToRow(row, "pushState");
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
document.addEventListener("visibilitychange", lookForNewTable);
setInterval(lookForNewTable, LOOK_FOR_NEW_TABLE_EVERY);

/** Make a view work after it has been shown as a whole. */
function start() {
  for (const id of PARTS) if (find(`#${id}`)) htmlFromServer.set(id, find(`#${id}`).outerHTML);
  if (find("#list")) activateList();
  chosenRow()?.scrollIntoView({ block: "nearest" });
  if (find(".chart-box")) activateDetail();
  enableFiles(run);
}

/** Show the view at an address in place of this one, as if the user had come there by Back. */
function replaceAddress(address) {
  history.replaceState(null, "", address);
  return showView(location.href, null);
}

/** At an address without parameters, show the list with the remembered settings, and its first row. */
async function openFirstView() {
  const address = rememberedAddress(find("#settings"));
  if (address.search) await replaceAddress(address);
  if (find("main.error")) {
    forgetSettings();
    await replaceAddress("/");
  }
  const row = listRows()[0];
  if (row && !tickerInAddress()) chooseRow(row, "replaceState");
}

start();
const isFirstView = performance.getEntriesByType("navigation")[0]?.type !== "reload";
if (find("#list") && location.pathname === "/" && !location.search && isFirstView) enqueue(openFirstView);
