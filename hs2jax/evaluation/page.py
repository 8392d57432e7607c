"""How a report is set: one HTML page that loads nothing, for a phone, a desk and paper."""

from string import Template

from hs2jax.evaluation.drawing import escaped

# Blue and orange (Okabe & Ito 2008) stay apart for every kind of colour vision, and in grey the
# dashes do it. SVG text has no background of its own, so the pictures follow the page's colours.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --card: #ffffff; --ink: #1d2126; --soft: #5b646e; --rule: #dfe2e6;
  --one: #0067a6; --two: #c65102; --good: #00704d; --unsure: #8a6100; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e7eaee; --soft: #a2acb7; --rule: #343a43;
    --one: #62b5ee; --two: #f2994a; --good: #4fc79d; --unsure: #e0b44c; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: clamp(1.25rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem) 4rem;
  max-width: 66rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: clamp(1.6rem, 1.2rem + 2vw, 2.4rem); line-height: 1.15; margin: 0 0 1.25rem;
  letter-spacing: -0.02em; text-wrap: balance; }
h2 { font-size: 1.45rem; line-height: 1.2; letter-spacing: -0.01em; margin: 3.5rem 0 1rem;
  padding-top: 1.5rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 2rem 0 0.6rem; }
p { margin: 0 0 0.75rem; max-width: 44rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 0.86em; }
pre { overflow-x: auto; margin: 0; padding: 0.75rem 1rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: 0.5rem; }
.verdict { border-left: 0.3rem solid var(--tone); padding: 0.1rem 0 0.1rem 1rem;
  margin: 0 0 1.4rem; }
