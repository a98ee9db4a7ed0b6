"""A page in headless Chromium: its console messages, and what a script measures in it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunnel.bench.lab.tools import find

_MARK = "page-was-measured"
_PROBE = """
<script>
addEventListener("load", () => {
  const box = (e) => e.getBoundingClientRect();
  const inside = (svg, e) => { const o = box(svg), i = box(e);
    return i.left >= o.left - 1 && i.right <= o.right + 1
      && i.top >= o.top - 1 && i.bottom <= o.bottom + 1; };
  const name = (e) => `${e.tagName} ${e.textContent.trim().slice(0, 60)}`;
  const texts = [];
  for (const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walk.nextNode();) {
    const node = walk.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const hidden = !range.getClientRects().length;
    if (hidden && parent.closest("thead")) continue; // replaced by data-label on a narrow screen
    texts.push({ parent, hidden, box: range.getBoundingClientRect() });
  }
  const fits = ({ parent, hidden, box: text }) => {
    if (hidden) return false;
    for (let e = parent; e && e !== document.documentElement; e = e.parentElement) {
      const outer = box(e), isBlock = !["inline", "contents"].includes(getComputedStyle(e).display);
      if (isBlock && (text.left < outer.left - 1 || text.right > outer.right + 1)) return false;
      if (getComputedStyle(e).overflow !== "visible"
        && (text.top < outer.top - 1 || text.bottom > outer.bottom + 1)) return false;
    }
    return true;
  };
  const middle = (e) => (box(e).top + box(e).bottom) / 2;
  const collide = (a, b) => a !== b && Math.abs(middle(a) - middle(b)) < 6
    && box(a).left < box(b).right && box(b).left < box(a).right;
  const charts = [...document.querySelectorAll("svg")].map((svg) => ({
    width: box(svg).width, height: box(svg).height, name: svg.getAttribute("aria-label"),
    bars: [...svg.querySelectorAll(".bar")].filter((e) => box(e).width > 0 && box(e).height > 0).length,
    spreads: svg.querySelectorAll(".spread").length,
    textHeight: Math.min(...[...svg.querySelectorAll("text")].map((e) => box(e).height)),
    outside: [...svg.querySelectorAll("*")].filter((e) => !inside(svg, e))
      .map((e) => e.outerHTML),
    collisions: [...svg.querySelectorAll("text")].filter((e) =>
      [...svg.querySelectorAll("text")].some((other) => collide(e, other))).map((e) => e.textContent),
    painted: [...svg.querySelectorAll(".bar")].every((e) => getComputedStyle(e).fill.startsWith("rgb(")),
  }));
  const found = { innerWidth, scrollWidth: document.documentElement.scrollWidth, charts,
    wide: [...document.body.querySelectorAll("*")].filter((e) => box(e).left < -1
      || box(e).right > innerWidth + 1).map(name),
    clipped: texts.filter((text) => !fits(text)).map((text) => name(text.parent)),
    loads: performance.getEntriesByType("resource").map((e) => e.name) };
  const note = document.createElement("pre");
  note.id = "page-was-measured";
  note.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
  document.body.append(note);
});
</script>
"""


@dataclass(frozen=True)
class Seen:
    """The result of loading a page. ``complaints``: the console messages."""

    found: dict[str, Any]
    complaints: list[str]


def open_page(html: str, directory: Path, width: int) -> Seen:
    """Open ``html`` in a window of ``width`` pixels."""
    path = directory / "page.html"
    path.write_text(html.replace("</body>", f"{_PROBE}</body>"))
    program = find("chromium-headless-shell") or find("chromium")
    assert program, "Chromium is not installed: ./run setup installs it"
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
        *("--enable-logging=stderr", "--log-level=0", f"--user-data-dir={directory}/profile"),
        *(f"--window-size={width},900", "--timeout=20000", "--dump-dom", path.as_uri()),
    ]
    done = subprocess.run(
        [program, *options],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
        env={**os.environ, "HOME": str(directory)},
    )
    note = re.search(rf'<pre id="{_MARK}">([^<]*)</pre>', done.stdout)
    assert note, f"the page was not measured: {done.stderr[-2000:]}"
    return Seen(_decoded(note[1]), [line for line in done.stderr.splitlines() if ":CONSOLE" in line])


def _decoded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(text))
    return found
