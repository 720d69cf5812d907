// The user's stars, hidden tickers and notes. They are kept in the browser, and the list and the detail
// show them: starred tickers come first, hidden ones are left out and counted.

import { find, newElement, saveFile } from "./elements.js";
import { InputError } from "./settings.js";
import { recall, remember } from "./storage.js";

const positions = new WeakMap(); // a row of the list: its index in the list that the server sent

let showsHidden = false; // whether the list shows hidden tickers too

/** Remember a change, and show it. Throws an InputError if that is not possible. */
function change(action) {
  const isKept = remember(action);
  showInList();
  showInDetail();
  if (!isKept) throw new InputError("This browser's storage is full or switched off: it cannot remember this.");
}

/** Put a ticker into the stars or the hidden tickers (name says which), or take it out. */
export function toggle(name, ticker) {
  change((memory) => {
    const others = memory[name].filter((other) => other !== ticker);
    memory[name] = others.length < memory[name].length ? others : [...others, ticker];
  });
}

/** Set the note on a ticker; an empty text deletes it. */
function setNote(ticker, text) {
  change(({ notes }) => {
    if (text) notes[ticker] = text;
    else delete notes[ticker];
  });
}

/** Show stars, hidden tickers and notes in the list, if there is one. */
export function showInList() {
  const body = find("#anomalies tbody");
  const rows = body ? [...body.rows] : [];
  const { stars, hidden, notes } = recall();
  const focused = document.activeElement;
  rows.forEach((row, i) => {
    const { ticker } = row.dataset;
    if (!positions.has(row)) positions.set(row, i);
    row.classList.toggle("starred", stars.includes(ticker));
    row.classList.toggle("put-away", hidden.includes(ticker));
    row.hidden = hidden.includes(ticker) && !showsHidden;
    find(".note", row)?.remove();
    const note = notes[ticker];
    if (note) row.cells[0].append(newElement("span", { className: "note", title: note }, note));
  });
  const rank = (row) => positions.get(row) - (row.classList.contains("starred") ? rows.length : 0);
  const sorted = rows.toSorted((a, b) => rank(a) - rank(b));
  if (sorted.some((row, i) => row !== rows[i])) body.append(...sorted);
  if (document.activeElement !== focused) focused.focus({ preventScroll: true });
  showCount(rows.filter((row) => row.classList.contains("put-away")).length);
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
  const button = (className, action) => newElement("button", { type: "button", className, onclick: () => run(action) });
  find(".more-links", detail).prepend(
    button("star", () => toggle("stars", ticker)),
    button("put-away", () => toggle("hidden", ticker)),
  );
  const note = newElement("input", { className: "note", placeholder: "Add a note", maxLength: 200, autocomplete: "off" });
  note.ariaLabel = `Note on ${ticker}`;
  note.onchange = () => run(() => setNote(ticker, note.value.trim()));
  find(".more-links", detail).append(note);
  showInDetail();
}

function showInDetail() {
  const { ticker } = find("#detail").dataset;
  if (!ticker) return;
  const { stars, hidden, notes } = recall();
  const star = find("#detail button.star");
  star.ariaPressed = String(stars.includes(ticker));
  star.textContent = `${stars.includes(ticker) ? "★" : "☆"} Star`;
  const putAway = find("#detail button.put-away");
  putAway.ariaPressed = String(hidden.includes(ticker));
  putAway.textContent = "Hide";
  const note = find("#detail input.note");
  if (note !== document.activeElement) note.value = note.defaultValue = notes[ticker] ?? "";
}

/** Make the buttons work that write the notebook to a file and read it from one. */
export function enableFiles(run) {
  const part = find("#notebook");
  if (!part) return;
  part.hidden = false;
  find("#export-notebook").onclick = () => {
    const { stars, hidden, notes } = recall();
    const json = JSON.stringify({ stars, hidden, notes }, null, 2);
    saveFile(new Blob([json], { type: "application/json" }), "lookup-table-notes.json");
  };
  const input = find("#import-notebook");
  input.onchange = () => run(async () => {
    const [file] = input.files;
    if (file) await readFile(file);
    input.value = ""; // so that the same file can be chosen again
  });
}

/** Add a file's stars, hidden tickers and notes to those here. Throws an InputError. */
async function readFile(file) {
  let read;
  try {
    const { stars, hidden, notes } = JSON.parse(await file.text());
    read = { stars: [...stars], hidden: [...hidden], notes: { ...notes } };
  } catch {
    throw new InputError(`${file.name} has no stars, hidden tickers or notes: choose a file that this page saved.`);
  }
  change((memory) => {
    memory.stars = [...new Set([...memory.stars, ...read.stars])];
    memory.hidden = [...new Set([...memory.hidden, ...read.hidden])];
    Object.assign(memory.notes, read.notes);
  });
}
