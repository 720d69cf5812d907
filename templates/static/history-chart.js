// The chart of a ticker's history: trades of each day with the baseline that they are compared with; below, the close.

import { changeClass, formatCount, formatFigure, formatPercent, formatPrice, formatZScore } from "./answers.js";
import {
  belowReadout, bringIntoSight, chartOptions, PaneGround, PLAIN, priceFormat, Steps, styleSheetColors, WHOLE_NUMBERS,
} from "./chart-parts.js";

const Z_THRESHOLD = 3; // the bound that is drawn where the list has none, because its threshold is below 0

/** An empty chart of a history in an element, for drawHistory. */
export function createHistoryChart(element) {
  const { createChart, HistogramSeries, LineSeries } = window.LightweightCharts;
  const chart = createChart(element, { autoSize: true });
  const counts = { ...PLAIN, ...WHOLE_NUMBERS };
  const series = {
    trades: chart.addSeries(HistogramSeries, { ...counts, autoscaleInfoProvider: (original) => belowReadout(original()) }),
    average: chart.addCustomSeries(new Steps(), counts),
    bound: chart.addCustomSeries(new Steps(), { ...counts, dash: [2, 3] }),
    close: chart.addSeries(LineSeries, { ...PLAIN, lineWidth: 2 }, 1),
  };
  chart.panes()[0].setStretchFactor(2);
  return { chart, series, grounds: [new PaneGround(series.trades), new PaneGround(series.close)] };
}

/** Draw an answer of /api/history into such a chart. Returns a drawing, as charts.js describes it. */
export function drawHistory(kept, answer, choices) {
  const { chart, series, grounds } = kept;
  const { date, rows } = answer;
  const color = styleSheetColors();
  // A threshold below 0 makes every row an anomaly, and its bound is a number of trades below 0.
  const threshold = answer.threshold < 0 ? Z_THRESHOLD : answer.threshold;
  const isAnomaly = (row) => (answer.threshold < 0 ? row.z_score > threshold : row.anomaly);
  const bounds = rows.map((row) => (row.std_trades === null ? null : row.avg_trades + threshold * row.std_trades));
  const points = (value) => rows.map((row, i) => ({ time: row.date, value: value(row, i) ?? undefined }));
  const barColor = (row) => (isAnomaly(row) ? color.anomaly : color.trades);
  chart.applyOptions(chartOptions(color));
  setScale(chart, series.trades, rows, choices.scale === "log");
  series.trades.setData(rows.map((row) => ({ time: row.date, value: row.trades, color: barColor(row) })));
  series.average.applyOptions({ color: color.text });
  series.average.setData(points((row) => row.avg_trades));
  series.bound.applyOptions({ color: color.text });
  series.bound.setData(points((_, i) => bounds[i]));
  series.close.applyOptions({ color: color.accent, ...priceFormat(rows.map((row) => row.close_price)) });
  series.close.setData(points((row) => row.close_price));
  const chosen = rows.findIndex((row) => row.date === date);
  const bands = [{ from: chosen, to: chosen, color: color.chosen }];
  ["", "close"].forEach((name, i) => grounds[i].change({ name, bands, leastWidth: 5, text: color.muted }));
  keepZoom(kept, answer, chosen);
  return {
    length: rows.length,
    shown: chosen,
    indexAt: (logical) => Math.min(Math.max(Math.round(logical), 0), rows.length - 1),
    logicalOf: (i) => i,
    pointAt: (i) => [rows[i].trades, rows[i].date, series.trades],
    dayAt: (i) => rows[i].date,
    figures: (i) => figuresOf(rows[i], bounds[i], threshold, isAnomaly(rows[i])),
  };
}

/** Show the same days as before, and the chosen one; of another ticker or other rows, show all. */
function keepZoom(kept, { ticker, rows }, chosen) {
  const shows = [ticker, rows[0].date, rows.at(-1).date].join();
  if (kept.shows === shows) bringIntoSight(kept.chart, chosen);
  else kept.chart.timeScale().fitContent();
  kept.shows = shows;
}

function figuresOf(row, bound, threshold, isAnomaly) {
  const direction = changeClass(row.price_diff);
  return [
    ["", row.date],
    ["trades", formatCount(row.trades), "", "Trades"],
    ["z-score", formatZScore(row.z_score), isAnomaly ? "anomaly" : "", "Z"],
    ["long z", formatZScore(row.long_z), "lesser", "Long z"],
    ["average", formatFigure(row.avg_trades), "average lesser", "Avg"],
    [`average + ${threshold} std dev`, formatFigure(bound), "bound extra", `Avg + ${threshold} dev`],
    ["close", formatPrice(row.close_price), direction, "C"],
    ["change", formatPercent(row.price_diff), direction, ""],
    ["dollar volume", formatCount(row.dollar_volume), "extra", "$"],
  ];
}

/** Make the scale of the trades logarithmic or linear. A logarithm has no zero for the bars to stand on. */
function setScale(chart, trades, rows, isLog) {
  const { Logarithmic, Normal } = window.LightweightCharts.PriceScaleMode;
  const positive = rows.flatMap((row) => [row.trades, row.avg_trades]).filter((value) => value > 0);
  trades.applyOptions({ base: isLog ? Math.min(...positive) / 2 : 0 });
  chart.priceScale("right", 0).applyOptions({ mode: isLog ? Logarithmic : Normal });
}
