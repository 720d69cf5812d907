// The form above the list: its fields, the address that they ask for, and what this browser remembers
// of them.

import { recall, remember } from "./storage.js";

const FIELDS = "[name]:not([type=hidden])"; // the hidden ones serve the form without JavaScript
const REMEMBERED = ["threshold", "sort", "order", "min_price", "min_trades", "min_record", "min_long_z", "min_dollars", "type", "skip", "columns"];
const WIDE = "(min-width: 1800px)"; // here the list has room for further columns

/** What is wrong with what the user typed or chose: a sentence for the user. */
export class InputError extends Error {}

/**
 * Put the fields of a newer form in place of a form's, except those that the user changed after oldValues
 * were read, and focused, if any: another field would forget the digits that have been typed into it.
 */
export function updateFields(form, newForm, oldValues, focused) {
  const values = formValues(form);
  for (const newField of newForm.querySelectorAll(FIELDS)) {
    const field = form.elements[newField.id];
    if (field !== focused && values[field.name] === oldValues[field.name]) field.replaceWith(newField);
  }
}

/** Whether a field's text can be asked for. While a year is typed into a date, it starts with a 0. */
function isUsable({ type, value, validity }) {
  return type === "date" ? value >= "1000" : validity.valid;
}

/** { name: text } of a form's usable fields. A default is the empty text. */
export function formValues(form) {
  const texts = new URLSearchParams(new FormData(form));
  const textOf = ({ name, value, dataset }) => (value === dataset.default ? "" : texts.getAll(name).join());
  const fields = [...form.querySelectorAll(FIELDS)].filter(isUsable);
  return Object.fromEntries(fields.map((field) => [field.name, textOf(field)]));
}

/**
 * Mark the fields that are not usable, but for a date that is being typed: it changes with each digit.
 * Throws an InputError that says what to type.
 */
export function checkFields(form) {
  let problem = "";
  for (const field of form.querySelectorAll("[data-hint]")) {
    const isFine = isUsable(field) || (field.type === "date" && field === document.activeElement);
    field.ariaInvalid = String(!isFine);
    if (!isFine) problem = `${field.labels[0].textContent.trim()}: type ${field.dataset.hint}.`;
  }
  if (problem) throw new InputError(problem);
}

/** Remember what differs between the parameters of two addresses: the user has changed it. */
export function rememberSettings(before, after) {
  const changed = REMEMBERED.filter((name) => before.get(name) !== after.get(name));
  if (!changed.length) return;
  remember(({ settings }) => {
    for (const name of changed) settings[name] = after.get(name) ?? "";
  });
}

/** The page's address with all the settings that are remembered. */
export function rememberedAddress(form) {
  const address = new URL("/", location.href);
  const extra = [...form.querySelectorAll("[data-on-wide-windows]")].map(({ value }) => value);
  const settings = { columns: matchMedia(WIDE).matches ? extra.join() : "", ...recall().settings };
  for (const name of REMEMBERED) if (settings[name]) address.searchParams.set(name, settings[name]);
  return address;
}

/** Forget the settings: the server does not accept them. */
export function forgetSettings() {
  remember(({ settings }) => REMEMBERED.forEach((name) => delete settings[name]));
}
