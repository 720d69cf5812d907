// The two charts of a ticker's day, drawn by plotly.js from this server's JSON.

// Someone on the way down the list wants neither the charts of every row nor, of Polygon's few
// requests a minute, one for each.
const REST = { "day-chart-box": 150, "history-chart-box": 30 };
const DRAW = { "day-chart-box": drawDay, "history-chart-box": drawHistory };

let plotly;
let shown = new AbortController();
let drawn = []; // [chart, redraw], for when the colours change

/** plotly.js, once: the list need not wait for it. */
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

/** Fill the charts of a detail in; onDay(date) is called for a click on a day. */
export function showCharts(detail, onDay) {
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  for (const [chart] of drawn) window.Plotly.purge(chart);
  drawn = [];
  for (const box of detail.querySelectorAll(".chart-box")) {
    setState(box, "loading", "");
    setTimeout(() => signal.aborted || showChart(box, onDay, signal), REST[box.id]);
  }
}

async function showChart(box, onDay, signal) {
  setState(box, "loading", "");
  try {
    const [answer, Plotly] = await Promise.all([getJson(box.dataset.url, signal), loadPlotly()]);
    if (signal.aborted) return;
    const chart = box.querySelector(".chart");
    const redraw = () => DRAW[box.id](Plotly, chart, answer, onDay);
    setState(box, "", "");
    await redraw();
    drawn.push([chart, redraw]);
  } catch (error) {
    if (signal.aborted) return;
    setState(box, "message", error.message);
    const retry = document.createElement("button");
    retry.className = "retry";
    retry.textContent = "Try again";
    retry.onclick = () => showChart(box, onDay, signal);
    box.querySelector(".state").append(retry);
  }
}

function setState(box, name, text) {
  const state = box.querySelector(".state");
  state.className = `state ${name}`;
  state.replaceChildren(name === "loading" ? "Loading …" : text);
}

async function getJson(url, signal) {
  let answer;
  try {
    answer = await fetch(url, { signal });
  } catch {
    throw new Error("The server does not answer: is gui-lookup-table.py still running?");
  }
  const json = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(json.error ?? "The server's answer makes no sense.");
  return json;
}

/** The style sheet's colours, so that charts follow the colour scheme. */
function colors() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

const NEW_YORK = new Intl.DateTimeFormat("en-US", {
  timeZone: "America/New_York",
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});

/** "2024-10-18 09:30" for a time in milliseconds UTC. */
export function newYorkTime(timestamp) {
  const part = Object.fromEntries(NEW_YORK.formatToParts(timestamp).map(({ type, value }) => [type, value]));
  return `${part.year}-${part.month}-${part.day} ${part.hour}:${part.minute}`;
}

/** For each bar the volume-weighted average price since the day's first bar. */
export function runningVwap(bars) {
  let volume = 0, dollars = 0;
  return bars.map((bar) => {
    volume += bar.volume;
    dollars += bar.volume * (bar.vwap ?? (bar.high + bar.low + bar.close) / 3);
    return volume ? dollars / volume : null;
  });
}

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const PRICE = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
const count = (value) => (value === null ? "—" : COUNT.format(value));
const price = (value) => (value === null ? "—" : PRICE.format(value));

function drawDay(Plotly, chart, { ticker, date, bars }) {
  const color = colors();
  const x = bars.map((bar) => newYorkTime(bar.timestamp));
  const vwap = runningVwap(bars);
  const column = (name) => bars.map((bar) => bar[name]);
  const text = bars.map((bar, i) => [
    x[i].slice(11),
    `open ${price(bar.open)}`, `high ${price(bar.high)}`,
    `low ${price(bar.low)}`, `close ${price(bar.close)}`,
    `volume ${count(bar.volume)}`, `VWAP ${price(vwap[i])}`,
  ].join("<br>"));
  const candle = (name) => ({ line: { color: color[name], width: 1 }, fillcolor: color[name] });
  const traces = [
    {
      type: "candlestick", name: "price", x, open: column("open"), high: column("high"),
      low: column("low"), close: column("close"), text, hoverinfo: "text",
      increasing: candle("up"), decreasing: candle("down"), showlegend: false,
    },
    {
      type: "scatter", mode: "lines", name: "VWAP", x, y: vwap, hoverinfo: "skip",
      line: { color: color.accent, width: 1.5 },
    },
    {
      type: "bar", name: "volume", x, y: column("volume"), yaxis: "y2", text, hoverinfo: "text", textposition: "none",
      marker: { color: bars.map((bar) => (bar.close < bar.open ? color.down : color.up)), line: { width: 0 } },
      showlegend: false,
    },
  ];
  const shade = (from, to) => ({
    type: "rect", xref: "x", x0: `${date} ${from}`, x1: `${date} ${to}`, yref: "paper", y0: 0, y1: 1,
    fillcolor: color.shade, line: { width: 0 }, layer: "below",
  });
  const layout = {
    ...commonLayout(color),
    xaxis: {
      ...axis(color), type: "date", range: [`${date} 04:00`, `${date} 20:00`], rangeslider: { visible: false },
      tickformat: "%H:%M", hoverformat: "%H:%M", anchor: "y2", showspikes: true, spikemode: "across",
      spikethickness: 1, spikedash: "dot", spikecolor: color.muted,
    },
    yaxis: { ...axis(color), domain: [0.24, 1], automargin: true, title: { text: "price, $" } },
    yaxis2: { ...axis(color), domain: [0, 0.2], nticks: 3, automargin: true, title: { text: "volume" } },
    bargap: 0,
    shapes: [shade("04:00", "09:30"), shade("16:00", "20:00")],
  };
  return Plotly.react(chart, traces, layout, config(`${ticker}-${date}`));
}

