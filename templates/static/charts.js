// Loads the two charts of a ticker's day, and the figures, choices and messages around them.
//
// Many functions take a box, an element of the class chart-box: it holds the choices, the chart, the
// readout (a line with the figures of the minute or day under the pointer), and the message shown while
// the chart loads or if that fails.

import { fetchJson, ServerError } from "./answers.js";
import { bringIntoSight, fontFamily, showAll, styleSheetColors } from "./chart-parts.js";
import { createDayChart, drawDay } from "./day-chart.js";
import { find, newElement, saveFile } from "./elements.js";
import { createHistoryChart, drawHistory } from "./history-chart.js";
import { recall, remember } from "./storage.js";

const PASSING_TIME = 700; // ms: a user who chooses again within this time is only passing rows
// How many ms a box waits before it fetches its chart while the user is passing rows. Polygon allows few
// requests a minute: a row that is only passed must cost none.
const WAIT_WHILE_PASSING = { "day-chart-box": 500, "history-chart-box": 60 };
const WAIT_AFTER_LIMIT = 1000; // ms: once Polygon has refused a request, each day chart waits this long
const BLANK_AFTER = 300; // ms: so long the chart of the last ticker may stand under the name of the next one
const CREATE = { "day-chart-box": createDayChart, "history-chart-box": createHistoryChart };
const DRAW = { "day-chart-box": drawDay, "history-chart-box": drawHistory };
const NO_LIBRARY = "The charts need litecharts: pip install -r requirements.txt, then start the server again.";
const NO_KEY = "Candles need a key from Polygon in POLYGON_API_KEY.";
const FROM_ELSEWHERE = "Another site may have led here: the candles are loaded when you ask for them.";

let lastChoice = -Infinity; // when charts were last asked for, in ms
let limitWasReached = false; // whether Polygon has refused a request with a 429
let keyIsMissing = false; // whether the server has no key for Polygon
let goToDay = () => {}; // goToDay(date) shows another day of the ticker
const loads = new Map(); // a box's id: the AbortController of what was last loaded for its chart

/**
 * A box's id: its chart, which moves from detail to detail. Each has the library's chart and series, the element
 * it is drawn in, the answer that it shows, and the drawing of it:
 *
 * length, shown  how many minutes or days the readout can show, and the one it shows while none is pointed at
 * figures(i)     what it says of the i-th: for each figure [name, text, class or nothing, short name or nothing]
 * indexAt(n)     the one that the n-th point of the time axis stands for; logicalOf(i) is the reverse
 * pointAt(i)     [price, time, series] of its point
 * dayAt(i)       the day that a click on it, or Enter, leads to; if any
 */
export const charts = new Map();

/** Stop what loads for the detail that is shown. Its charts are kept for the next one. */
export function closeCharts() {
  for (const load of loads.values()) load.abort();
}

/** Load and draw the charts of a detail. onDay(date) is called when the user chooses another day. */
export function showCharts(detail, onDay) {
  goToDay = onDay;
  const isPassing = performance.now() - lastChoice < PASSING_TIME;
  lastChoice = performance.now();
  for (const box of detail.querySelectorAll(".chart-box")) {
    if (charts.has(box.id)) moveChart(charts.get(box.id), box);
    let wait = isPassing ? WAIT_WHILE_PASSING[box.id] : 0;
    if (limitWasReached && isDay(box)) wait = WAIT_AFTER_LIMIT;
    find(".retry", box).onclick = () => retry(box);
    find(".save", box).onclick = () => savePicture(box);
    find(".whole", box).onclick = () => charts.has(box.id) && showAll(charts.get(box.id).chart);
    enableChoices(box);
    if (isDay(box) && keyIsMissing) showNoKey(box);
    else if (isDay(box) && isFromElsewhere()) showMessage(box, "message", FROM_ELSEWHERE, "Show the candles");
    else loadChart(box, wait);
  }
}

const isDay = (box) => box.id === "day-chart-box";

// A view that another site may have opened costs none of the user's requests to Polygon before a click or a key.
const isFromElsewhere = () => "openedByOtherSite" in document.body.dataset;
for (const act of ["click", "keydown"]) {
  document.addEventListener(act, () => delete document.body.dataset.openedByOtherSite, { capture: true });
}

/** Put a chart into a new box in place of the empty element there. */
function moveChart(kept, box) {
  const empty = find(".chart", box);
  kept.element.setAttribute("aria-label", empty.getAttribute("aria-label"));
  kept.element.classList.add("old");
  kept.answer = null;
  empty.replaceWith(kept.element);
}

