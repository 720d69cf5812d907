// What came after a ticker's day. It is asked for last: the list and the charts do not wait for it.

import { fetchJson } from "./answers.js";

const WAIT = 250; // ms: someone who is on the way to another row asks nothing

let asking = new AbortController(); // ends the request that is no longer wanted

/** Fill in the sentence of a detail once the charts have been asked for. */
export function connectAfter(detail) {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const sentence = detail.querySelector(".after");
  if (sentence) setTimeout(() => signal.aborted || tell(sentence, signal), WAIT);
}

async function tell(sentence, signal) {
  try {
    const { words } = await fetchJson(sentence.dataset.url, signal);
    sentence.textContent = `What came after: ${words}.`;
  } catch (error) {
    if (!signal.aborted) sentence.textContent = `What came after is not known: ${error.message}`;
  }
}
