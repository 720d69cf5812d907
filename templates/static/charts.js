// The two charts of a ticker's day, drawn by plotly.js from this server's JSON. Each has a line
// above it, the readout, which tells the figures of the minute or day that is pointed at.

import { fetchJson, formatCount, formatPercent, formatPrice, formatZScore, newYorkTime } from "./answers.js";

const MINUTE = 60_000; // ms
const FAST_STEP = 700; // ms: someone who chooses again within this time is on the way to another row
// How many ms to wait before a chart is asked for. Polygon answers few requests a minute, so a row
// that is only passed by must not cost one.
const WAIT_WHILE_STEPPING = { "day-chart-box": 500, "history-chart-box": 60 };
const WAIT_AFTER_LIMIT = 1000; // ms a row must have been chosen before bars are asked for
const DRAW = { "day-chart-box": drawDay, "history-chart-box": drawHistory };

let plotly; // a promise of plotly.js
let loading = new AbortController(); // ends the requests for charts that are no longer wanted
let lastChoice = -Infinity; // when charts were last asked for, ms
let limitWasReached = false; // Polygon has refused a request with a 429
let goToDay = () => {}; // what a click on a day of the history does
let zoom = null; // { date, range }: the part of the day that the user zoomed to
const answers = new Map(); // box id: the answer that its chart shows
const countdowns = new Map(); // box id: the timer that tries again

/** plotly.js, loaded once. */
export function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.body.dataset.plotly;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      plotly = undefined;
      reject(new Error("The charts need the package plotly: pip install -r requirements.txt"));
    };
    document.head.append(script);
  });
  return plotly;
}

/** The drawn charts of a detail that is about to be replaced. */
export function drawnCharts(detail) {
  return [...detail.querySelectorAll(".chart.js-plotly-plot")];
}

/** Put the old charts into the new detail, to be seen until the new ones are there; drop the others. */
export function keepOldCharts(charts, detail) {
  for (const chart of charts) {
    const empty = detail.querySelector(`#${chart.id}`);
    if (empty) {
      chart.setAttribute("aria-label", empty.getAttribute("aria-label"));
      empty.replaceWith(chart);
      chart.classList.add("old");
    } else {
      window.Plotly.purge(chart);
    }
  }
}

/** Load and draw the charts of a detail; onDay(date) is called when the user chooses a day. */
export function showCharts(detail, onDay) {
  loading.abort();
  loading = new AbortController();
  goToDay = onDay;
  const { signal } = loading;
  const isStepping = performance.now() - lastChoice < FAST_STEP;
  lastChoice = performance.now();
  for (const box of detail.querySelectorAll(".chart-box")) {
    answers.delete(box.id);
    let wait = isStepping ? WAIT_WHILE_STEPPING[box.id] : 0;
    if (limitWasReached && box.id === "day-chart-box") wait = WAIT_AFTER_LIMIT;
    showLoading(box);
    box.querySelector(".retry").onclick = () => retry(box, signal);
    setTimeout(() => signal.aborted || loadChart(box, signal), wait);
  }
  connectRanges(detail.querySelector(".ranges"), signal);
}

async function loadChart(box, signal) {
  clearTimeout(countdowns.get(box.id));
  try {
    const url = box.id === "history-chart-box" ? `${box.dataset.url}&sessions=${chosenSessions()}` : box.dataset.url;
    const [answer, Plotly] = await Promise.all([fetchJson(url, signal), loadPlotly()]);
    if (signal.aborted) return;
    answers.set(box.id, answer);
    await drawChart(Plotly, box);
    showDrawn(box);
  } catch (error) {
    if (!signal.aborted) showFailure(box, error, signal);
  }
}

async function drawChart(Plotly, box) {
  const chart = box.querySelector(".chart");
  const answer = answers.get(box.id);
  const isNew = !chart.classList.contains("js-plotly-plot");
  const draw = DRAW[box.id];
  const { traces, layout, config, items, describe, start, onEnter, pointedTrace } = draw(Plotly, chart, answer);
  await Plotly.react(chart, traces, layout, config);
  chart.classList.remove("old");
  chart.dataset.ticker = answer.ticker;
  chart.dataset.date = answer.date;
  if (isNew) listenToChart(chart);
  connectReadout(Plotly, box, { length: items, describe, start, onEnter, pointedTrace });
}

