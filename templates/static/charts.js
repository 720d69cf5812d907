// The two charts of a ticker's day, drawn by plotly.js from this server's JSON. Above each chart
// stands its readout, a line with the figures of the minute or day under the pointer.
//
// Many functions take a box, an element of the class chart-box: it holds a heading, the readout, the
// chart, and the message shown while the chart loads or if that fails.

import { fetchJson, formatCount, formatFigure, formatPercent, formatPrice, formatZScore, newYorkTime } from "./answers.js";

const MINUTE = 60_000; // ms
const PASSING_TIME = 700; // ms: a user who chooses again within this time is only passing rows
// How many ms a box waits before it fetches its chart while the user is passing rows. Polygon allows few
// requests a minute: a row that is only passed must cost none.
const WAIT_WHILE_PASSING = { "day-chart-box": 500, "history-chart-box": 60 };
const WAIT_AFTER_LIMIT = 1000; // ms: once Polygon has refused a request, each day chart waits this long
// How each box's chart is drawn: functions that return a drawing, as drawChart describes it.
const DRAWINGS = { "day-chart-box": dayDrawing, "history-chart-box": historyDrawing };

let plotly; // the promise of loadPlotly
let lastChoice = -Infinity; // when charts were last asked for, in ms
let limitWasReached = false; // whether Polygon has refused a request with a 429
let goToDay = () => {}; // goToDay(date) shows another day of the ticker
let zoom = null; // { date, range }: the times of the day that the user zoomed to
const answers = new Map(); // a box's id: the JSON that its chart shows
const loads = new Map(); // a box's id: the AbortController of what was last loaded for its chart

/** Load plotly.js once; window.Plotly is there when the promise is fulfilled. */
export function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.body.dataset.plotly;
    script.onload = resolve;
    script.onerror = () => {
      plotly = undefined;
      reject(new Error("The charts need plotly: pip install -r requirements.txt, then start the server again"));
    };
    document.head.append(script);
  });
  return plotly;
}

/** The charts that are drawn in a detail, an element. */
export function drawnCharts(detail) {
  return [...detail.querySelectorAll(".chart.js-plotly-plot")];
}

/** Show old charts in a new detail until its own are drawn; purge those that it has no box for. */
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

/** Load and draw the charts of a detail. onDay(date) is called when the user chooses another day. */
export function showCharts(detail, onDay) {
  for (const load of loads.values()) load.abort();
  goToDay = onDay;
  const isPassing = performance.now() - lastChoice < PASSING_TIME;
  lastChoice = performance.now();
  for (const box of detail.querySelectorAll(".chart-box")) {
    answers.delete(box.id);
    let wait = isPassing ? WAIT_WHILE_PASSING[box.id] : 0;
    if (limitWasReached && box.id === "day-chart-box") wait = WAIT_AFTER_LIMIT;
    box.querySelector(".retry").onclick = () => retry(box);
    loadChart(box, wait);
  }
  enableHistoryLengths(detail.querySelector(".history-lengths"));
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
    const url = box.id === "history-chart-box" ? `${box.dataset.url}&sessions=${historyLength}` : box.dataset.url;
    const [answer] = await Promise.all([fetchJson(url, signal), loadPlotly()]);
    if (signal.aborted) return;
    answers.set(box.id, answer);
    await drawChart(box);
    hideMessage(box);
  } catch (error) {
    if (!signal.aborted) showFailure(box, error, signal);
  }
}

/**
 * Draw a box's chart from its answer. The drawing holds traces, layout and config for plotly, and
 * length      how many minutes or days the chart shows
 * figures(i)  what the readout says of the i-th: for each figure [name, text, class or nothing]
 * shown       the index of the minute or day that the readout shows while none is pointed at
 * hoverTrace  the name of the trace that has a point for each minute or day
 * onEnter(i)  what the Enter key does in the readout; optional
 */
async function drawChart(box) {
  const chart = box.querySelector(".chart");
  const answer = answers.get(box.id);
  const isNew = !chart.classList.contains("js-plotly-plot");
  const drawing = DRAWINGS[box.id](answer, chart);
  await window.Plotly.react(chart, drawing.traces, drawing.layout, drawing.config);
  chart.classList.remove("old");
  chart.dataset.ticker = answer.ticker;
  chart.dataset.date = answer.date;
  if (isNew) listenToChart(chart);
  enableReadout(box, drawing);
}