.verdict strong { display: block; color: var(--tone); font-size: 0.88rem; }
.verdict p { font-size: 1.14rem; line-height: 1.5; margin: 0.1rem 0 0; }
.good { --tone: var(--good); } .unsure { --tone: var(--unsure); } .bad { --tone: var(--bad); }
.pictures { display: grid; gap: 1rem; margin: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
figure { margin: 0; padding: 0.8rem 0.9rem 0.5rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: 0.6rem; break-inside: avoid; }
@media (min-width: 46rem) {
  .chief { grid-column: span 2; grid-row: span 2; display: flex; flex-direction: column; }
  .chief svg { margin: auto; }
}
figcaption { font-weight: 600; font-size: 0.95rem; margin-bottom: 0.35rem; }
svg { display: block; width: 100%; height: auto; max-width: 30rem; margin: 0 auto; }
svg text { font-size: 12.5px; fill: var(--ink); font-variant-numeric: tabular-nums; }
svg .note { fill: var(--soft); font-size: 12.5px; } svg .value { font-weight: 600; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg line, svg polyline { fill: none; stroke: var(--soft); stroke-width: 1.5; }
svg .grid { stroke: var(--rule); stroke-width: 1; } svg .axis { stroke-width: 1; }
svg .curve { stroke-width: 2.2; stroke-linejoin: round; }
svg .faint { stroke-width: 1; opacity: 0.4; }
svg .rule { stroke-width: 2; } svg .dashed, svg .rule.two { stroke-dasharray: 6 4; }
svg .dotted { stroke-dasharray: 1.5 4; stroke-linecap: round; }
svg .bar { stroke-width: 3; stroke-linecap: round; }
svg .thin { stroke-width: 1.5; } svg .thick { stroke-width: 9; opacity: 0.45; }
svg .one { stroke: var(--one); } svg .two { stroke: var(--two); }
svg .area { stroke-width: 2; fill-opacity: 0.16; } svg .mean { stroke-width: 1.5; }
svg .area.one { fill: var(--one); } svg .area.two { fill: var(--two); }
svg .area.two, svg .mean.two { stroke-dasharray: 5 3; }
svg .band { fill: var(--one); fill-opacity: 0.16; stroke: none; }
svg .dot { fill: var(--soft); }
svg .dot.one { fill: var(--one); } svg .dot.two { fill: var(--two); }
svg .dot.hollow { fill: var(--card); stroke-width: 2; }
svg .chance { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 1.5 4;
  stroke-linecap: round; }
svg .mark { stroke: var(--two); stroke-width: 2; opacity: 0.5; }
svg .part { stroke-width: 3; stroke-dasharray: 3 4; }
svg .cell { fill: var(--one); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums;
  min-width: min(100%, 24rem); }
th, td { text-align: right; padding: 0.34rem 0 0.34rem 1.5rem; vertical-align: top;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 400; }
.strong th, .strong td { font-weight: 600; }
.listing { width: 100%; }
.listing td { text-align: left; overflow-wrap: anywhere; white-space: normal; }
.listing th { overflow-wrap: anywhere; width: 40%; }
.note { color: var(--soft); font-size: 0.88rem; margin-top: 0.5rem; }
details { border: 1px solid var(--rule); border-radius: 0.6rem; background: var(--card);
  margin: 0.6rem 0; padding: 0 1rem; }
summary { cursor: pointer; padding: 0.65rem 0; font-weight: 500; }
summary:focus-visible { outline: 2px solid var(--one); outline-offset: 3px; border-radius: 0.3rem; }
details[open] { padding-bottom: 1rem; }
.listing + details { margin-top: 1.5rem; }
.answers { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.said { white-space: pre-wrap; overflow: auto; max-height: 24rem; font-size: 0.94rem;
  border-left: 2px solid var(--rule); padding-left: 0.8rem; }
.label { font-size: 0.88rem; font-weight: 600; margin: 0 0 0.3rem; }
.label span { font-weight: 400; color: var(--soft); }
@media print {
  @page { margin: 16mm; }
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444;
    --rule: #bbb; --one: #0067a6; --two: #c65102; --good: #00704d; --unsure: #8a6100;
    --bad: #b3261e; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h3, summary, .label, h3 + .note { break-after: avoid; } tr { break-inside: avoid; }
  .pictures { grid-template-columns: repeat(2, 1fr); gap: 0.5rem; }
  .said { max-height: none; overflow: visible; }
  .scroll { overflow: visible; } pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$verdicts
$command
</header>
<main>
$sections
</main>
</body>
</html>
""")


def render(title: str, command: str | None, sections: list) -> str:
    """The whole page. `sections` are `report.Section`s; every text in them is escaped here."""
    several = len(sections) > 1
    return PAGE.substitute(
        title=escaped(title),
        style=STYLE,
        verdicts="\n".join(
            _verdict(section.name if several else "", verdict)
            for section in sections
            for verdict in section.verdicts
        ),
        command=f"<pre><code>{escaped(command)}</code></pre>" if command else "",
        sections="\n".join(map(_section, sections)),
    )


def _verdict(stage: str, verdict) -> str:
    label = f"{stage}: {verdict.label}" if stage else verdict.label
    return (
        f'<div class="verdict {verdict.tone}"><strong>{escaped(label)}</strong>'
        f"<p>{escaped(verdict.sentence)}</p></div>"
    )


def _section(section) -> str:
    parts = [f"<section><h2>{escaped(section.name)}</h2>"]
    if section.pictures or section.chief_pictures:
        figures = _figures(section.chief_pictures, "chief") + _figures(section.pictures)
        parts.append(f'<div class="pictures">{figures}</div>')
    if section.rating_pictures:
        parts.append(
            "<h3>Predicted against human ratings</h3>"
            '<p class="note">For each human rating: the median prediction (dot), the middle half '
            "(thick bar) and the 5th to 95th percentile (thin line). A perfect model would lie on "
            "the dotted diagonal.</p>"
            f'<div class="pictures">{_figures(section.rating_pictures)}</div>'
        )
    if section.confusion_pictures:
        parts.append(
            "<h3>Rounded predictions against human ratings</h3>"
            '<p class="note">How many responses people gave the rating at the left and the model '
            "the one below. The darker, the larger the share of its row; a perfect model would "
            "fill the diagonal.</p>"
            f'<div class="pictures">{_figures(section.confusion_pictures)}</div>'
        )
    parts += map(_table, section.tables)
    if section.mistakes:
        parts.append(f"<h3>{escaped(section.mistakes_title)}</h3>")
        parts += map(_mistake, section.mistakes)
    return "\n".join([*parts, "</section>"])


def _figures(pictures: list[tuple[str, str]], kind: str = "") -> str:
    start = f'<figure class="{kind}">' if kind else "<figure>"
    return "\n".join(
        f"{start}<figcaption>{escaped(caption)}</figcaption>{svg}</figure>"
        for caption, svg in pictures
    )


def _table(table) -> str:
    rows = "\n".join(
        ('<tr class="strong">' if i in table.strong else "<tr>")
        + f'<th scope="row">{escaped(row[0])}</th>'
        + "".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    # A listing of names and values needs no head.
    if len(table.columns) == 2 and not table.columns[0]:
        body = f'<table class="listing"><tbody>{rows}</tbody></table>'
    else:
        head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in table.columns)
        body = (
            '<div class="scroll" tabindex="0"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    if table.note:
        body += f'<p class="note">{escaped(table.note)}</p>'
    if table.folded:
        return f"<details><summary>{escaped(table.title)}</summary>{body}</details>"
    return f"<h3>{escaped(table.title)}</h3>{body}"


def _mistake(mistake) -> str:
    answers = "".join(
        f'<div><p class="label">{escaped(answer.role)} <span>{escaped(answer.facts)}</span></p>'
        f"{_said(answer.text)}</div>"
        for answer in mistake.answers
    )
    return (
        f"<details><summary>{escaped(mistake.heading)}</summary>"
        f'<p class="label">Prompt</p>{_said(mistake.prompt)}'
        f'<div class="answers">{answers}</div></details>'
    )


def _said(text: str) -> str:
    # dir=auto: an Arabic or Hebrew answer is set from the right.
    return f'<div class="said" dir="auto" tabindex="0">{escaped(text) or "(empty)"}</div>'
