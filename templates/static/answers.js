// Fetches JSON from this server, and writes times and numbers as people read them.

/** What is wrong with the server or its answer: a sentence for the user. */
export class ServerError extends Error {}

const WAIT_AFTER_STATUS = { 429: 60, 503: 5 }; // seconds, if the server does not say how long
export const NO_SENSE = "The server's answer makes no sense.";

/** The response at a URL, and its text. Throws a ServerError, or an AbortError. */
export async function fetchText(url, signal) {
  try {
    // The header tells the server that one of its own views asks: no other site can send it.
    const response = await fetch(url, { signal, headers: { "X-Lookup-Table-Page": "1" } });
    return [response, await response.text()];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer: is gui-lookup-table.py still running?");
  }
}

/**
 * The JSON at a URL. Throws a ServerError, or an AbortError. The ServerError has the answer's status, and if
 * it is worth to try again by itself (status 429, or 503 while others wait), retryAfter, in seconds.
 */
export async function fetchJson(url, signal) {
  const [response, text] = await fetchText(url, signal);
  let json = {};
  try {
    json = JSON.parse(text);
    if (response.ok) return json;
  } catch {
    // It was cut off, or it is no JSON.
  }
  const error = new ServerError(json.error ?? NO_SENSE);
  error.status = response.status;
  error.retryAfter = json.retry_after ?? WAIT_AFTER_STATUS[response.status];
  throw error;
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

const COUNT = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const TWO_DECIMALS = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "negative" });
const SIGNED = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "exceptZero" });

const orDash = (format) => (value) => (Number.isFinite(value) ? format(value) : "—");
const priceWith = (decimals) => (value) => {
  const most = value > 0 && value < 1 ? Math.min(3 - Math.floor(Math.log10(value)), 20) : decimals;
  return value.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: most });
};
export const formatCount = orDash((value) => COUNT.format(value));
/** A price with two to four decimals; below 1 with up to four significant digits, as in the list. */
export const formatPrice = orDash(priceWith(4));
/** An average price: likewise, but from 1 on with two decimals. */
export const formatAveragePrice = orDash(priceWith(2));
/** An average or a bound: whole from 100 on, else at most three significant digits, as in the list. */
export const formatFigure = orDash((value) => (
  Math.abs(value) >= 99.95 ? COUNT.format(value) : value.toLocaleString("en-US", { maximumSignificantDigits: 3 })
));
export const formatZScore = orDash((value) => TWO_DECIMALS.format(value));
export const formatPercent = orDash((value) => `${SIGNED.format(value)} %`);

/** The class, hence the colour, of a change in percent as it is written: "up", "down", or none. */
export function changeClass(change) {
  const written = Math.round(change * 100);
  return written > 0 ? "up" : written < 0 ? "down" : "";
}