function listenToChart(chart) {
  // Look the box up each time: keepOldCharts moves a chart to another one.
  const readout = () => readouts.get(chart.closest(".chart-box"));
  chart.on("plotly_hover", ({ points }) => readout()?.show(points[0].pointIndex ?? points[0].pointNumber));
  chart.on("plotly_unhover", () => readout()?.reset());
  if (chart.id === "day-chart") {
    chart.on("plotly_relayout", (change) => fitToZoom(chart, change));
    chart.on("plotly_doubleclick", () => showWholeDay(chart));
  } else {
    chart.on("plotly_click", ({ points }) => goToDay(points[0].x));
  }
}

// The message of a box, shown while its chart loads or if that fails.

/** Show a sentence in a box; kind, "loading" or "message", is its class. */
function showMessage(box, kind, sentence) {
  const message = box.querySelector(".instead-of-chart");
  message.hidden = false;
  message.className = `instead-of-chart ${kind}`;
  message.querySelector(".sentence").textContent = sentence;
  message.querySelector(".countdown").textContent = "";
}

function showLoading(box) {
  box.querySelector(".chart").setAttribute("aria-busy", "true");
  showMessage(box, "loading", "Loading …");
}

function hideMessage(box) {
  const message = box.querySelector(".instead-of-chart");
  const hadFocus = message.contains(document.activeElement);
  box.querySelector(".chart").removeAttribute("aria-busy");
  box.querySelector(".retry").hidden = true;
  message.className = "instead-of-chart";
  message.hidden = true;
  if (hadFocus) box.querySelector(".chart").focus({ preventScroll: true });
}

/** Show an error instead of a box's chart, and try again after its retryAfter, if it has one. */
function showFailure(box, error, signal) {
  const chart = box.querySelector(".chart");
  if (chart.classList.contains("js-plotly-plot")) {
    const empty = chart.cloneNode(false);
    empty.className = "chart";
    window.Plotly.purge(chart);
    chart.replaceWith(empty);
  }
  box.querySelector(".chart").removeAttribute("aria-busy");
  showMessage(box, "message", error.message);
  const button = box.querySelector(".retry");
  button.hidden = false;
  button.ariaDisabled = "false";
  if (error.retryAfter) {
    limitWasReached = true;
    countDown(box, Date.now() + error.retryAfter * 1000, signal);
  }
}

/** Load a box's chart again. The button stays in sight, so that it keeps the focus. */
function retry(box) {
  const button = box.querySelector(".retry");
  if (button.ariaDisabled === "true") return;
  button.ariaDisabled = "true";
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
  box.querySelector(".countdown").textContent = `Trying again in ${seconds} s.`;
  setTimeout(() => countDown(box, time, signal), 250);
}

// The readout. It is a slider, so that the keyboard reaches each minute or day as the pointer does.

const readouts = new WeakMap(); // a box: { show(index), reset() }

const READOUT_STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -Infinity, End: Infinity };

/** Fill a box's readout from a drawing, and let the keyboard move it. */
function enableReadout(box, drawing) {
  const { traces, length, shown, hoverTrace, onEnter } = drawing;
  const curveNumber = traces.findIndex(({ name }) => name === hoverTrace);
  const readout = box.querySelector(".readout");
  const chart = box.querySelector(".chart");
  let index = shown;
  const show = (i) => {
    index = Math.min(Math.max(i, 0), length - 1);
    const figures = drawing.figures(index);
    readout.replaceChildren(...figures.map(([name, text, className]) => figureElement(name, text, className)));
    readout.setAttribute("aria-valuenow", index);
    readout.setAttribute("aria-valuetext", figures.map(([name, text]) => `${name} ${text}`.trim()).join(", "));
  };
  const reset = () => show(shown);
  Object.assign(readout, { role: "slider", tabIndex: 0, ariaLabel: readout.dataset.label, ariaValueMin: 0, ariaValueMax: length - 1 });
  readout.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(READOUT_STEPS, event.key)) {
      show(index + READOUT_STEPS[event.key]);
      window.Plotly.Fx.hover(chart, [{ curveNumber, pointNumber: index }]);
    } else if (event.key === "Enter" && onEnter) {
      onEnter(index);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  };
  readout.onblur = () => {
    window.Plotly.Fx.unhover(chart);
    reset();
  };
  readouts.set(box, { show, reset });
  reset();
}

function figureElement(name, text, className = "") {
  const element = document.createElement("span");
  const label = document.createElement("i");
  label.textContent = name;
  const figure = document.createElement("b");
  figure.textContent = text;
  figure.className = className;
  element.append(...(name ? [label, " "] : []), figure);
  return element;
}

// The chart of the day: candles, volume and trades of each minute.

/** The times at which the chart of a day begins and ends. Late trading may end sooner. */
const wholeDay = (date) => [`${date} 04:00`, `${date} 20:00`];