async function drawHistory(Plotly, chart, { ticker, date, threshold, rows }, onDay) {
  const color = colors();
  const x = rows.map((row) => row.date);
  const column = (name) => rows.map((row) => row[name]);
  const bound = rows.map((row) => (row.std_trades === null ? null : row.avg_trades + threshold * row.std_trades));
  const text = rows.map((row, i) => [
    row.date, `trades ${count(row.trades)}`, `mean ${count(row.avg_trades)}`,
    `mean + ${threshold} std ${count(bound[i])}`, `close ${price(row.close_price)}`,
  ].join("<br>"));
  const step = (name, y, dash) => ({
    type: "scatter", mode: "lines", name, x, y, hoverinfo: "skip",
    line: { shape: "hvh", color: color.muted, width: 1.2, dash },
  });
  const spikes = rows.filter((row) => row.anomaly);
  const traces = [
    {
      type: "bar", name: "trades", x, y: column("trades"), text, hoverinfo: "text", textposition: "none",
      marker: { color: rows.map((row) => (row.anomaly ? color.spike : color.line)), line: { width: 0 } }, showlegend: false,
    },
    {
      type: "scatter", mode: "markers", name: "anomaly", x: spikes.map((row) => row.date),
      y: spikes.map((row) => row.trades), hoverinfo: "skip", cliponaxis: false,
      marker: { symbol: "triangle-down", size: 9, color: color.spike, line: { color: color.ground, width: 1 } },
    },
    step("mean", column("avg_trades"), "solid"),
    step(`mean + ${threshold} std`, bound, "dot"),
    {
      type: "scatter", mode: "lines", name: "close", x, y: column("close_price"), yaxis: "y2", hoverinfo: "skip",
      line: { color: color.accent, width: 1.5 },
    },
  ];
  const place = x.indexOf(date);
  const every = Math.ceil(x.length / 9);
  const ticks = x.filter((_, i) => (i - place) % every === 0);
  const layout = {
    ...commonLayout(color),
    xaxis: {
      ...axis(color), type: "category", range: [-0.6, x.length - 0.4], showgrid: false,
      tickmode: "array", tickvals: ticks, ticktext: ticks.map((day) => day.slice(5)),
    },
    yaxis: { ...axis(color), ...tradesScale(rows), automargin: true },
    yaxis2: { ...axis(color), overlaying: "y", side: "right", tickmode: "auto", nticks: 5, showgrid: false, automargin: true, title: { text: "close, $" } },
    bargap: 0.25,
    shapes: [{
      type: "rect", xref: "x", x0: place - 0.5, x1: place + 0.5, yref: "paper", y0: 0, y1: 1,
      fillcolor: color.chosen, line: { width: 0 }, layer: "below",
    }],
  };
  await Plotly.react(chart, traces, layout, config(`${ticker}-${date}-history`));
  chart.removeAllListeners("plotly_click");
  chart.on("plotly_click", ({ points }) => onDay(points[0].x));
}

/** Linear, unless that would flatten every other day and the baseline with them. */
function tradesScale(rows) {
  const trades = rows.map((row) => row.trades).filter((n) => n > 0).sort((a, b) => a - b);
  const most = trades[trades.length - 1];
  if (!(most > 20 * trades[trades.length >> 1])) return { rangemode: "tozero", title: { text: "trades" } };
  return { type: "log", dtick: 1, range: [Math.log10(trades[0] / 2), Math.log10(most * 1.5)], title: { text: "trades, log scale" } };
}

const axis = (color) => ({ gridcolor: color.line, linecolor: color.line, zeroline: false });

const family = getComputedStyle(document.body).fontFamily;

const commonLayout = (color) => ({
  autosize: true,
  margin: { l: 52, r: 12, t: 44, b: 26 },
  paper_bgcolor: color.ground,
  plot_bgcolor: color.ground,
  font: { family, size: 11, color: color.muted },
  hovermode: "x",
  hoverlabel: { bgcolor: color.panel, bordercolor: color.line, font: { family, color: color.text, size: 12 }, align: "left" },
  modebar: { bgcolor: "transparent", color: color.muted, activecolor: color.accent },
  legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", bgcolor: "transparent" },
});

const config = (filename) => ({
  responsive: true,
  displaylogo: false,
  displayModeBar: true,
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  toImageButtonOptions: { filename, scale: 2 },
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(([, redraw]) => redraw()));
