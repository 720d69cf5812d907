// What this browser remembers of its user, as JSON under one key of its local storage:
// { stars: [ticker], hidden: [ticker], notes: { ticker: text }, settings: { name: value } }.

const KEY = "lookup-table";

let unsaved = null; // the JSON that the storage did not take; it lasts as long as the page

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const texts = (value) => (Array.isArray(value) ? value.filter((text) => typeof text === "string") : []);
const textsByName = (value) => (
  Object.fromEntries(Object.entries(isObject(value) ? value : {}).filter(([, text]) => typeof text === "string"))
);

/** What of a value, which may be anything, can be remembered. */
export function asMemory(value) {
  const { stars, hidden, notes, settings } = isObject(value) ? value : {};
  return { stars: texts(stars), hidden: texts(hidden), notes: textsByName(notes), settings: isObject(settings) ? settings : {} };
}

/** What is remembered. */
export function recall() {
  try {
    return asMemory(JSON.parse(unsaved ?? localStorage.getItem(KEY)));
  } catch {
    return asMemory(null);
  }
}

/** Let change, a function, change what is remembered. Returns whether that outlasts the page. */
export function remember(change) {
  const memory = recall();
  change(memory);
  const json = JSON.stringify(memory);
  try {
    localStorage.setItem(KEY, json);
    unsaved = null;
  } catch {
    unsaved = json; // the storage is full, or the browser forbids it
  }
  return unsaved === null;
}
