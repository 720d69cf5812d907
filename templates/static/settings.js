// The form above the list: its fields, the address that they ask for, and what this browser remembers
// of them.

import { recall, remember } from "./storage.js";

const FIELDS = "[name]:not([type=hidden])"; // the hidden ones serve the form without JavaScript
const REMEMBERED = ["threshold", "sort", "order", "min_price", "min_trades", "min_record", "min_long_z", "min_dollars", "type", "skip", "columns"];
const WIDE = "(min-width: 1800px)"; // here the list has room for further columns

/** What is wrong with what the user typed or chose: a sentence for the user. */
export class InputError extends Error {}

const fieldsOf = (form) => [...form.querySelectorAll(FIELDS)];
const stateOf = (field) => (field.type === "checkbox" ? field.checked : field.value);
export const fieldStates = (form) => new Map(form && fieldsOf(form).map((field) => [field.id, stateOf(field)]));

/**
 * Give a form's fields the values that they have in a newer form, except those that the user changed
 * after oldStates were read, and the input that is typed into, if any: even a new min or max would
 * make a date field forget the digits that have been typed.
 */
export function updateFields(form, newForm, oldStates, typedInto) {
  for (const newField of fieldsOf(newForm)) {
    const field = form.elements[newField.id];
    if (stateOf(field) !== oldStates.get(field.id)) continue;
    if (field.type === "checkbox") field.checked = newField.checked;
    else if (field.options) copySelect(newField, field);
    else if (field !== typedInto) copyInput(newField, field);
  }
}

function copyInput(from, to) {
  [to.min, to.max, to.value] = [from.min, from.max, from.value];
  to.ariaInvalid = null;
}

/** Give a select element the options and the value of another. */
function copySelect(from, to) {
  const { value, options } = from;
  const namesOf = (select) => Array.from(select.options, ({ text }) => text).join();
  if (namesOf(to) !== namesOf(from)) to.replaceChildren(...options);
  to.value = value; // Chromium has chosen one of the new options by itself
}

/** Whether a field's text can be asked for. While a year is typed into a date, it starts with a 0. */
function isUsable({ type, value, validity }) {
  return type === "date" ? value >= "1000" : validity.valid;
}

/** { name: text } of a form's usable fields. A default is the empty text. */
export function formValues(form) {
  const texts = new URLSearchParams(new FormData(form));
  const textOf = ({ name, value, dataset }) => (value === dataset.default ? "" : texts.getAll(name).join());
  return Object.fromEntries(fieldsOf(form).filter(isUsable).map((field) => [field.name, textOf(field)]));
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
  for (const name of REMEMBERED) if (settings[name]) address.searchParams.set(name, String(settings[name]));
  return address;
}

/** Forget the settings: the server does not accept them. */
export function forgetSettings() {
  remember(({ settings }) => REMEMBERED.forEach((name) => delete settings[name]));
}
