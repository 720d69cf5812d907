// What this browser remembers of its user, as JSON under one key of its local storage:
// { stars: [ticker], hidden: [ticker], notes: { ticker: text }, settings: { name: value } }.

const KEY = "lookup-table";

/** What is remembered. */
export function recall() {
  const nothing = { stars: [], hidden: [], notes: {}, settings: {} };
  try {
    return { ...nothing, ...JSON.parse(localStorage.getItem(KEY)) };
  } catch {
    return nothing; // it is no JSON, or the browser does not let us read it
  }
}

/** Let change, a function, change what is remembered. Returns whether the browser's storage took it. */
export function remember(change) {
  const memory = recall();
  change(memory);
  try {
    localStorage.setItem(KEY, JSON.stringify(memory));
    return true;
  } catch {
    return false; // the storage is full, or the browser forbids it
  }
}