/** After wait ms, load and draw a box's chart. This ends what is loading for the box already. */
async function loadChart(box, wait = 0) {
  loads.get(box.id)?.abort();
  const load = new AbortController();
  const { signal } = load;
  loads.set(box.id, load);
  showLoading(box);
  await new Promise((resolve) => setTimeout(resolve, wait));
  if (signal.aborted) return;
  try {
    if (!window.LightweightCharts) throw new ServerError(NO_LIBRARY);
    const answer = await fetchJson(box.dataset.url + (isDay(box) ? "" : `&rows=${choices.rows}`), signal);
    if (!signal.aborted) drawChart(box, answer);
  } catch (error) {
    if (!signal.aborted) showFailure(box, error, signal);
  }
}

/** Draw a box's chart from an answer of the server. */
function drawChart(box, answer) {
  if (!charts.has(box.id)) {
    const element = find(".chart", box);
    charts.set(box.id, { element, ...CREATE[box.id](element) });
    listenToChart(charts.get(box.id));
  }
  const kept = charts.get(box.id);
  kept.answer = answer;
  kept.drawing = DRAW[box.id](kept, answer, choices);
  clearTimeout(kept.blanking);
  kept.blanking = null;
  kept.element.classList.remove("old", "blank");
  Object.assign(kept.element.dataset, { ticker: answer.ticker, date: answer.date });
  hideMessage(box);
  if (kept.drawing.length) enableReadout(box, kept);
  else emptyReadout(box, kept.drawing.nothing);
}

function listenToChart(kept) {
  kept.chart.subscribeCrosshairMove(({ logical }) => {
    const readout = kept.element.parentElement?.querySelector(".readout");
    const { drawing } = kept;
    readout?.show?.(logical === undefined ? drawing.shown : drawing.indexAt(logical));
  });
  kept.chart.subscribeClick(({ logical }) => {
    const { answer, drawing } = kept;
    if (answer && drawing.dayAt && logical !== undefined) goToDay(drawing.dayAt(drawing.indexAt(logical)));
  });
}

// The message of a box, shown while its chart loads or if that fails.

/**
 * Show a sentence in a box; kind, "loading" or "message", is its class. A message stands there instead of the
 * chart, with a button that has this text.
 */
function showMessage(box, kind, sentence, button) {
  const message = find(".instead-of-chart", box);
  message.hidden = false;
  message.className = `instead-of-chart ${kind}`;
  find(".sentence", message).textContent = sentence;
  find(".countdown", message).textContent = "";
  find(".chart", box).setAttribute("aria-busy", kind === "loading");
  if (kind === "loading") return;
  find(".chart", box).classList.add("blank");
  emptyReadout(box);
  Object.assign(find(".retry", box), { hidden: false, ariaDisabled: "false", textContent: button });
}

/** Show that a box's chart loads. What it still shows of another ticker goes away soon. */
function showLoading(box) {
  const kept = charts.get(box.id);
  if (kept) kept.blanking ??= setTimeout(() => kept.element.classList.add("blank"), BLANK_AFTER);
  showMessage(box, "loading", "Loading …");
}

function hideMessage(box) {
  const message = find(".instead-of-chart", box);
  const hadFocus = message.contains(document.activeElement);
  find(".chart", box).setAttribute("aria-busy", "false");
  find(".retry", box).hidden = true;
  message.className = "instead-of-chart";
  message.hidden = true;
  if (hadFocus) find(".chart", box).focus({ preventScroll: true });
}

/** Show an error instead of a box's chart, and try again after its retryAfter, if it has one. */
function showFailure(box, error, signal) {
  keyIsMissing ||= isDay(box) && error.status === 503 && error.message.includes("POLYGON_API_KEY");
  showMessage(box, "message", error.message, "Try again");
  if (isDay(box) && keyIsMissing) {
    showNoKey(box);
  } else if (error.retryAfter) {
    limitWasReached ||= error.status === 429;
    countDown(box, Date.now() + error.retryAfter * 1000, signal);
  }
}

/** Without a key there are no candles: leave their room to the history. */
function showNoKey(box) {
  box.classList.add("without-key");
  showMessage(box, "message", NO_KEY, "Try again");
}

/** Load a box's chart again. The button stays in sight, so that it keeps the focus. */
function retry(box) {
  const button = find(".retry", box);
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
  keyIsMissing = false;
  box.classList.remove("without-key");
  loadChart(box);
}

/** Show how many seconds are left until time, which is in ms, and then try again. */
function countDown(box, time, signal) {
  if (signal.aborted) return;
  const seconds = Math.ceil((time - Date.now()) / 1000);
  if (seconds <= 0) {
    retry(box);
    return;
  }
  find(".countdown", box).textContent = `Trying again in ${seconds} s.`;
  setTimeout(() => countDown(box, time, signal), 250);
}

