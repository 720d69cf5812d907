// The chart of a day: candles with VWAP and the previous close; below them volume and trades.

import { changeClass, formatAveragePrice, formatCount, formatPercent, formatPrice, newYorkTime } from "./answers.js";
import { chartOptions, PaneGround, PLAIN, styleSheetColors, written } from "./chart-parts.js";

const MINUTE = 60; // seconds, in which the library counts
const FIRST_MINUTE = 4 * 60, LAST_MINUTE = 20 * 60; // of early and of late trading, counted from midnight

/** The chart of a day in an element: { chart, series, draw }. */
export function createDayChart(element) {
  const { createChart, CandlestickSeries, HistogramSeries, LineSeries } = window.LightweightCharts;
  const chart = createChart(element, {
    autoSize: true,
    timeScale: { timeVisible: true, secondsVisible: false, tickMarkFormatter: clockText },
    localization: { timeFormatter: clockText },
  });
  const candles = chart.addSeries(CandlestickSeries, PLAIN);
  const series = {
    candles,
    vwap: chart.addSeries(LineSeries, { ...PLAIN, lineWidth: 1 }),
    volume: chart.addSeries(HistogramSeries, { ...PLAIN, ...written(formatCount, 1) }, 1),
    trades: chart.addSeries(HistogramSeries, { ...PLAIN, ...written(formatCount, 1) }, 2),
  };
  chart.panes()[0].setStretchFactor(3);
  const grounds = [candles, series.volume, series.trades].map((one) => {
    const ground = new PaneGround();
    one.attachPrimitive(ground);
    return ground;
  });
  const previousClose = candles.createPriceLine({ price: 0, lineWidth: 1, title: "previous close" });
  const shown = {}; // date and times of what is drawn
  return { chart, series, draw: (answer, choices) => drawDay({ chart, series, grounds, previousClose, shown }, answer, choices) };
}

/** Draw an answer of /api/bars. Returns a drawing, as charts.js describes it. */
function drawDay({ chart, series, grounds, previousClose, shown }, answer, choices) {
  const { date, previous_close: close } = answer;
  const color = styleSheetColors();
  const { times, opening, closing } = timesOfDay(answer, choices);
  const bars = barsAt(times, answer, Number(choices.minutes));
  const range = shown.date === date ? visibleTimes(chart, shown.times) : null;
  chart.applyOptions(chartOptions(color));
  const decimals = decimalsOf(bars, close);
  series.candles.applyOptions({
    upColor: color.ground, borderUpColor: color.up, wickUpColor: color.up,
    downColor: color.down, borderDownColor: color.down, wickDownColor: color.down,
    ...written((price) => price.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }), 10 ** -decimals),
    autoscaleInfoProvider: (original) => withPreviousClose(original(), close),
  });
  series.vwap.applyOptions({ color: color.accent });
  previousClose.applyOptions({ price: close ?? 0, color: color.muted, lineVisible: close !== null, axisLabelVisible: close !== null, title: close === null ? "" : "previous close" });
  const isAt = new Map(bars.map((bar) => [bar.time, bar]));
  const points = (values) => times.map((time) => (isAt.has(time) ? { time, ...values(isAt.get(time)) } : { time }));
  series.candles.setData(points(({ open, high, low, close: last }) => ({ open, high, low, close: last })));
  series.vwap.setData(bars.filter((bar) => bar.runningVwap !== null).map((bar) => ({ time: bar.time, value: bar.runningVwap })));
  series.volume.setData(points((bar) => ({ value: bar.volume, color: bar.close < bar.open ? color.down : color.up })));
  series.trades.setData(points((bar) => ({ value: bar.transactions ?? 0, color: color.trades })));
  const shade = (from, to) => ({ from, to, color: color.shade });
  const bands = [shade(0, opening - 1), shade(closing, times.length - 1)].filter(({ from, to }) => from <= to);
  ["", "volume", "trades"].forEach((name, i) => grounds[i].change({ name, bands, text: color.muted }));
  Object.assign(shown, { date, times });
  showTimes(chart, times, range);
  return {
    length: bars.length,
    shown: bars.length - 1,
    indexAt: (logical) => nearest(bars, times[Math.min(Math.max(Math.round(logical), 0), times.length - 1)]),
    logicalOf: (i) => times.indexOf(bars[i].time),
    pointAt: (i) => [bars[i].close, bars[i].time, series.candles],
    nothing: "No trades in regular hours: choose Extended.",
    figures: (i) => figuresOf(bars[i], close),
  };
}

