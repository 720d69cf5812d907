// What this browser remembers of its user, as JSON under one key of its local storage:
// { stars: [ticker], hidden: [ticker], notes: { ticker: text }, settings: { name: value } }.

const KEY = "lookup-table";

let unsaved = null; // the JSON that the storage did not take; it lasts as long as the page

/** What is remembered. */
export function recall() {
  const nothing = { stars: [], hidden: [], notes: {}, settings: {} };
  try {
    return { ...nothing, ...JSON.parse(unsaved ?? localStorage.getItem(KEY)) };
  } catch {
    return nothing; // it is no JSON, or the browser forbids to read it
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
