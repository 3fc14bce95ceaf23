"""index.html of a batch: one file, no network, made for people; every text in it is data, never markup.

The page's own script builds the DOM with textContent alone, and its policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from comfyskill.base import safe_text
from comfyskill.base.cli import Document
from comfyskill.batch.results import Results, Row
from comfyskill.pages.layout import Edge, layout, one_line, values_of

MOST_VALUE = 2000
# Files that a browser shows or saves. Others (SVG, HTML, XML) may hold a script, which would run with the page's rights.
LINKED = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".exr", ".hdr", ".mp4", ".webm", ".mov",
    ".mkv", ".avi", ".mp3", ".flac", ".wav", ".ogg", ".opus", ".m4a", ".aac", ".glb", ".gltf", ".obj", ".stl", ".ply",
    ".fbx", ".usdz", ".splat", ".spz", ".ksplat", ".txt", ".json", ".csv", ".latent", ".safetensors", ".zip",
)  # fmt: skip
STYLE = """
:root { --ink: #1c1e21; --quiet: #5b6168; --paper: #fff; --card: #f4f5f7; --line: #d5d8dd; --bad: #a3201d; --mark: #1a5fb4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --quiet: #a4abb3; --paper: #17181a; --card: #232528; --line: #3a3e43; --bad: #ff8a80; --mark: #8ab4f8 }
}
* { box-sizing: border-box }
body { margin: 0; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
header, nav, main { padding: 0 16px }
h1 { font-size: 1.25rem; margin: 16px 0 2px; overflow-wrap: anywhere }
header p { margin: 0 0 8px; color: var(--quiet) }
header .demo { color: var(--bad); font-weight: 600 }
nav { display: flex; flex-wrap: wrap; gap: 8px 12px; padding-block: 8px; position: sticky; top: 0; z-index: 3;
  background: var(--paper); border-bottom: 1px solid var(--line) }
@media (max-width: 600px), (max-height: 500px) { nav { position: static } }
nav label { display: flex; gap: 6px; align-items: center; color: var(--quiet); font-size: .85rem }
select, input, button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; padding: 4px 8px; min-height: 34px; max-width: 60vw }
input[type=search] { width: 12rem }
#count { align-self: center; color: var(--quiet); font-size: .85rem }
main { padding-block: 12px 40px }
.list { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(220px, 44vw), 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; min-width: 0 }
.card.bad { border-color: var(--bad) }
.card img, .card video { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--paper) }
.card audio { display: block; width: calc(100% - 16px); margin: 8px }
.card .more { display: flex; flex-wrap: wrap; gap: 4px 10px; padding: 6px 10px 0; font-size: .85rem }
.card a { color: var(--mark); overflow-wrap: anywhere }
.card .why { color: var(--bad); padding: 10px; margin: 0; overflow-wrap: anywhere; max-height: 14em; overflow: auto }
.card pre { margin: 0; padding: 10px; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 14em; overflow: auto }
dl { margin: 0; padding: 8px 10px 10px; font-size: .85rem; display: grid; grid-template-columns: auto 1fr; gap: 1px 8px }
dt { color: var(--quiet); overflow-wrap: anywhere }
dd { margin: 0; overflow-wrap: anywhere; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4;
  overflow: hidden }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse }
th, td { padding: 6px; vertical-align: top; text-align: left; border: 1px solid var(--line) }
th { font-weight: 600; font-size: .85rem; overflow-wrap: anywhere; max-width: 14rem; background: var(--paper) }
tbody th { position: sticky; left: 0; z-index: 2; min-width: 5.5rem; max-width: 9rem; font-weight: 500 }
td .card { width: min(200px, 42vw); border: 0; background: none }
td .card.bad { border: 1px solid var(--bad) }
td dl { padding: 2px 4px; display: block }
td dt { display: inline; margin-right: .35em } td dd { display: inline; -webkit-line-clamp: none }
.empty { color: var(--quiet); padding: 24px 0 }
#further { margin: 16px auto; display: block }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const controls = document.getElementById("controls"), main = document.getElementById("runs");
const PAGE = 120;
const state = { view: data.axes.length && location.hash !== "#list" ? "grid" : "list",
  sort: "run", down: false, status: "", words: "", shown: PAGE,
  row: data.axes.length - 2, column: data.axes.length - 1, fixed: data.axes.map(axis => axis.steps[0][0]) };
const count = make("span", { id: "count" });