/**
 * For each bar, the volume-weighted average price (VWAP) since the day's first bar. If a bar has no vwap
 * of its own, the mean of its high, low and close stands for it.
 */
function runningVwap(bars) {
  let volume = 0, dollars = 0;
  return bars.map((bar) => {
    volume += bar.volume;
    dollars += bar.volume * (bar.vwap ?? (bar.high + bar.low + bar.close) / 3);
    return volume ? dollars / volume : null;
  });
}

function dayDrawing(answer, chart) {
  const { ticker, date, bars, previous_close: previousClose } = answer;
  const color = styleSheetColors();
  const times = bars.map((bar) => newYorkTime(bar.timestamp));
  const vwap = runningVwap(bars);
  if (zoom?.date !== date) zoom = null;
  const range = zoom?.range ?? wholeDay(date);
  return {
    traces: dayTraces(answer, times, vwap, color),
    layout: dayLayout(answer, times, range, color),
    config: chartConfig(`${ticker}-${date}`, ["zoom2d", "pan2d", wholeDayButton(chart), "toImage"], true),
    length: bars.length,
    shown: bars.length - 1,
    hoverTrace: "VWAP",
    figures: (i) => {
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
  const values = (name) => bars.map((bar) => bar[name]);
  // A bar's timestamp is the start of its minute: have plotly draw it in the minute's middle.
  const minute = { x: times, xperiod: MINUTE, xperiodalignment: "middle" };
  const columnStyle = { ...minute, type: "bar", width: MINUTE, hoverinfo: "none", showlegend: false };
  const traces = [
    {
      ...minute, type: "candlestick", name: "price", hoverinfo: "none", showlegend: false,
      open: values("open"), high: values("high"), low: values("low"), close: values("close"),
      increasing: { line: { color: color.up, width: 1 }, fillcolor: color.ground },
      decreasing: { line: { color: color.down, width: 1 }, fillcolor: color.down },
    },
    {
      ...columnStyle, name: "volume", y: values("volume"), yaxis: "y2",
      // Like the candles: hollow where the price rose, filled where it fell.
      marker: {
        color: bars.map((bar) => (bar.close < bar.open ? color.down : color.ground)),
        line: { width: 1, color: bars.map((bar) => (bar.close < bar.open ? color.down : color.up)) },
      },
    },
    { ...columnStyle, name: "trades", y: values("transactions"), yaxis: "y3", marker: { color: color.trades, line: { width: 0 } } },
    {
      type: "scatter", mode: "lines", name: "VWAP", x: times.map((time) => `${time}:30`), y: vwap, hoverinfo: "none",
      line: { color: color.accent, width: 1.5 },
    },
    oneMinuteCandles(times[0]),
  ];
  if (previousClose !== null) {
    traces.push({
      type: "scatter", mode: "lines", name: `previous close ${formatPrice(previousClose)}`, hoverinfo: "skip",
      x: wholeDay(date), y: [previousClose, previousClose], line: { color: color.text, width: 1, dash: "dash" },
    });
  }
  return traces;
}

/**
 * Two empty candles, a minute apart, the first at time. plotly makes all candles as wide as the
 * smallest gap between two of them: without these, a day of two bars would have candles hours wide.
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
  const [start, end] = wholeDay(date);
  const shade = (from, to) => ({
    type: "rect", xref: "x", x0: from, x1: to, yref: "paper", y0: 0, y1: 1,
    fillcolor: color.shade, line: { width: 0 }, layer: "below",
  });
  const ranges = fittingRanges(answer, times, range);
  const verticalAxis = { ...axisStyle(color), fixedrange: true, automargin: true };
  const title = (text) => ({ text, font: { size: 10 } });
  return {
    ...commonLayout(color),
    xaxis: {
      ...axisStyle(color), type: "date", range, minallowed: start, maxallowed: end, rangeslider: { visible: false },
      tickformat: "%H:%M", anchor: "y3", ...cursorLine(color),
    },
    yaxis: {
      ...verticalAxis, range: ranges.price, domain: [0.48, 1], title: title("price, $"),
      ...cursorLine(color), spikesnap: "cursor",
    },
    yaxis2: { ...verticalAxis, range: ranges.volume, domain: [0.24, 0.44], nticks: 3, title: title("volume") },
    yaxis3: { ...verticalAxis, range: ranges.trades, domain: [0, 0.2], nticks: 3, title: title("trades") },
    bargap: 0,
    boxgap: 0.2,
    boxmode: "overlay",
    // Wherever the pointer is, plotly finds the nearest point of a line, but a candle or column only
    // when the pointer is on it. So VWAP, which is a line, finds the minute for the whole chart.
    hoversubplots: "axis",
    hoverdistance: 1000,
    spikedistance: -1,
    shapes: [shade(start, newYorkTime(session.open)), shade(newYorkTime(session.close), end)],
  };
}

/**
 * The ranges of the three vertical axes that fit the bars between two times. The prices include the
 * previous close if it is near them and the range begins where the day begins.
 */
function fittingRanges({ date, bars, previous_close: previousClose }, times, [from, to]) {
  // Times as texts compare like times. A minute that begins before from may reach into the range.
  const isVisible = (time) => `${time}:59` >= from && time <= to;
  const visible = bars.filter((_, i) => isVisible(times[i]));
  const fitted = visible.length ? visible : bars;
  let low = Math.min(...fitted.map((bar) => bar.low));
  let high = Math.max(...fitted.map((bar) => bar.high));
  const height = high - low;
  const isNear = previousClose !== null && previousClose > low - height / 2 && previousClose < high + height / 2;
  if (isNear && from <= wholeDay(date)[0]) {
    low = Math.min(low, previousClose);
    high = Math.max(high, previousClose);
  }
  const margin = (high - low) * 0.04 || high * 0.01 || 1;
  const top = (name) => Math.max(...fitted.map((bar) => bar[name] ?? 0)) * 1.06 || 1;
  return { price: [low - margin, high + margin], volume: [0, top("volume")], trades: [0, top("transactions")] };
}

/** After a zoom in time: remember it, and fit the vertical axes. change is plotly's. */
function fitToZoom(chart, change) {
  const isZoom = Object.keys(change).some((name) => name.startsWith("xaxis.range"));
  const answer = answers.get("day-chart-box");
  if (!isZoom || !answer) return;
  const range = chart.layout.xaxis.range.map(String);
  const [start, end] = wholeDay(answer.date);
  // A beginning within a second of start counts as start.
  zoom = range[0] > `${start}:01` || range[1] < end ? { date: answer.date, range } : null;
  const { price, volume, trades } = fittingRanges(answer, answer.bars.map((bar) => newYorkTime(bar.timestamp)), range);
  window.Plotly.relayout(chart, { "yaxis.range": price, "yaxis2.range": volume, "yaxis3.range": trades });
}

function showWholeDay(chart) {
  const answer = answers.get("day-chart-box");
  if (answer) window.Plotly.relayout(chart, { "xaxis.range": wholeDay(answer.date) });
}

const wholeDayButton = (chart) => ({
  name: "wholeDay", title: "Whole day", icon: window.Plotly.Icons.home, click: () => showWholeDay(chart),
});

// The chart of the history: trades of each day, with the baseline that they are compared with.

const HISTORY_LENGTH_KEY = "history-sessions"; // under which the browser stores the length
let historyLength = storedHistoryLength() ?? "60"; // how many of the ticker's rows the chart shows, or "all"

/** Make the buttons work that choose the length of the history. */
function enableHistoryLengths(group) {
  if (!group) return;
  group.hidden = false;
  const buttons = [...group.querySelectorAll("button")];
  const markPressed = () => buttons.forEach((button) => button.setAttribute("aria-pressed", button.dataset.sessions === historyLength));
  for (const button of buttons) {
    button.onclick = () => {
      historyLength = button.dataset.sessions;
      storeHistoryLength();
      markPressed();
      loadChart(group.closest(".chart-box"));
    };
  }
  markPressed();
}

/** The length that this browser stores, or null. */
function storedHistoryLength() {
  try {
    const stored = localStorage.getItem(HISTORY_LENGTH_KEY);
    return /^(\d{1,3}|all)$/.test(stored) ? stored : null;
  } catch {
    return null;
  }
}

function storeHistoryLength() {
  try {
    localStorage.setItem(HISTORY_LENGTH_KEY, historyLength);
  } catch {
    // The browser stores nothing, so the choice is forgotten when the page is reloaded.
  }
}

function historyDrawing({ ticker, date, threshold, rows }) {
  const color = styleSheetColors();
  const days = rows.map((row) => row.date);
  const bounds = rows.map((row) => (row.std_trades === null ? null : row.avg_trades + threshold * row.std_trades));
  return {
    traces: historyTraces(rows, days, bounds, threshold, color),
    layout: historyLayout(rows, days, date, color),
    config: chartConfig(`${ticker}-${date}-history`, ["toImage"], false),
    length: rows.length,
    shown: days.indexOf(date),
    hoverTrace: "trades",
    onEnter: (i) => goToDay(days[i]),
    figures: (i) => {
      const row = rows[i];
      return [
        ["", row.date], ["trades", formatCount(row.trades)], ["z-score", formatZScore(row.z_score), row.anomaly ? "anomaly" : ""],
        ["average", formatFigure(row.avg_trades)], [`average + ${threshold} std dev`, formatFigure(bounds[i])],
        ["close", formatPrice(row.close_price)],
        ["change", formatPercent(row.price_diff), row.price_diff > 0 ? "up" : row.price_diff < 0 ? "down" : ""],
      ];
    },
  };
}

/** bounds: for each row, average + threshold * standard deviation; null without a baseline. */
function historyTraces(rows, days, bounds, threshold, color) {
  const values = (name) => rows.map((row) => row[name]);
  const stepLine = (name, y, dash) => ({
    type: "scatter", mode: "lines", name, x: days, y, hoverinfo: "skip",
    line: { shape: "hvh", color: color.text, width: 1.2, dash },
  });
  const anomalies = rows.filter((row) => row.anomaly);
  return [
    {
      type: "bar", name: "trades", x: days, y: values("trades"), hoverinfo: "none", showlegend: false,
      marker: { color: rows.map((row) => (row.anomaly ? color.anomaly : color.trades)), line: { width: 0 } },
    },
    {
      type: "scatter", mode: "markers", name: "anomaly", x: anomalies.map((row) => row.date),
      y: anomalies.map((row) => row.trades), hoverinfo: "skip", cliponaxis: false,
      marker: { symbol: "triangle-down", size: 9, color: color.anomaly, line: { color: color.ground, width: 1 } },
    },
    stepLine("average", values("avg_trades"), "solid"),
    stepLine(`average + ${threshold} std dev`, bounds, "dot"),
    {
      type: "scatter", mode: "lines", name: "close", x: days, y: values("close_price"), yaxis: "y2", hoverinfo: "skip",
      line: { color: color.accent, width: 1.5 },
    },
  ];
}

function historyLayout(rows, days, date, color) {
  const index = days.indexOf(date);
  // Some nine dates fit below the chart. The chosen one is always among them.
  const every = Math.ceil(days.length / 9);
  const ticks = days.filter((_, i) => (i - index) % every === 0);
  const withYear = days[0].slice(0, 4) !== days.at(-1).slice(0, 4);
  return {
    ...commonLayout(color),
    dragmode: false,
    xaxis: {
      ...axisStyle(color), type: "category", range: [-0.6, days.length - 0.4], showgrid: false, fixedrange: true,
      tickmode: "array", tickvals: ticks, ticktext: ticks.map((day) => (withYear ? day.slice(2) : day.slice(5))),
      ...cursorLine(color),
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

/** The scale of the trades: logarithmic if a linear one would flatten all days but the highest. */
function tradesScale(rows) {
  const trades = rows.map((row) => row.trades).filter((n) => n > 0).sort((a, b) => a - b);
  const most = trades.at(-1);
  const median = trades[Math.floor(trades.length / 2)];
  if (most > 20 * median) {
    const range = [Math.log10(trades[0] / 2), Math.log10(most * 1.5)];
    return { type: "log", dtick: 1, range, title: { text: "trades, log scale" } };
  }
  return { rangemode: "tozero", title: { text: "trades" } };
}

// What both charts share.

/** The colours of style.css by name, as plotly understands them. */
function styleSheetColors() {
  const probe = document.createElement("span");
  probe.style.forcedColorAdjust = "none";
  document.body.append(probe);
  const colors = {};
  for (const name of ["ground", "line", "text", "muted", "accent", "chosen", "up", "down", "anomaly", "trades", "shade"]) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}

/** The settings of an axis that has a dotted line through the minute or day under the pointer. */
const cursorLine = (color) => ({
  showspikes: true, spikemode: "across", spikesnap: "hovered data",
  spikethickness: 1, spikedash: "dot", spikecolor: color.muted,
});

const axisStyle = (color) => ({ gridcolor: color.line, linecolor: color.line, zeroline: false });

const fontFamily = getComputedStyle(document.body).fontFamily;

const commonLayout = (color) => ({
  autosize: true,
  margin: { l: 52, r: 12, t: 26, b: 26 },
  paper_bgcolor: color.ground,
  plot_bgcolor: color.ground,
  font: { family: fontFamily, size: 11, color: color.muted },
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

/** Draw the charts again in the colours that hold now. */
function redrawCharts() {
  for (const id of answers.keys()) {
    const box = document.getElementById(id);
    if (box?.querySelector(".js-plotly-plot")) drawChart(box);
  }
}

for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)"]) {
  matchMedia(query).addEventListener("change", redrawCharts);
}

export const closeCharts = () => {};