function listenToChart(chart) {
  const boxOf = () => chart.closest(".chart-box");
  chart.on("plotly_hover", ({ points }) => readouts.get(boxOf())?.tell(points[0].pointIndex ?? points[0].pointNumber));
  chart.on("plotly_unhover", () => readouts.get(boxOf())?.reset());
  if (chart.id === "day-chart") {
    chart.on("plotly_relayout", (change) => followTime(chart, change));
    chart.on("plotly_doubleclick", () => showWholeDay(chart));
  } else {
    chart.on("plotly_click", ({ points }) => goToDay(points[0].x));
  }
}

// What a chart's box says while there is no chart.

function setState(box, kind, sentence) {
  const state = box.querySelector(".state");
  state.className = `state ${kind}`;
  state.querySelector(".sentence").textContent = sentence;
  state.querySelector(".countdown").textContent = "";
}

function showLoading(box) {
  clearTimeout(countdowns.get(box.id));
  box.querySelector(".chart").setAttribute("aria-busy", "true");
  setState(box, "loading", "Loading …");
}

function showDrawn(box) {
  const button = box.querySelector(".retry");
  const hadFocus = document.activeElement === button;
  box.querySelector(".chart").removeAttribute("aria-busy");
  setState(box, "", "");
  button.hidden = true;
  if (hadFocus) box.querySelector(".chart").focus({ preventScroll: true });
}

function showFailure(box, error, signal) {
  const chart = box.querySelector(".chart");
  if (chart.classList.contains("js-plotly-plot")) {
    const empty = chart.cloneNode(false);
    empty.className = "chart";
    window.Plotly.purge(chart);
    chart.replaceWith(empty);
  }
  box.querySelector(".chart").removeAttribute("aria-busy");
  setState(box, "message", error.message);
  const button = box.querySelector(".retry");
  button.hidden = false;
  button.ariaDisabled = "false";
  if (error.retryAfter) {
    limitWasReached = true;
    countDown(box, Date.now() + error.retryAfter * 1000, signal);
  }
}

/** Try again; the button stays where it is, so that it keeps the focus. */
function retry(box, signal) {
  if (box.querySelector(".retry").ariaDisabled === "true") return;
  showLoading(box);
  box.querySelector(".retry").ariaDisabled = "true";
  loadChart(box, signal);
}

/** Say how long it takes until time, and then try again. */
function countDown(box, time, signal) {
  if (signal.aborted) return;
  const seconds = Math.ceil((time - Date.now()) / 1000);
  if (seconds <= 0) {
    retry(box, signal);
    return;
  }
  box.querySelector(".countdown").textContent = `Trying again in ${seconds} s.`;
  countdowns.set(box.id, setTimeout(() => countDown(box, time, signal), 250));
}

// The readout: the figures of one minute or day. It is a slider, so that the keyboard reaches
// each of them as the pointer does.

const readouts = new WeakMap(); // box: { tell(index), reset() }

function connectReadout(Plotly, box, { length, describe, start, onEnter, pointedTrace }) {
  const readout = box.querySelector(".readout");
  const chart = box.querySelector(".chart");
  let index = start;
  const tell = (to) => {
    index = Math.min(Math.max(to, 0), length - 1);
    const figures = describe(index);
    readout.replaceChildren(...figures.map(([name, value, className]) => figureElement(name, value, className)));
    readout.setAttribute("aria-valuenow", index);
    readout.setAttribute("aria-valuetext", figures.map(([name, value]) => `${name} ${value}`.trim()).join(", "));
  };
  const pointAt = (to) => {
    tell(to);
    Plotly.Fx.hover(chart, [{ curveNumber: pointedTrace, pointNumber: index }]);
  };
  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -Infinity, End: Infinity };
  Object.assign(readout, { role: "slider", tabIndex: 0, ariaLabel: readout.dataset.label, ariaValueMin: 0, ariaValueMax: length - 1 });
  readout.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(steps, event.key)) pointAt(index + steps[event.key]);
    else if (event.key === "Enter" && onEnter) onEnter(index);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  readout.onblur = () => {
    Plotly.Fx.unhover(chart);
    tell(start);
  };
  readouts.set(box, { tell, reset: () => tell(start) });
  tell(start);
}

