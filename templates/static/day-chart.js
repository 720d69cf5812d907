// The chart of a day: candles with VWAP and the previous close; below them volume and trades.

import { changeClass, formatAveragePrice, formatCount, formatPercent, formatPrice, newYorkTime } from "./answers.js";
import { belowReadout, chartOptions, PaneGround, PLAIN, priceFormat, styleSheetColors, WHOLE_NUMBERS } from "./chart-parts.js";

const MINUTE = 60; // seconds, in which the library counts
const FIRST_MINUTE = 4 * 60, LAST_MINUTE = 20 * 60; // of early and of late trading, counted from midnight

/** An empty chart of a day in an element, for drawDay. */
export function createDayChart(element) {
  const { createChart, CandlestickSeries, HistogramSeries, LineSeries } = window.LightweightCharts;
  const chart = createChart(element, {
    autoSize: true,
    timeScale: { timeVisible: true, secondsVisible: false, tickMarkFormatter: clockText },
    localization: { timeFormatter: clockText },
  });
  const counts = { ...PLAIN, ...WHOLE_NUMBERS };
  const series = {
    candles: chart.addSeries(CandlestickSeries, PLAIN),
    vwap: chart.addSeries(LineSeries, { ...PLAIN, lineWidth: 1 }),
    volume: chart.addSeries(HistogramSeries, counts, 1),
    trades: chart.addSeries(HistogramSeries, counts, 2),
  };
  chart.panes()[0].setStretchFactor(3);
  return {
    chart, series,
    grounds: [series.candles, series.volume, series.trades].map((one) => new PaneGround(one)),
    closeLine: series.candles.createPriceLine({ price: 0, lineWidth: 1 }),
  };
}

/** Draw an answer of /api/bars into such a chart. Returns a drawing, as charts.js describes it. */
export function drawDay(kept, answer, choices) {
  const { chart, series, grounds } = kept;
  const { date, previous_close: previousClose } = answer;
  const color = styleSheetColors();
  const { times, opening, closing } = timesOfDay(answer, choices);
  const bars = barsAt(times, answer, choices.minutes);
  const zoom = chart.timeScale().getVisibleRange();
  chart.applyOptions(chartOptions(color));
  setStyles(kept, bars, previousClose, color);
  setBars(series, times, bars, color);
  const shade = (from, to) => ({ from, to, color: color.shade });
  const bands = [shade(0, opening - 1), shade(closing, times.length - 1)].filter(({ from, to }) => from <= to);
  ["", "volume", "trades"].forEach((name, i) => grounds[i].change({ name, bands, text: color.muted }));
  keepZoom(kept, zoom, date, times);
  return {
    length: bars.length,
    shown: bars.length - 1,
    indexAt: (logical) => lastBefore(bars, times[Math.min(Math.round(logical), times.length - 1)]),
    logicalOf: (i) => times.indexOf(bars[i].time),
    pointAt: (i) => [bars[i].close, bars[i].time, series.candles],
    nothing: "No trades in regular hours: choose Extended.",
    figures: (i) => figuresOf(bars[i], previousClose),
  };
}

/** Like a trader's candles: hollow where the price rose, filled where it fell. */
function setStyles({ series, closeLine }, bars, previousClose, color) {
  const hasClose = previousClose !== null;
  series.candles.applyOptions({
    upColor: color.ground, borderUpColor: color.up, wickUpColor: color.up,
    downColor: color.down, borderDownColor: color.down, wickDownColor: color.down,
    ...priceFormat([...bars.map((bar) => bar.low), previousClose]),
    autoscaleInfoProvider: (original) => belowReadout(withPreviousClose(original(), previousClose)),
  });
  series.vwap.applyOptions({ color: color.accent });
  closeLine.applyOptions({
    price: previousClose ?? 0, color: color.muted, lineVisible: hasClose, axisLabelVisible: hasClose,
    title: hasClose ? "previous close" : "",
  });
}