function figuresOf(bar, previousClose) {
  const change = previousClose ? (bar.close / previousClose - 1) * 100 : NaN;
  return [
    ["", clockText(bar.time)],
    ["open", formatPrice(bar.open), "", "O"], ["high", formatPrice(bar.high), "", "H"], ["low", formatPrice(bar.low), "", "L"],
    ["close", formatPrice(bar.close), changeClass(change), "C"], ["change", formatPercent(change), changeClass(change), ""],
    ["VWAP", formatAveragePrice(bar.runningVwap), "vwap"],
    ["volume", formatCount(bar.volume), "", "Vol"], ["trades", formatCount(bar.transactions), "", "Trades"],
  ];
}

// The library knows no time zones. It gets New York's clock as if it were UTC, in seconds.

const clockText = (time) => new Date(time * 1000).toISOString().slice(11, 16);

/** How far New York's clock is from UTC on an answer's day, in seconds. No market is open while it changes. */
function clockOffset({ hours, session }) {
  const { open } = hours ?? session;
  return (Date.parse(`${newYorkTime(open).replace(" ", "T")}Z`) - open) / 1000;
}

/** The times of the chart's candles, and the indexes of the first one in regular hours and of the first after them. */
function timesOfDay(answer, { hours, minutes }) {
  const { open, close } = answer.hours ?? answer.session;
  const offset = clockOffset(answer), midnight = Date.parse(`${answer.date}T00:00Z`) / 1000;
  const [opening, closing] = [open, close].map((time) => time / 1000 + offset);
  const [from, to] = hours === "regular" ? [opening, closing] : [midnight + FIRST_MINUTE * MINUTE, midnight + LAST_MINUTE * MINUTE];
  const step = minutes * MINUTE;
  const times = Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
  return { times, opening: (opening - from) / step, closing: (closing - from) / step };
}

/**
 * An answer's bars, put together to bars of so many minutes; those outside of times are left out. runningVwap is
 * the volume-weighted average price since the first of them. If a bar has no vwap of its own, the mean of its high,
 * low and close stands for it.
 */
function barsAt(times, answer, minutes) {
  const offset = clockOffset(answer), step = minutes * MINUTE, bars = new Map();
  let volume = 0, dollars = 0;
  for (const bar of answer.bars) {
    const clock = bar.timestamp / 1000 + offset;
    const time = times[Math.floor((clock - times[0]) / step)];
    if (time === undefined) continue;
    volume += bar.volume;
    dollars += bar.volume * (bar.vwap ?? (bar.high + bar.low + bar.close) / 3);
    const before = bars.get(time);
    const sum = (name) => (bar[name] === null ? before?.[name] ?? null : (before?.[name] ?? 0) + bar[name]);
    bars.set(time, {
      time,
      open: before?.open ?? bar.open,
      high: Math.max(bar.high, before?.high ?? bar.high),
      low: Math.min(bar.low, before?.low ?? bar.low),
      close: bar.close,
      volume: sum("volume"),
      transactions: sum("transactions"),
      runningVwap: volume ? dollars / volume : null,
    });
  }
  return [...bars.values()];
}

/** The index of the bar that is nearest to a time. */
function nearest(bars, time) {
  const after = bars.findIndex((bar) => bar.time >= time);
  if (after < 1) return after < 0 ? bars.length - 1 : 0;
  return bars[after].time - time <= time - bars[after - 1].time ? after : after - 1;
}

/** How many decimals the price axis has: as many as its lowest price needs to be told from the next. */
function decimalsOf(bars, previousClose) {
  const low = Math.min(...bars.map((bar) => bar.low), previousClose ?? Infinity);
  return low > 0 && low < 1 ? Math.min(3 - Math.floor(Math.log10(low)), 10) : 2;
}

/** The prices that the axis shows, with the previous close if it is near them. */
function withPreviousClose(info, previousClose) {
  if (!info || previousClose === null) return info;
  const { minValue, maxValue } = info.priceRange;
  const most = (maxValue - minValue) / 2;
  if (previousClose < minValue - most || previousClose > maxValue + most) return info;
  return { ...info, priceRange: { minValue: Math.min(minValue, previousClose), maxValue: Math.max(maxValue, previousClose) } };
}

// The zoom. It is kept as times, because the same time has another index in candles of other minutes.

/** [from, to]: the times at the edges of a chart that shows times; null if the whole day is in sight. */
function visibleTimes(chart, times) {
  const { from, to } = chart.timeScale().getVisibleLogicalRange() ?? { from: 0, to: Infinity };
  if (from < 0.5 && to > times.length - 1.5) return null;
  const step = times[1] - times[0];
  return [from, to].map((logical) => times[0] + logical * step);
}

/** Show the times of a range that visibleTimes returned, or all of times. */
function showTimes(chart, times, range) {
  if (!range || range[1] < times[0] || range[0] > times.at(-1)) return chart.timeScale().fitContent();
  const step = times[1] - times[0];
  const [from, to] = range.map((time) => (time - times[0]) / step);
  return chart.timeScale().setVisibleLogicalRange({ from, to });
}