function figureElement(name, value, className = "") {
  const element = document.createElement("span");
  const label = document.createElement("i");
  label.textContent = name;
  const figure = document.createElement("b");
  figure.textContent = value;
  figure.className = className;
  element.append(...(name ? [label, " "] : []), figure);
  return element;
}

// The day: candles, volume and trades of each minute.

const WHOLE_DAY = (date) => [`${date} 04:00`, `${date} 20:00`];

/** For each bar the volume-weighted average price since the day's first bar. */
export function runningVwap(bars) {
  let volume = 0, dollars = 0;
  return bars.map((bar) => {
    volume += bar.volume;
    dollars += bar.volume * (bar.vwap ?? (bar.high + bar.low + bar.close) / 3);
    return volume ? dollars / volume : null;
  });
}

function drawDay(Plotly, chart, answer) {
  const { ticker, date, bars, previous_close: previousClose } = answer;
  const color = readColors();
  const times = bars.map((bar) => newYorkTime(bar.timestamp));
  const vwap = runningVwap(bars);
  if (zoom?.date !== date) zoom = null;
  const range = zoom?.range ?? WHOLE_DAY(date);
  return {
    traces: dayTraces(answer, times, vwap, color),
    layout: dayLayout(answer, times, range, color),
    config: chartConfig(`${ticker}-${date}`, ["zoom2d", "pan2d", wholeDayButton(Plotly, chart), "toImage"], true),
    items: bars.length,
    start: bars.length - 1,
    pointedTrace: 3, // VWAP
    describe: (i) => {
      const bar = bars[i];
      return [
        ["", times[i].slice(11)],
        ["open", formatPrice(bar.open)], ["high", formatPrice(bar.high)],
        ["low", formatPrice(bar.low)], ["close", formatPrice(bar.close), bar.close < bar.open ? "down" : "up"],
        ["change", formatPercent(previousClose ? (bar.close / previousClose - 1) * 100 : NaN)],
        ["VWAP", formatPrice(vwap[i])],
        ["volume", formatCount(bar.volume)], ["trades", formatCount(bar.transactions)],
      ];
    },
  };
}

function dayTraces({ date, bars, previous_close: previousClose }, times, vwap, color) {
  const column = (name) => bars.map((bar) => bar[name]);
  // A bar's time is the start of its minute; plotly puts it into the middle.
  const minute = { x: times, xperiod: MINUTE, xperiodalignment: "middle" };
  const panel = { ...minute, type: "bar", width: MINUTE, hoverinfo: "none", showlegend: false };
  const traces = [
    {
      ...minute, type: "candlestick", name: "price", hoverinfo: "none", showlegend: false,
      open: column("open"), high: column("high"), low: column("low"), close: column("close"),
      increasing: { line: { color: color.up, width: 1 }, fillcolor: color.ground },
      decreasing: { line: { color: color.down, width: 1 }, fillcolor: color.down },
    },
    {
      ...panel, name: "volume", y: column("volume"), yaxis: "y2",
      // Like the candles: hollow where the price rose, filled where it fell.
      marker: {
        color: bars.map((bar) => (bar.close < bar.open ? color.down : color.ground)),
        line: { width: 1, color: bars.map((bar) => (bar.close < bar.open ? color.down : color.up)) },
      },
    },
    { ...panel, name: "trades", y: column("transactions"), yaxis: "y3", marker: { color: color.bar, line: { width: 0 } } },
    {
      type: "scatter", mode: "lines", name: "VWAP", x: times.map((time) => `${time}:30`), y: vwap, hoverinfo: "none",
      line: { color: color.accent, width: 1.5 },
    },
    oneMinuteCandles(times[0]),
  ];
  if (previousClose !== null) {
    traces.push({
      type: "scatter", mode: "lines", name: `previous close ${formatPrice(previousClose)}`, hoverinfo: "skip",
      x: WHOLE_DAY(date), y: [previousClose, previousClose], line: { color: color.text, width: 1, dash: "dash" },
    });
  }
  return traces;
}

