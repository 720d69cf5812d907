// The headlines on a ticker, asked for by a click alone: each request counts against the user's quota.

import { fetchJson, newYorkTime } from "./answers.js";

/** Make the Headlines button of a detail work: one click is one request. */
export function connectHeadlines(detail) {
  const button = detail.querySelector(".headlines-button");
  const section = detail.querySelector(".headlines");
  if (!button) return;
  button.hidden = false;
  button.onclick = async () => {
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    section.hidden = false;
    section.replaceChildren(paragraph("Loading …"));
    try {
      section.replaceChildren(...describe(await fetchJson(button.dataset.url)));
    } catch (error) {
      section.replaceChildren(paragraph(error.message));
      button.ariaDisabled = "false";
    }
  };
}

function describe({ ticker, from, to, headlines }) {
  const span = `from ${newYorkTime(Date.parse(from))} to ${newYorkTime(Date.parse(to))} New York time`;
  if (!headlines.length) return [paragraph(`No headline in Polygon's feed on ${ticker} ${span}.`)];
  const list = document.createElement("ul");
  list.append(...headlines.map(listItem));
  return [paragraph(`Polygon's feed ${span}. A headline is not a cause.`), list];
}

function listItem({ title, publisher, published_utc, url }) {
  const item = document.createElement("li");
  const time = document.createElement("span");
  time.textContent = published_utc ? newYorkTime(Date.parse(published_utc)).slice(5) : "";
  const source = document.createElement("span");
  source.textContent = publisher ?? "";
  item.append(time, " ", titleElement(title, url), " ", source);
  return item;
}

/** The title, as a link where its address is one of the web. */
function titleElement(title, url) {
  const isWebAddress = /^https?:\/\//i.test(url ?? "");
  const element = document.createElement(isWebAddress ? "a" : "b");
  element.textContent = title;
  if (isWebAddress) Object.assign(element, { href: url, target: "_blank", rel: "noopener noreferrer" });
  return element;
}

function paragraph(text) {
  const element = document.createElement("p");
  element.textContent = text;
  return element;
}