function make(tag, facts, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(facts || {})) node[name] = value;
  node.append(...inside.filter(part => part !== null && part !== undefined));
  return node;
}
function choice(words, options, value, change) {
  const select = make("select", {});
  for (const [key, text] of options) select.append(make("option", { value: key, textContent: text }));
  select.value = value;
  select.addEventListener("change", () => { change(select.value); state.shown = PAGE; draw(); });
  return make("label", {}, words, select);
}
function statuses() {
  return [...new Set(data.runs.map(run => run.s))].sort().map(name => [name, name.replaceAll("_", " ")]);
}
function buildControls() {
  controls.replaceChildren();
  if (data.axes.length) controls.append(choice("View", [["grid", "grid"], ["list", "list"]], state.view,
    value => { state.view = value; buildControls(); }));
  if (state.view === "grid") buildGridControls(); else {
    const sorts = [["run", "run"], ...data.names.map((name, at) => ["v" + at, name]), ["t", "seconds"], ["s", "status"]];
    controls.append(choice("Sort", sorts, state.sort, value => { state.sort = value; }));
    const turn = make("button", { type: "button", textContent: state.down ? "\\u2193" : "\\u2191", title: "Reverse the order" });
    turn.addEventListener("click", () => { state.down = !state.down; buildControls(); draw(); });
    controls.append(turn);
    const search = make("input", { type: "search", placeholder: "Filter by text", value: state.words });
    search.setAttribute("aria-label", "Filter by text");
    search.addEventListener("input", () => { state.words = search.value; state.shown = PAGE; draw(); });
    controls.append(search);
  }
  controls.append(choice("Status", [["", "all"], ...statuses()], state.status, value => { state.status = value; }), count);
}
function buildGridControls() {
  const names = data.axes.map((axis, at) => [String(at), axis.name]);
  const swap = (mine, other) => value => {
    const old = state[mine]; state[mine] = Number(value);
    if (state[other] === state[mine]) state[other] = old;
    buildControls();
  };
  controls.append(choice("Rows", names, String(state.row), swap("row", "column")));
  controls.append(choice("Columns", names, String(state.column), swap("column", "row")));
  data.axes.forEach((axis, at) => {
    if (at === state.row || at === state.column) return;
    const steps = axis.steps.map(([step, label]) => [String(step), label]);
    controls.append(choice(axis.name, steps, String(state.fixed[at]), value => { state.fixed[at] = Number(value); }));
  });
}
function media(run) {
  const [url, kind, name, linked] = run.f[0];
  if (kind === "image") {
    const picture = make("img", { loading: "lazy", alt: "run " + run.r, src: url });
    return !linked ? picture : make("a", { href: url, target: "_blank", rel: "noopener", title: name }, picture);
  }
  if (kind === "video") return make("video", { src: url, controls: true, preload: "metadata", loop: true });
  if (kind === "audio") return make("audio", { src: url, controls: true, preload: "none" });
  return null;
}
function links(run) {
  const box = make("div", { className: "more" });
  run.f.forEach(([url, kind, name, linked], at) => {
    if (!linked) {
      box.append(make("span", { textContent: name, title: "Not linked: a file of this kind can run a script in a browser" }));
      return;
    }
    const words = run.f.length > 1 || kind !== "image" ? name : "open file";
    const target = { href: url, target: "_blank", rel: "noopener", textContent: words, title: name };
    box.append(make("a", target));
  });
  return box;
}
function facts(run, skip) {
  const list = make("dl", {});
  const put = (name, value) => {
    const words = String(value);
    list.append(make("dt", { textContent: name }), make("dd", { textContent: words, title: words }));
  };
  if (!skip) put("run", run.r);
  data.names.forEach((name, at) => {
    if (run.v[at] !== null && run.v[at] !== undefined && !(skip && skip.has(name))) put(name, run.v[at]);
  });
  if (run.t !== undefined && !skip) put("seconds", run.t);
  return list;
}
function card(run, skip) {
  const good = run.s === "success";
  const box = make("article", { className: good ? "card" : "card bad" });
  box.dataset.run = run.r;
  if (run.f) box.append(...[media(run), links(run)].filter(Boolean));
  for (const text of run.x || []) box.append(make("pre", { textContent: text }));
  if (!good) box.append(make("p", { className: "why", textContent: run.s.replaceAll("_", " ") + (run.m ? ": " + run.m : "") }));
  else if (!run.f && !run.x) box.append(make("p", { className: "why", textContent: "no files" }));
  box.append(facts(run, skip));
  return box;
}
function wanted() {
  const words = state.view === "list" ? state.words.toLowerCase().split(/\\s+/).filter(Boolean) : [];
  return data.runs.filter(run => {
    if (state.status && run.s !== state.status) return false;
    if (!words.length) return true;
    const names = (run.f || []).map(file => file[2]);
    const text = [run.r, run.s, run.m || "", ...run.v, ...(run.x || []), ...names].join(" ").toLowerCase();
    return words.every(word => text.includes(word));
  });
}
function key(run) {
  if (state.sort === "run") return run.r;
  if (state.sort === "t") return run.t ?? null;
  return state.sort === "s" ? run.s : run.v[Number(state.sort.slice(1))] ?? null;
}
function compare(one, two) {
  const a = key(one), b = key(two);
  if (a === null || b === null) return (a === null) - (b === null) || one.r - two.r;
  const x = Number(a), y = Number(b), numbers = a !== "" && b !== "" && !isNaN(x) && !isNaN(y);
  const order = numbers ? x - y : String(a).localeCompare(String(b));
  return (state.down ? -order : order) || one.r - two.r;
}
function drawList(runs) {
  const list = make("div", { className: "list" });
  for (const run of runs.sort(compare).slice(0, state.shown)) list.append(card(run, null));
  main.replaceChildren(list);
  if (runs.length > state.shown) {
    const further = make("button", { id: "further", type: "button", textContent: (runs.length - state.shown) + " more" });
    further.addEventListener("click", () => { state.shown += PAGE; draw(); });
    main.append(further);
  }
}
function drawGrid(runs) {
  const rows = data.axes[state.row], columns = data.axes[state.column], cells = new Map();
  for (const run of runs) {
    const here = data.axes.every((axis, at) => at === state.row || at === state.column || run.p[axis.at] === state.fixed[at]);
    if (here) cells.set(run.p[rows.at] + " " + run.p[columns.at], run);
  }
  const skip = new Set(data.axes.flatMap(axis => axis.name.split(", ")));
  const head = make("tr", {}, make("th", { textContent: rows.name + " \\\\ " + columns.name }));
  for (const [, label] of columns.steps) head.append(make("th", { textContent: label, scope: "col" }));
  const body = make("tbody", {});
  for (const [step, label] of rows.steps) {
    const line = make("tr", {}, make("th", { textContent: label, scope: "row" }));
    for (const [other] of columns.steps) {
      const run = cells.get(step + " " + other);
      line.append(make("td", {}, run ? card(run, skip) : null));
    }
    body.append(line);
  }
  main.replaceChildren(make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), body)));
}
function draw() {
  const runs = wanted();
  count.textContent = runs.length + " of " + data.runs.length + " runs";
  if (!runs.length) { main.replaceChildren(make("p", { className: "empty", textContent: "No matching runs." })); return; }
  if (state.view === "grid") drawGrid(runs); else drawList(runs);
}
buildControls();
draw();
"""


def page(results: Results) -> bytes:
    """The whole page."""
    data = json.dumps(_data(results), ensure_ascii=True, separators=(",", ":"))
    # Inside <script> only `<` could end the element.
    data = safe_text.redact(data).replace("<", "\\u003c")
    title = f"{one_line(_bare(results.origin), 80)}: {results.plan.count} runs"
    policy = (
        f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)};"
        " img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<header><h1>{html.escape(title)}</h1><p id=summary>{html.escape(_summary(results))}</p>",
        _demo_note(results),
        "</header><nav id=controls></nav><main id=runs></main>",
        "<noscript><p>This page needs JavaScript; the same data is in <a href=results.csv>results.csv</a>.</p></noscript>",
        f'<script type="application/json" id=data>{data}</script>',
        f"<script>{SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(parts).encode("utf-8", "replace")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bare(origin: str) -> str:
    return origin.removeprefix("file ").replace("\\", "/").rpartition("/")[2] or origin


def _demo_note(results: Results) -> str:
    if not results.demo:
        return ""
    return "<p class=demo>Made by the demo server: these are not generated results.</p>"


def _summary(results: Results) -> str:
    counts = Counter(row.status for row in results.rows).most_common()
    parts = [f"{count} {status.replace('_', ' ')}" for status, count in counts]
    if results.made:
        parts.append(time.strftime("started %Y-%m-%d %H:%M", time.localtime(results.made)))
    return " · ".join(parts)


def _data(results: Results) -> Document:
    """What the page's script reads."""
    shown = layout(results, results.rows)
    return {
        "names": [_text(name) for name in shown.names],
        "axes": [_axis(edge) for edge in shown.edges] if shown.is_grid else [],
        "runs": [_run(row, shown.names) for row in shown.rows],
    }