/**
 * Two empty candles, a minute apart. plotly makes candles as wide as the smallest gap between any
 * two; without these, the only two trades of a day would be two candles hours wide.
 */
function oneMinuteCandles(time) {
  const next = new Date(Date.parse(`${time.replace(" ", "T")}:00Z`) + MINUTE).toISOString().slice(0, 16).replace("T", " ");
  const nothing = [null, null];
  return {
    type: "candlestick", name: "one minute", x: [time, next], xperiod: MINUTE, xperiodalignment: "middle",
    open: nothing, high: nothing, low: nothing, close: nothing, hoverinfo: "skip", showlegend: false,
  };
}

function dayLayout(answer, times, range, color) {
  const { date, session } = answer;
  const [start, end] = WHOLE_DAY(date);
  const shade = (from, to) => ({
    type: "rect", xref: "x", x0: from, x1: to, yref: "paper", y0: 0, y1: 1,
    fillcolor: color.shade, line: { width: 0 }, layer: "below",
  });
  const scales = visibleScales(answer, times, range);
  const cursor = { spikethickness: 1, spikedash: "dot", spikecolor: color.muted };
  const panel = { ...axisStyle(color), fixedrange: true, automargin: true };
  const title = (text) => ({ text, font: { size: 10 } });
  return {
    ...commonLayout(color),
    xaxis: {
      ...axisStyle(color), type: "date", range, minallowed: start, maxallowed: end, rangeslider: { visible: false },
      tickformat: "%H:%M", anchor: "y3", ...cursor, showspikes: true, spikemode: "across", spikesnap: "hovered data",
    },
    yaxis: {
      ...panel, range: scales.price, domain: [0.48, 1], title: title("price, $"),
      ...cursor, showspikes: true, spikemode: "across", spikesnap: "cursor",
    },
    yaxis2: { ...panel, range: scales.volume, domain: [0.24, 0.44], nticks: 3, title: title("volume") },
    yaxis3: { ...panel, range: scales.trades, domain: [0, 0.2], nticks: 3, title: title("trades") },
    bargap: 0,
    boxgap: 0.2,
    boxmode: "overlay",
    // Of a line, plotly finds the point next to the pointer; of candles and bars only one below it.
    // So the line of VWAP finds the minute in each panel, however thin the day.
    hoversubplots: "axis",
    hoverdistance: 1000,
    spikedistance: -1,
    shapes: [shade(start, newYorkTime(session.open)), shade(newYorkTime(session.close), end)],
  };
}

/** The ranges of the three axes that fit the bars within a range of times. */
function visibleScales({ date, bars, previous_close: previousClose }, times, [from, to]) {
  // Texts compare like times. A minute that begins before the range may still reach into it.
  const isVisible = (time) => `${time}:59` >= from && time <= to;
  const visible = bars.filter((_, i) => isVisible(times[i]));
  const some = visible.length ? visible : bars;
  let low = Math.min(...some.map((bar) => bar.low));
  let high = Math.max(...some.map((bar) => bar.high));
  const height = high - low;
  const isNear = previousClose !== null && previousClose > low - height / 2 && previousClose < high + height / 2;
  if (isNear && from <= WHOLE_DAY(date)[0]) {
    low = Math.min(low, previousClose);
    high = Math.max(high, previousClose);
  }
  const margin = (high - low) * 0.04 || high * 0.01 || 1;
  const most = (name) => Math.max(...some.map((bar) => bar[name] ?? 0)) * 1.06 || 1;
  return { price: [low - margin, high + margin], volume: [0, most("volume")], trades: [0, most("transactions")] };
}