/** Give the series their points. A time without a bar is an empty point, so that time runs evenly. */
function setBars(series, times, bars, color) {
  const barAt = new Map(bars.map((bar) => [bar.time, bar]));
  const points = (values) => times.map((time) => (barAt.has(time) ? { time, ...values(barAt.get(time)) } : { time }));
  series.candles.setData(points(({ open, high, low, close }) => ({ open, high, low, close })));
  series.vwap.setData(bars.filter(({ vwap }) => vwap !== null).map(({ time, vwap }) => ({ time, value: vwap })));
  series.volume.setData(points((bar) => ({ value: bar.volume, color: bar.close < bar.open ? color.down : color.up })));
  // The library ends the time axis at the last point with a value: so this series has one at each time.
  series.trades.setData(times.map((time) => {
    const trades = barAt.get(time)?.transactions ?? 0;
    return { time, value: trades, color: trades ? color.trades : "transparent" };
  }));
}

/** Show the same hours of a day as before, which zoom has; of another day, show all of times. */
function keepZoom(kept, zoom, date, times) {
  const before = kept.times ?? times, timeScale = kept.chart.timeScale();
  const isZoomed = kept.date === date && zoom && (zoom.from > before[0] || zoom.to < before.at(-1));
  if (!isZoomed) timeScale.fitContent();
  else if (before.length !== times.length) timeScale.setVisibleRange(zoom);
  Object.assign(kept, { date, times });
}

function figuresOf(bar, previousClose) {
  const change = previousClose ? (bar.close / previousClose - 1) * 100 : NaN;
  return [
    ["", clockText(bar.time)],
    ["open", formatPrice(bar.open), "lesser", "O"],
    ["high", formatPrice(bar.high), "lesser", "H"],
    ["low", formatPrice(bar.low), "lesser", "L"],
    ["close", formatPrice(bar.close), changeClass(change), "C"],
    ["change", formatPercent(change), changeClass(change), ""],
    ["VWAP", formatAveragePrice(bar.vwap), "vwap"],
    ["volume", formatCount(bar.volume), "", "Vol"],
    ["trades", formatCount(bar.transactions), "", "Trades"],
  ];
}

// The library knows no time zones. It gets New York's clock as if it were UTC, in seconds.

const clockText = (time) => new Date(time * 1000).toISOString().slice(11, 16);

/** How far New York's clock is from UTC on an answer's day, in seconds. No market is open while it changes. */
function clockOffset({ session: { open } }) {
  return (Date.parse(`${newYorkTime(open).replace(" ", "T")}Z`) - open) / 1000;
}

/** The times of the chart's candles; the indexes of the first in regular hours, and of the first after them. */
function timesOfDay(answer, { hours, minutes }) {
  const { open, close } = answer.session;
  const offset = clockOffset(answer), midnight = Date.parse(`${answer.date}T00:00Z`) / 1000;
  const [opening, closing] = [open, close].map((time) => time / 1000 + offset);
  const wholeDay = [FIRST_MINUTE, LAST_MINUTE].map((minute) => midnight + minute * MINUTE);
  const [from, to] = hours === "regular" ? [opening, closing] : wholeDay;
  const step = minutes * MINUTE;
  const times = Array.from({ length: Math.ceil((to - from) / step) }, (_, i) => from + i * step);
  return { times, opening: (opening - from) / step, closing: (closing - from) / step };
}

/**
 * An answer's bars, put together to bars of so many minutes; those outside of times are left out. vwap
 * is the volume-weighted average price since the first of them: where a minute has none of its own, the mean of its
 * high, low and close stands for it.
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
      vwap: volume ? dollars / volume : null,
    });
  }
  return [...bars.values()];
}

/** The index of the last bar up to a time; before the first one, its index. */
const lastBefore = (bars, time) => Math.max(bars.findLastIndex((bar) => bar.time <= time), 0);

/** The prices that the axis shows, with the previous close if it is near them. */
function withPreviousClose(info, previousClose) {
  if (!info || previousClose === null) return info;
  const { minValue, maxValue } = info.priceRange;
  const most = (maxValue - minValue) / 2;
  if (previousClose < minValue - most || previousClose > maxValue + most) return info;
  const priceRange = { minValue: Math.min(minValue, previousClose), maxValue: Math.max(maxValue, previousClose) };
  return { ...info, priceRange };
}
