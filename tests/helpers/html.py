"""HTML as a tree of elements, which tests search."""

from html.parser import HTMLParser

WITHOUT_END = ["area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"]


class Element:
    """An HTML element: its tag, attributes, children (elements and text) and text."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def __getitem__(self, name):
        return self.attributes.get(name)

    @property
    def text(self):
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    @property
    def elements(self):
        return [child for child in self.children if isinstance(child, Element)]

    def find(self, tag=None, **attributes):
        """All elements below this one with the tag and attributes; data_sort means data-sort."""
        wanted = {name.strip("_").replace("_", "-"): attributes[name] for name in attributes}
        found = []
        for child in self.elements:
            matches = all(
                name in child.attributes if value is True else child[name] == value
                for name, value in wanted.items()
            )
            found += [child] if matches and tag in (None, child.tag) else []
            found += child.find(tag, **attributes)
        return found


class Parser(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.open = [Element("document", [])]
        self.feed(html)
        self.close()
        assert len(self.open) == 1, f"not closed: {self.open[-1].tag}"

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        self.open[-1].children.append(element)
        if tag not in WITHOUT_END:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, text):
        self.open[-1].children.append(text)


def parse_html(html):
    """The document in a text: an Element. Each element must be closed where HTML wants it."""
    return Parser(html).open[0]
