// What several scripts do with the page's elements.

export const find = (selector, root = document) => root.querySelector(selector);

/** A new element with these properties, and texts or elements in it. */
export function newElement(tag, properties, ...content) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
}

/** Save a blob as a file of the user's, under a name. */
export function saveFile(blob, name) {
  const url = URL.createObjectURL(blob);
  newElement("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
