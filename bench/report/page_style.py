"""The style sheet of the page: light and dark, from the width of a telephone upward.

On a narrow screen each row of a table becomes a card, in which every cell has its heading (``data-label``).
"""

from __future__ import annotations

PAGE_STYLE = """
:root { --mine: #0969da; --theirs: #848d97; --good: #116329; --bad: #b3151f; --unclear: #59636e;
  --good-paper: #dafbe1; --bad-paper: #ffebe9; --unclear-paper: #eaeef2;
  --c0: #0f766e; --c1: #58b0a6; --c2: #9dd3cc; --c3: #c9e7e3; --c4: #b9a3e3; --c5: #ded3f4;
  --p0: #0969da; --p1: #9db2c9; --p2: #d98324; }
@media (prefers-color-scheme: dark) { :root { --mine: #58a6ff; --theirs: #6e7681; --good: #56d364;
  --bad: #ff7b72; --unclear: #9198a1; --good-paper: #12261e; --bad-paper: #2d1618; --unclear-paper: #212830;
  --c0: #5eead4; --c1: #2a9d8f; --c2: #1f6f66; --c3: #1d544f; --c4: #8d6fd1; --c5: #4a3a73;
  --p0: #58a6ff; --p1: #54677d; --p2: #d98324; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1200px; padding: 24px 16px 64px; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 0; }
p, ul { max-width: 75ch; } p { margin: 1rem 0; }
a { color: var(--ours); }
nav ul { list-style: none; padding: 0; margin: 1.5rem 0 0; max-width: none; columns: 340px; }
nav li { margin: 0 0 .3rem; font-size: .9rem; break-inside: avoid; }
.claim { padding: 10px 16px; margin: 0 0 10px; max-width: none; border-left: 5px solid var(--tone);
  border-radius: 4px; background: var(--tone-paper); font-size: 1.05rem; }
.claim b { display: block; color: var(--tone); font-size: .85rem; letter-spacing: .04em;
  text-transform: uppercase; }
.good { --tone: var(--good); --tone-paper: var(--good-paper); }
.bad { --tone: var(--bad); --tone-paper: var(--bad-paper); }
.unclear { --tone: var(--unclear); --tone-paper: var(--unclear-paper); }
td b { color: var(--tone); background: var(--tone-paper); font-weight: 600;
  border-radius: 4px; padding: 1px 7px; display: inline-block; }
.charts { display: grid; gap: 16px; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); }
figure { margin: 0; padding: 12px 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; min-width: 0; }
figure > h3, figure > p, figcaption { padding: 0 12px; margin: 0 0 6px; }
figcaption { color: var(--soft); font-size: .85rem; margin: 6px 0 0; }
svg { display: block; width: 100%; max-width: 560px; height: auto; }
svg .mine { fill: var(--mine); } svg .theirs { fill: var(--theirs); }
.p0 { fill: var(--p0); background: var(--p0); } .p1 { fill: var(--p1); background: var(--p1); }
.p2 { fill: var(--p2); background: var(--p2); }
svg .note { fill: var(--soft); }
svg .best, svg .wins, svg .loses { font-weight: 700; }
svg .best, svg .wins { fill: var(--good); } svg .loses { fill: var(--bad); }
.key { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .85rem; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 5px; }
.key i.line { height: 0; width: 18px; border-top: 2px dashed #cf222e; vertical-align: middle; }
table { border-collapse: collapse; min-width: min(100%, 760px); margin: 1rem 0 1.5rem;
  font-size: .85rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line); }
th, td { padding: 6px 10px; text-align: right; overflow-wrap: break-word; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td:first-child { font-weight: 600; }
small { color: var(--soft); font-size: .92em; white-space: nowrap; } b small { color: inherit; }
td:first-child { white-space: nowrap; } .words td:first-child { white-space: normal; }
.words th, .words td { text-align: left; } .words td { overflow-wrap: anywhere; min-width: 7em; }
@media (max-width: 760px) {
  body { padding: 16px 12px 48px; } h1 { font-size: 1.5rem; }
  thead { display: none; } table, tbody, tr, td { display: block; }
  tr { padding: 8px 12px; margin: 0 0 10px; background: var(--card); border: 1px solid var(--line);
    border-radius: 8px; }
  td, .words td { display: flex; gap: 12px; justify-content: space-between; border: 0; padding: 2px 0;
    text-align: right; min-width: 0; }
  td:first-child, .words td:first-child { text-align: left; white-space: normal; }
  td[data-label]::before { content: attr(data-label); color: var(--soft); font-weight: 400;
    text-align: left; flex: 0 0 40%; }
  td:first-child:empty { display: none; }
}
"""
