"""Figures as inline SVG, with the page's fonts and colours, named parts, a title and a description."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from foundray.tuning.pictures import COLOURS

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
SERIES = {colour.lower(): f"var(--series-{index})" for index, colour in enumerate(COLOURS) if colour != "#000000"}

ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


def inline(figure: Figure, key: str, title: str, about: str, tips: Mapping[str, str] | None = None) -> Markup:
    """An `<svg>` for a page, whose ids begin with `key`, so that a page can hold several pictures.

    A gid becomes `data-part`. `tips` are texts shown over parts, by gid. Text stays text, in the page's font; greys become
    mixes of the page's ink and paper, and the pictures' colours its `--series-N`.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "foundray"}):
        figure.savefig(stream := io.StringIO(), format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    for part_of, unwanted in ((root, "metadata"), (root.find(f"{{{SVG}}}defs"), "style")):
        if part_of is not None and (element := part_of.find(f"{{{SVG}}}{unwanted}")) is not None:
            part_of.remove(element)  # the style would apply to every element of the page
    used = {name for element in root.iter() for value in element.attrib.values() for name in _references(value)}
    for element in root.iter():
        _restyle(element, key)
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{key}-{name}")
        elif name and name.startswith("part:"):
            element.set("data-part", name.removeprefix("part:"))
            if text := (tips or {}).get(name.removeprefix("part:")):
                tip = ElementTree.Element(f"{{{SVG}}}title")
                tip.text = text
                element.insert(0, tip)
    for name, text in (("desc", about), ("title", title)):
        label = ElementTree.Element(f"{{{SVG}}}{name}", {"id": f"{key}-{name}"})
        label.text = text
        root.insert(0, label)
    root.attrib.update({"role": "img", "aria-labelledby": f"{key}-title {key}-desc"})
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def part(name: str) -> str:
    """A gid that names a part of a figure on the page."""
    return f"part:{name}"


def _references(value: str) -> list[str]:
    """Ids to which an attribute refers."""
    return re.findall(r"(?:url\(|^)#([^)]+)", value)


def _restyle(element: ElementTree.Element, key: str) -> None:
    for name, value in list(element.attrib.items()):
        if name == HREF:
            value = f"#{key}-{value[1:]}"
        value = value.replace("url(#", f"url(#{key}-")
        if name == "style":
            value = re.sub(r"font-family:[^;]*;?\s*", "", value)
            value = re.sub(r"(?<!\()#[0-9a-f]{6}\b", lambda found: colour(found[0]), value)
        elif name in ("d", "x", "y"):  # a tenth of a point is enough for a page
            value = " ".join(re.sub(r"(\.\d)\d+", r"\1", value).split())
        element.set(name, value)
        if name == "transform" and value.startswith("rotate(-0 "):
            del element.attrib[name]


def colour(value: str) -> str:
    """The page's colour for a figure's."""
    if value in SERIES:
        return SERIES[value]
    red, green, blue = (int(value[at : at + 2], 16) for at in (1, 3, 5))
    if red == green == blue:
        return f"color-mix(in srgb, var(--ink) {100 - round(red / 2.55)}%, var(--paper))"
    return value