def _axis(edge: Edge) -> Document:
    steps = [[step, _text(edge.label(step))] for step in edge.steps]
    return {"at": edge.axis, "name": _text(edge.name), "steps": steps}


def _run(row: Row, names: Sequence[str]) -> Document:
    values = values_of(row)
    document: Document = {
        "r": row.run,
        "p": list(row.steps),
        "s": row.status,
        "v": [_value(values.get(name)) for name in names],
    }
    if row.seconds is not None:
        document["t"] = round(row.seconds, 2)
    if row.files:
        document["f"] = [_file(item) for item in row.files]
    if row.texts:
        document["x"] = [_text(item.get("text"), MOST_VALUE) for item in row.texts]
    if row.message or row.code:
        document["m"] = _text(row.message or row.code, MOST_VALUE)
    return document


def _file(item: Mapping[str, object]) -> list[str | int]:
    """A file for the page: address, kind, name, and whether it is linked."""
    path = str(item.get("file") or "")
    linked = int(path.lower().endswith(LINKED))
    return [quote(path, safe="/"), _text(item.get("type")), _text(item.get("filename")), linked]


def _value(value: object) -> str | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    return value if value is None or isinstance(value, (int, float)) else _text(value, MOST_VALUE)


def _text(value: object, limit: int = 300) -> str:
    return safe_text.clean("" if value is None else value, limit)
