"""Reads the HTML pages that the report writes."""

from html.parser import HTMLParser

from kd_keras.report import page

SECTIONS = {*page.TITLES, "verdict", "trade-off", "reproduce"}
VOID = {"meta", "img", "br", "wbr", "hr"}


class Elements(HTMLParser):
    """Every element of a page as (name, attributes); elements that are not closed in order are an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(text)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).replace("\xa0", " ").split())
