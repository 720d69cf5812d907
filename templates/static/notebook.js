// The user's stars, hidden tickers and notes. They are kept in the browser, and the list and the detail
// show them: starred tickers come first, hidden ones are left out and counted.

import { InputError } from "./settings.js";
import { asMemory, recall, remember } from "./storage.js";

const find = (selector, root = document) => root.querySelector(selector);
const positions = new WeakMap(); // a row of the list: its index in the list that the server sent

let showsHidden = false; // whether the list shows hidden tickers too

/** Remember a change, and show it. Throws an InputError if it will be forgotten. */
function change(action) {
  const isKept = remember(action);
  showInList();
  showInDetail();
  if (!isKept) throw new InputError("This browser's storage is full or switched off: closing the page forgets this.");
}

/** Put a ticker into the stars or the hidden tickers (name says which), or take it out. */
export function toggle(name, ticker) {
  change((memory) => {
    const others = memory[name].filter((other) => other !== ticker);
    memory[name] = others.length < memory[name].length ? others : [...others, ticker];
  });
}

/** Set the note on a ticker; an empty text deletes it. */
export function setNote(ticker, text) {
  change(({ notes }) => {
    if (text) notes[ticker] = text;
    else delete notes[ticker];
  });
}

/** Show stars, hidden tickers and notes in the list, if there is one. */
export function showInList() {
  const body = find("#anomalies tbody");
  const { stars, hidden, notes } = recall();
  const rows = body ? [...body.rows] : [];
  const focused = document.activeElement;
  let hiddenCount = 0;
  rows.forEach((row, i) => {
    const { ticker } = row.dataset;
    const isHidden = hidden.includes(ticker);
    if (!positions.has(row)) positions.set(row, i);
    row.classList.toggle("starred", stars.includes(ticker));
    row.classList.toggle("put-away", isHidden);
    row.hidden = isHidden && !showsHidden;
    hiddenCount += isHidden;
    showNote(row, notes[ticker]);
  });
  const rank = (row) => positions.get(row) - (row.classList.contains("starred") ? rows.length : 0);
  const sorted = [...rows].sort((a, b) => rank(a) - rank(b));
  if (sorted.some((row, i) => row !== rows[i])) body.append(...sorted);
  if (document.activeElement !== focused) focused.focus({ preventScroll: true });
  showCount(hiddenCount);
}

function showNote(row, text) {
  find(".note", row)?.remove();
  if (!text) return;
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = note.title = text;
  row.cells[0].append(note);
}

function showCount(hiddenCount) {
  const button = find("#show-hidden");
  if (!button) return;
  button.hidden = !hiddenCount;
  button.textContent = `${hiddenCount} hidden`;
  button.ariaPressed = String(showsHidden);
  button.title = showsHidden ? "Leave the hidden tickers out" : "Show the hidden tickers";
  button.onclick = () => {
    showsHidden = !showsHidden;
    showInList();
  };
}

/** Show the star, the buttons and the note of the detail's ticker. run calls a function that may throw. */
export function addToDetail(detail, run) {
  const { ticker } = detail.dataset;
  if (!ticker) return;
  const button = (name, action) => Object.assign(document.createElement("button"), { type: "button", className: name, onclick: () => run(action) });
  find(".more-links", detail).prepend(
    button("star", () => toggle("stars", ticker)),
    button("put-away", () => toggle("hidden", ticker)),
  );
  const note = document.createElement("input");
  Object.assign(note, { className: "note", placeholder: "Add a note", maxLength: 200, autocomplete: "off", ariaLabel: `Note on ${ticker}` });
  note.onchange = () => run(() => setNote(ticker, note.value.trim()));
  find(".more-links", detail).append(note);
  showInDetail();
}

function showInDetail() {
  const detail = find("#detail");
  const star = find("button.star", detail);
  if (!star) return;
  const { ticker } = detail.dataset;
  const { stars, hidden, notes } = recall();
  star.ariaPressed = String(stars.includes(ticker));
  star.textContent = `${stars.includes(ticker) ? "★" : "☆"} Star`;
  const putAway = find("button.put-away", detail);
  putAway.ariaPressed = String(hidden.includes(ticker));
  putAway.textContent = "Hide";
  const note = find("input.note", detail);
  if (note !== document.activeElement) note.value = note.defaultValue = notes[ticker] ?? "";
}

/** Make the buttons work that write the notebook to a file and read it from one. */
export function enableFiles(run) {
  const part = find("#notebook");
  if (!part) return;
  part.hidden = false;
  find("#export-notebook").onclick = saveAsFile;
  const input = find("#import-notebook");
  input.onchange = () => run(async () => {
    const [file] = input.files;
    if (file) await readFile(file);
    input.value = ""; // so that the same file can be chosen again
  });
}

function saveAsFile() {
  const { stars, hidden, notes } = recall();
  const json = JSON.stringify({ stars, hidden, notes }, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
  link.download = "lookup-table-notes.json";
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Add a file's stars, hidden tickers and notes to those here. Throws an InputError. */
async function readFile(file) {
  let read = asMemory(null);
  try {
    read = asMemory(JSON.parse(await file.text()));
  } catch {
    // It is no JSON: nothing is read.
  }
  if (!read.stars.length && !read.hidden.length && !Object.keys(read.notes).length) {
    throw new InputError(`${file.name} has no stars, hidden tickers or notes: choose a file that this page saved.`);
  }
  change((memory) => {
    memory.stars = [...new Set([...memory.stars, ...read.stars])];
    memory.hidden = [...new Set([...memory.hidden, ...read.hidden])];
    Object.assign(memory.notes, read.notes);
  });
}
