// Fetches JSON from this server, and writes times and numbers as people read them.

export const SERVER_IS_GONE = "The server does not answer: is gui-lookup-table.py still running?";

/**
 * The JSON at a URL. Throws an Error whose message is a sentence for the user. Where the server says
 * when to try again (status 429), the Error's retryAfter says in how many seconds.
 */
export async function fetchJson(url, signal) {
  let response;
  try {
    response = await fetch(url, { signal });
  } catch {
    throw new Error(SERVER_IS_GONE);
  }
  const json = await response.json().catch(() => ({}));
  if (response.ok) return json;
  const error = new Error(json.error ?? "The server's answer makes no sense.");
  if (response.status === 429) error.retryAfter = json.retry_after ?? 60;
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
const PRICE = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
const SIGNED = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: "exceptZero" });

const orDash = (format) => (value) => (Number.isFinite(value) ? format(value) : "—");
export const formatCount = orDash((value) => COUNT.format(value));
export const formatPrice = orDash((value) => PRICE.format(value));
export const formatZScore = orDash((value) => value.toFixed(2));
export const formatPercent = orDash((value) => `${SIGNED.format(value)} %`);
