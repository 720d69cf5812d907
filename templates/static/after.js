// The sentence about what came after a ticker's day. The list and the charts do not wait for it.

import { fetchJson } from "./answers.js";

const WAIT = 250; // ms: a row that the user only passes on the way to another costs no request

let loading = new AbortController(); // aborts the request for the detail shown before

/** Fetch the sentence of a detail, an element, and show it there. */
export function showAfter(detail) {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const sentence = detail.querySelector(".after");
  if (sentence) setTimeout(() => signal.aborted || fillIn(sentence, signal), WAIT);
}

async function fillIn(sentence, signal) {
  try {
    const { html } = await fetchJson(sentence.dataset.url, signal);
    sentence.innerHTML = html;
  } catch (error) {
    if (!signal.aborted) sentence.textContent = `What came after is not known: ${error.message}`;
  }
}
