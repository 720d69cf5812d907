// The headlines on a ticker. Only a click fetches them, because each request counts against the
// user's limit of requests.

import { fetchJson, newYorkTime } from "./answers.js";

/**
 * Show the Headlines button of a detail and make it open and close the headlines. They are fetched when it
 * first opens them. Without JavaScript it stays hidden.
 */
export function enableHeadlinesButton(detail) {
  const button = detail.querySelector(".headlines-button");
  const section = detail.querySelector(".headlines");
  if (!button) return;
  let isFetched = false;
  button.hidden = false;
  button.ariaExpanded = "false";
  button.onclick = async () => {
    section.hidden = !section.hidden;
    button.ariaExpanded = String(!section.hidden);
    if (section.hidden || isFetched) return;
    isFetched = true;
    section.replaceChildren(paragraph("Loading …"));
    try {
      const answer = await fetchJson(button.dataset.url);
      section.replaceChildren(...headlineElements(answer));
      showNumber(button, answer.headlines.length);
    } catch (error) {
      section.replaceChildren(paragraph(error.message));
      isFetched = false;
    }
  };
}

/** Show beside the button how many headlines there are. */
function showNumber(button, number) {
  const element = document.createElement("span");
  element.className = "headline-count";
  element.textContent = number;
  button.after(element);
}

/** A sentence about the answer of /api/headlines, and the list of its headlines. */
function headlineElements({ ticker, from, to, headlines }) {
  const span = `from ${newYorkTime(Date.parse(from))} to ${newYorkTime(Date.parse(to))} New York time`;
  if (!headlines.length) return [paragraph(`No headline on ${ticker} in Polygon's feed ${span}.`)];
  const list = document.createElement("ul");
  list.append(...headlines.map(headlineItem));
  return [paragraph(`The first headlines in Polygon's feed ${span}, at most 50. A headline is not a cause.`), list];
}

function headlineItem({ title, publisher, published_utc, url }) {
  const item = document.createElement("li");
  const time = document.createElement("span");
  time.textContent = published_utc ? newYorkTime(Date.parse(published_utc)).slice(5) : "";
  const source = document.createElement("span");
  source.textContent = publisher ?? "";
  item.append(time, " ", titleElement(title, url), " ", source);
  return item;
}

/** A headline's title, as a link if there is a url. The server has checked that it is a web address. */
function titleElement(title, url) {
  const element = document.createElement(url ? "a" : "b");
  element.textContent = title;
  if (url) Object.assign(element, { href: url, target: "_blank", rel: "noopener noreferrer" });
  return element;
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}
