// What the two charts share: colours, the options of the library that draws them
// (lightweight-charts, which sets window.LightweightCharts), and what it cannot draw by itself.

import { formatCount } from "./answers.js";

const COLOR_NAMES = [
  "ground", "line", "text", "muted", "accent", "chosen", "up", "down", "anomaly", "trades", "shade",
];

/** The colours of style.css by name, as the library understands them. */
export function styleSheetColors() {
  const probe = document.createElement("span");
  probe.style.forcedColorAdjust = "none";
  document.body.append(probe);
  const colors = {};
  for (const name of COLOR_NAMES) {
    probe.style.color = `var(--${name})`;
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}

export const fontFamily = getComputedStyle(document.body).fontFamily;

/** The options of a chart in these colours. A swipe up or down is left to the page, which scrolls. */
export function chartOptions(color) {
  const { CrosshairMode } = window.LightweightCharts;
  const crosshairLine = { color: color.muted, labelBackgroundColor: color.muted };
  return {
    layout: {
      background: { type: "solid", color: color.ground },
      textColor: color.muted,
      fontFamily,
      fontSize: 11,
      panes: { separatorColor: color.line, separatorHoverColor: color.chosen },
    },
    grid: { vertLines: { color: color.line }, horzLines: { color: color.line } },
    rightPriceScale: { autoScale: true, borderColor: color.line, scaleMargins: { top: 0.06, bottom: 0.04 } },
    timeScale: {
      borderColor: color.line,
      fixLeftEdge: true,
      fixRightEdge: true,
      lockVisibleTimeRangeOnResize: true,
      minBarSpacing: 0.1, // pixels: so 1,710 days and more fit
    },
    crosshair: { mode: CrosshairMode.Normal, vertLine: crosshairLine, horzLine: crosshairLine },
    handleScroll: { vertTouchDrag: false },
    localization: { locale: "en-US", dateFormat: "yyyy-MM-dd" },
  };
}

/** The options of a series without the marks that the library adds to its last value. */
export const PLAIN = { priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false };

/** The prices that an axis shows, with room above them for the readout, which covers the top of a chart. */
export const belowReadout = (info) => info && { ...info, margins: { above: 20, below: 0 } }; // pixels

/** The option of a series that counts something. */
export const WHOLE_NUMBERS = { priceFormat: { type: "custom", formatter: formatCount, minMove: 1 } };

/** The option of a series of prices: with as many decimals as tell the lowest from the next ones. */
export function priceFormat(prices) {
  const lowest = Math.min(...prices.filter((price) => price > 0));
  const decimals = lowest < 1 ? Math.min(3 - Math.floor(Math.log10(lowest)), 10) : 2;
  const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  const formatter = (price) => price.toLocaleString("en-US", digits);
  return { priceFormat: { type: "custom", formatter, minMove: 10 ** -decimals } };
}

/** What stands behind a series in its pane: the pane's name, and bands from top to bottom. */
export class PaneGround {
  name = "";
  text = ""; // the colour of the name
  bands = []; // of { from, to, color }: indexes of points
  leastWidth = 0; // of a band, in pixels

  constructor(series) {
    series.attachPrimitive(this);
  }

  attached({ chart, requestUpdate }) {
    this.timeScale = chart.timeScale();
    this.requestUpdate = requestUpdate;
  }

  change(properties) {
    Object.assign(this, properties);
    this.requestUpdate();
  }

  paneViews() {
    const drawBackground = (target) => target.useMediaCoordinateSpace((space) => this.draw(space));
    return [{ zOrder: () => "bottom", renderer: () => ({ draw() {}, drawBackground }) }];
  }

  draw({ context, mediaSize }) {
    const { barSpacing } = this.timeScale.options();
    for (const { from, to, color } of this.bands) {
      const [left, right] = [from, to].map((index) => this.timeScale.logicalToCoordinate(index));
      const width = Math.max(right - left + barSpacing, this.leastWidth);
      context.fillStyle = color;
      context.fillRect((left + right - width) / 2, 0, width, mediaSize.height);
    }
    context.fillStyle = this.text;
    context.font = `11px ${fontFamily}`;
    context.fillText(this.name, mediaSize.height < 75 ? 50 : 6, 14); // beside the library's link
  }
}

/** A series of steps. Each value is as wide as a bar, so that it lies over the bar it belongs to. */
export class Steps {
  priceValueBuilder = ({ value }) => [value];
  isWhitespace = ({ value }) => value === undefined;
  defaultOptions = () => ({ ...window.LightweightCharts.customSeriesDefaultOptions, dash: [] });
  update = (view, options) => Object.assign(this, { view, options });
  renderer = () => ({ draw: (target, toY) => target.useMediaCoordinateSpace((space) => this.draw(space, toY)) });

  draw({ context }, toY) {
    const { bars, barSpacing, visibleRange } = this.view;
    if (!visibleRange) return;
    context.beginPath();
    for (const { x, originalData } of bars.slice(visibleRange.from, visibleRange.to)) {
      context.lineTo(x - barSpacing / 2, toY(originalData.value));
      context.lineTo(x + barSpacing / 2, toY(originalData.value));
    }
    context.strokeStyle = this.options.color;
    context.lineWidth = Math.min(1.2, 0.4 + barSpacing / 2); // on a chart of many days, bars show behind it
    context.setLineDash(this.options.dash);
    context.stroke();
  }
}

/** Undo each zoom of a chart: that of its times, and those of its axes at the right. */
export function showAll(chart) {
  chart.applyOptions({ rightPriceScale: { autoScale: true } });
  chart.timeScale().fitContent();
}

/** Move a chart so far that the point at an index is in sight. */
export function bringIntoSight(chart, index) {
  const { from, to } = chart.timeScale().getVisibleLogicalRange();
  const shift = Math.min(index - 0.5 - from, 0) || Math.max(index + 0.5 - to, 0);
  if (shift) chart.timeScale().setVisibleLogicalRange({ from: from + shift, to: to + shift });
}