// The readout. It is a slider, so that the keyboard reaches each minute or day as the pointer does.

const READOUT_STEPS = {
  ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -Infinity, End: Infinity,
};

/** Fill a box's readout from its chart's drawing, and let the keyboard move it. */
function enableReadout(box, { chart, drawing }) {
  const { length, shown, dayAt } = drawing;
  const readout = find(".readout", box);
  let index = shown;
  readout.show = (i) => {
    index = Math.min(Math.max(i, 0), length - 1);
    const figures = drawing.figures(index);
    readout.replaceChildren(...figures.map(figureElement));
    readout.setAttribute("aria-valuenow", index);
    readout.setAttribute("aria-valuetext", figures.map(([name, text]) => `${name} ${text}`.trim()).join(", "));
  };
  Object.assign(readout, { role: "slider", tabIndex: 0, ariaLabel: readout.dataset.label });
  Object.assign(readout, { ariaValueMin: 0, ariaValueMax: length - 1 });
  readout.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(READOUT_STEPS, event.key)) {
      readout.show(index + READOUT_STEPS[event.key]);
      bringIntoSight(chart, drawing.logicalOf(index));
      chart.setCrosshairPosition(...drawing.pointAt(index));
    } else if (event.key === "Enter" && dayAt) {
      goToDay(dayAt(index));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  readout.onblur = () => {
    chart.clearCrosshairPosition();
    readout.show(shown);
  };
  readout.show(shown);
}

/** Let a readout show a text only, and nothing to the keyboard. */
function emptyReadout(box, text = "") {
  const readout = find(".readout", box);
  readout.textContent = text;
  for (const name of readout.getAttributeNames()) if (name.startsWith("aria-")) readout.removeAttribute(name);
  Object.assign(readout, { role: null, tabIndex: -1, show: null, onkeydown: null, onblur: null });
}

function figureElement([name, text, className = "", shortName = name]) {
  const label = shortName ? [newElement("i", {}, shortName), " "] : [];
  return newElement("span", { className }, ...label, newElement("b", {}, text));
}

// What the user chooses for all tickers. The browser remembers it.

const choices = { minutes: "1", hours: "extended", rows: "60", scale: "linear" };

/** Make the buttons of a box's choices work. */
function enableChoices(box) {
  for (const button of box.querySelectorAll(".chart-head button")) button.hidden = false;
  for (const group of box.querySelectorAll(".choices")) {
    const { choice } = group.dataset;
    const buttons = [...group.querySelectorAll("button")];
    const press = () => {
      for (const button of buttons) button.ariaPressed = String(button.dataset.value === choices[choice]);
    };
    for (const button of buttons) {
      button.onclick = () => {
        choices[choice] = button.dataset.value;
        remember(({ settings }) => (settings[choice] = choices[choice]));
        press();
        if (choice === "rows") loadChart(box);
        else redraw(box.id);
      };
    }
    const remembered = recall().settings[choice];
    if (buttons.some((button) => button.dataset.value === remembered)) choices[choice] = remembered;
    press();
    group.hidden = false;
  }
}

/** Draw a box's chart again, with the choices and in the colours that hold now. */
function redraw(id) {
  const kept = charts.get(id);
  if (kept?.answer && kept.element.isConnected) drawChart(document.getElementById(id), kept.answer);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...charts.keys()].forEach(redraw));

// Pictures.

/** Save a box's chart as a picture, below a line with its ticker and day. */
async function savePicture(box) {
  const { chart, element, answer } = charts.get(box.id) ?? {};
  if (!answer) return;
  const { ticker, date } = answer;
  await new Promise(requestAnimationFrame); // while the library has something to draw, the next line hangs
  const picture = chart.takeScreenshot(true);
  const ratio = picture.width / element.clientWidth, head = Math.round(28 * ratio);
  const canvas = newElement("canvas", { width: picture.width, height: picture.height + head });
  const context = canvas.getContext("2d"), color = styleSheetColors();
  context.fillStyle = color.ground;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = color.text;
  context.font = `600 ${13 * ratio}px ${fontFamily}`;
  const heading = find("h3", box).textContent;
  context.fillText(`${ticker} · ${date} · ${heading}`, 8 * ratio, 19 * ratio);
  context.drawImage(picture, 0, head);
  const name = `${ticker}-${date}${isDay(box) ? "" : "-history"}.png`;
  canvas.toBlob((blob) => saveFile(blob, name));
}