/** After a zoom in time: remember it, and fit the other axes to what is seen. */
function followTime(chart, change) {
  const isTime = Object.keys(change).some((name) => name.startsWith("xaxis.range"));
  const answer = answers.get("day-chart-box");
  if (!isTime || !answer) return;
  const range = chart.layout.xaxis.range.map(String);
  const [start, end] = WHOLE_DAY(answer.date);
  zoom = range[0] > `${start}:01` || range[1] < end ? { date: answer.date, range } : null;
  const scales = visibleScales(answer, answer.bars.map((bar) => newYorkTime(bar.timestamp)), range);
  window.Plotly.relayout(chart, { "yaxis.range": scales.price, "yaxis2.range": scales.volume, "yaxis3.range": scales.trades });
}

function showWholeDay(chart) {
  const answer = answers.get("day-chart-box");
  if (answer) window.Plotly.relayout(chart, { "xaxis.range": WHOLE_DAY(answer.date) });
}

const wholeDayButton = (Plotly, chart) => ({
  name: "wholeDay", title: "Whole day", icon: Plotly.Icons.home, click: () => showWholeDay(chart),
});

// The history: trades of each day, with the baseline that they are compared with.

const SESSIONS_KEY = "history-sessions";
let sessions = readSetting(SESSIONS_KEY) ?? "60";

const chosenSessions = () => sessions;

function connectRanges(ranges, signal) {
  if (!ranges) return;
  ranges.hidden = false;
  const buttons = [...ranges.querySelectorAll("button")];
  const markPressed = () => buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.sessions === sessions));
  for (const button of buttons) {
    button.onclick = () => {
      sessions = button.dataset.sessions;
      writeSetting(SESSIONS_KEY, sessions);
      markPressed();
      const box = ranges.closest(".chart-box");
      showLoading(box);
      loadChart(box, signal);
    };
  }
  markPressed();
}

/** A setting that this browser keeps, null where it keeps none. */
function readSetting(name) {
  try {
    const value = localStorage.getItem(name);
    return /^(\d{1,3}|all)$/.test(value) ? value : null;
  } catch {
    return null;
  }
}

function writeSetting(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // A browser that keeps nothing: the choice lasts as long as the page.
  }
}

function drawHistory(Plotly, chart, { ticker, date, threshold, rows }) {
  const color = readColors();
  const days = rows.map((row) => row.date);
  const limits = rows.map((row) => (row.std_trades === null ? null : row.avg_trades + threshold * row.std_trades));
  return {
    traces: historyTraces(rows, days, limits, threshold, color),
    layout: historyLayout(rows, days, date, color),
    config: chartConfig(`${ticker}-${date}-history`, ["toImage"], false),
    items: rows.length,
    start: days.indexOf(date),
    pointedTrace: 0,
    onEnter: (i) => goToDay(days[i]),
    describe: (i) => {
      const row = rows[i];
      return [
        ["", row.date], ["trades", formatCount(row.trades)], ["z-score", formatZScore(row.z_score), row.anomaly ? "spike" : ""],
        ["mean", formatCount(row.avg_trades)], [`mean + ${threshold} std`, formatCount(limits[i])],
        ["close", formatPrice(row.close_price)],
        ["change", formatPercent(row.price_diff), row.price_diff < 0 ? "down" : "up"],
      ];
    },
  };
}

function historyTraces(rows, days, limits, threshold, color) {
  const column = (name) => rows.map((row) => row[name]);
  const step = (name, y, dash) => ({
    type: "scatter", mode: "lines", name, x: days, y, hoverinfo: "skip",
    line: { shape: "hvh", color: color.text, width: 1.2, dash },
  });
  const anomalies = rows.filter((row) => row.anomaly);
  return [
    {
      type: "bar", name: "trades", x: days, y: column("trades"), hoverinfo: "none", showlegend: false,
      marker: { color: rows.map((row) => (row.anomaly ? color.spike : color.bar)), line: { width: 0 } },
    },
    {
      type: "scatter", mode: "markers", name: "anomaly", x: anomalies.map((row) => row.date),
      y: anomalies.map((row) => row.trades), hoverinfo: "skip", cliponaxis: false,
      marker: { symbol: "triangle-down", size: 9, color: color.spike, line: { color: color.ground, width: 1 } },
    },
    step("mean", column("avg_trades"), "solid"),
    step(`mean + ${threshold} std`, limits, "dot"),
    {
      type: "scatter", mode: "lines", name: "close", x: days, y: column("close_price"), yaxis: "y2", hoverinfo: "skip",
      line: { color: color.accent, width: 1.5 },
    },
  ];
}

