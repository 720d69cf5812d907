// The headlines on a ticker. Only a click fetches them, because each request counts against the
// user's limit of requests.

import { fetchJson, newYorkTime } from "./answers.js";
import { find, newElement } from "./elements.js";

/**
 * Show the Headlines button of a detail and make it open and close the headlines. They are fetched when it
 * first opens them. Without JavaScript it stays hidden.
 */
export function enableHeadlinesButton(detail) {
  const button = find(".headlines-button", detail);
  const section = find(".headlines", detail);
  if (!button) return;
  let isFetched = false;
  button.hidden = false;
  button.ariaExpanded = "false";
  button.onclick = async () => {
    section.hidden = !section.hidden;
    button.ariaExpanded = String(!section.hidden);
    if (section.hidden || isFetched) return;
    isFetched = true;
    section.replaceChildren(newElement("p", {}, "Loading …"));
    try {
      const answer = await fetchJson(button.dataset.url);
      section.replaceChildren(...headlineElements(answer));
      button.after(newElement("span", { className: "headline-count" }, answer.headlines.length));
    } catch (error) {
      section.replaceChildren(newElement("p", {}, error.message));
      isFetched = false;
    }
  };
}

/** A sentence about the answer of /api/headlines, and the list of its headlines. */
function headlineElements({ ticker, from, to, headlines }) {
  const span = `from ${newYorkTime(Date.parse(from))} to ${newYorkTime(Date.parse(to))} New York time`;
  if (!headlines.length) return [newElement("p", {}, `No headline on ${ticker} in Polygon's feed ${span}.`)];
  const sentence = `The first headlines in Polygon's feed ${span}, at most 50. A headline is not a cause.`;
  return [newElement("p", {}, sentence), newElement("ul", {}, ...headlines.map(headlineItem))];
}

/** A headline with its time and publisher. It is a link if it has a url, which the server has checked. */
function headlineItem({ title, publisher, published_utc, url }) {
  const time = published_utc ? newYorkTime(Date.parse(published_utc)).slice(5) : "";
  const titled = url
    ? newElement("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, title)
    : newElement("b", {}, title);
  return newElement("li", {}, newElement("span", {}, time), " ", titled, " ", newElement("span", {}, publisher ?? ""));
}