function historyLayout(rows, days, date, color) {
  const index = days.indexOf(date);
  const every = Math.ceil(days.length / 9);
  const ticks = days.filter((_, i) => (i - index) % every === 0);
  const withYear = days[0].slice(0, 4) !== days[days.length - 1].slice(0, 4);
  return {
    ...commonLayout(color),
    dragmode: false,
    xaxis: {
      ...axisStyle(color), type: "category", range: [-0.6, days.length - 0.4], showgrid: false, fixedrange: true,
      tickmode: "array", tickvals: ticks, ticktext: ticks.map((day) => (withYear ? day.slice(2) : day.slice(5))),
      showspikes: true, spikemode: "across", spikesnap: "hovered data", spikethickness: 1, spikedash: "dot", spikecolor: color.muted,
    },
    yaxis: { ...axisStyle(color), ...tradesScale(rows), automargin: true, fixedrange: true },
    yaxis2: {
      ...axisStyle(color), overlaying: "y", side: "right", tickmode: "auto", nticks: 5, showgrid: false,
      automargin: true, fixedrange: true, title: { text: "close, $" },
    },
    bargap: 0.25,
    hoverdistance: 1000,
    spikedistance: -1,
    shapes: [{
      type: "rect", xref: "x", x0: index - 0.5, x1: index + 0.5, yref: "paper", y0: 0, y1: 1,
      fillcolor: color.chosen, line: { width: 0 }, layer: "below",
    }],
  };
}

/** Linear, unless that would flatten every other day and the baseline with them. */
function tradesScale(rows) {
  const trades = rows.map((row) => row.trades).filter((n) => n > 0).sort((a, b) => a - b);
  const most = trades[trades.length - 1];
  if (!(most > 20 * trades[trades.length >> 1])) return { rangemode: "tozero", title: { text: "trades" } };
  return { type: "log", dtick: 1, range: [Math.log10(trades[0] / 2), Math.log10(most * 1.5)], title: { text: "trades, log scale" } };
}

// What both charts share.

/** The style sheet's colours as plotly understands them; with forced colours, the system's. */
function readColors() {
  const probe = document.createElement("span");
  probe.style.forcedColorAdjust = "none";
  document.body.append(probe);
  const colors = {};
  for (const name of ["ground", "panel", "line", "text", "muted", "accent", "chosen", "up", "down", "spike", "bar", "shade"]) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}

const axisStyle = (color) => ({ gridcolor: color.line, linecolor: color.line, zeroline: false });

const family = getComputedStyle(document.body).fontFamily;

const commonLayout = (color) => ({
  autosize: true,
  margin: { l: 52, r: 12, t: 26, b: 26 },
  paper_bgcolor: color.ground,
  plot_bgcolor: color.ground,
  font: { family, size: 11, color: color.muted },
  hovermode: "x",
  modebar: { bgcolor: "transparent", color: color.muted, activecolor: color.accent },
  legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "transparent", itemclick: false, itemdoubleclick: false },
});

const chartConfig = (filename, buttons, scrollZoom) => ({
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  doubleClick: false,
  scrollZoom,
  modeBarButtons: [buttons],
  toImageButtonOptions: { filename, scale: 2 },
});

/** Draw both charts anew from the answers that they show. */
async function redrawCharts() {
  const Plotly = await loadPlotly();
  for (const id of answers.keys()) {
    const box = document.getElementById(id);
    if (box?.querySelector(".js-plotly-plot")) drawChart(Plotly, box);
  }
}

for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", redrawCharts);
}
