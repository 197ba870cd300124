"""The pages of a class: one for each student, one for the instructor. Plain HTML, no script, nothing loaded.

Everything that comes from outside is escaped here, and no output of a notebook is shown: the pages hold names, our
own sentences, and what an answer said in words or numbers.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from .asking import printable
from .classroom import Record, Settings, sentence, stem, without_verdict
from .course import texts
from .questions import QUESTIONS

MARK = {"correct": "✓", "wrong": "✗", "unanswered": "○", "no verdict": "?"}
SEEN = "Nothing was judged; your instructor sees this."
NAMELESS = "wrong in another way: no mistake that has a name"
WORD = {"correct": "right", "wrong": "wrong", "unanswered": "not started", "no verdict": "no verdict"}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #596273; --line: #d9dee6; --paper: #fff;
  --correct: #23744c; --wrong: #b3402e; --unanswered: #8d95a3; --no-verdict: #a06a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #a3acbb; --line: #38404d; --paper: #14181f;
  --correct: #5cc092; --wrong: #f0907e; --unanswered: #7c8594; --no-verdict: #e0b050; } }
body { margin: 2rem auto; max-width: 56rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p { margin: .3rem 0; } small, .soft { color: var(--soft); font-size: .875rem; } a { color: inherit; }
ol, ul { list-style: none; margin: 0; padding: 0; } ol { margin-top: 1.5rem; }
li { border-top: 1px solid var(--line); padding: .6rem 0; } li li { border: 0; padding: .2rem 0; }
.body { margin-left: 2rem; } .mark, .count { float: left; width: 2rem; font-weight: 700; }
.row { display: flex; flex-wrap: wrap; gap: 0 1rem; } .row > a { flex: 1 1 14rem; } .row i { font-style: normal; }
.row i > * { display: inline-block; width: 1.25rem; text-align: center; } .row b { width: 2.5rem; text-align: right; }
.correct { color: var(--correct); } .wrong { color: var(--wrong); } .unanswered { color: var(--unanswered); }
.no-verdict { color: var(--no-verdict); } code { font-size: .875rem; }
.bar { display: flex; height: .6rem; margin-top: .35rem; border-radius: .3rem; overflow: hidden; gap: 2px; }
.bar i { background: currentColor; } .right { float: right; margin-left: 1rem; font-variant-numeric: tabular-nums; }
"""


def student_page(record: Record) -> str:
    """What a student reads: the points, then a plain sentence a question."""
    points = f"Exercise {record['exercise']}: {record['points']:g} of {record['of']:g} points."
    body = [f"<h1>{escape(printable(record['name']))}</h1><p>{points}</p>"]
    body += [*_conventions(record["truth"]), "<ol>"]
    entries = record["questions"]
    reasons = {entry["line"] for entry in entries.values()}
    if len(reasons) == 1 and len(without_verdict(record)) == len(entries):  # the file's, not an answer's
        body.append(_item(_mark("no verdict"), escape(_capital(reasons.pop())), SEEN))
    else:
        body += [_judged(id, entry) for id, entry in entries.items()]
    body.append("</ol><p class=soft>Do you think that a verdict is wrong? Ask: the inputs, your answer's numbers and "
                "the expected ones can be shown for each question.</p>")  # fmt: skip
    return _page(f"Exercise {record['exercise']}: {printable(record['name'])}", body)


def _judged(id: str, entry: dict[str, Any]) -> str:
    more = [_capital(entry["line"]), "Hint: " + " ".join(entry["hints"])] if entry["names"] else []
    more += [SEEN] if entry["state"] == "no verdict" else []
    points = f"<small class=right>{entry['points']:g} of {entry['of']:g}</small>"
    text = f"{points}<b>{_title(id)}</b><p>{escape(_capital(sentence(entry)))}</p>"
    return _item(_mark(entry["state"]), text, *map(escape, more))


def class_page(records: Sequence[Record], settings: Settings, aside: Sequence[str] = (), secret: str = "") -> str:
    """What an instructor reads: what to teach again, who needs a human, the students."""

    def mean(some: Sequence[Record]) -> str:
        return f"{sum(record['points'] for record in some) / len(some):.1f}"

    begun = [r for r in records if {e["state"] for e in r["questions"].values()} & {"correct", "wrong"}]
    count, idle = len(records), len(records) - len(begun)
    summary = f"{count} submission{'s' * (count != 1)}, on average {mean(records)} of {records[0]['of']:g} points"
    if idle:
        summary += f". Not read or not started, and so 0: {idle}"
        summary += f"; average of the others: {mean(begun)}" if begun else ""
    body = [f"<h1>Exercise {settings.exercise}</h1><p>{summary}. <a href=marks.csv>marks.csv</a></p>"]
    body += _conventions(settings.truth)
    body += ["<h2>What to teach again</h2><ul>", *_questions(records), "</ul>"]
    body += ["<h2>For a human</h2>", *_human(records, aside), "<h2>Students</h2>"]
    body += ["<p class=soft>" + ", ".join(f"{mark} {WORD[state]}" for state, mark in MARK.items()) + "</p><ul>"]
    for record in records:
        marks = "".join(_mark(entry["state"], "") for entry in record["questions"].values())
        body.append(f"<li class=row>{_link(record['name'])}<i>{marks}</i><b>{record['points']:g}</b></li>")
    shown = f": <code>{escape(secret)}</code>" if secret else ", is shown with <code>--final</code>."
    body.append(f"</ul><p class=soft>The class's secret, from which the inputs were drawn{shown}</p>")
    return _page(f"Exercise {settings.exercise}: the class", body)


def _questions(records: Sequence[Record]) -> list[str]:
    """How a class did on each question, most mistakes first, and who made them."""
    rows = []
    for id in records[0]["questions"]:
        entries = [(record["name"], record["questions"][id]) for record in records]
        states = [entry["state"] for _, entry in entries]
        counts = {state: states.count(state) for state in MARK if state in states}
        made: dict[str, list[str]] = {}
        for name, entry in entries:
            if entry["state"] == "wrong":
                who = _link(name) + ("" if entry["says"] else f": {escape(entry['line'].partition(' for (')[0])}")
                for says in entry["says"] or [NAMELESS]:
                    made.setdefault(says, []).append(who)
        mistakes = [
            _item(f"<span class=count>{len(made[says])}</span>", escape(_capital(says).removesuffix(".")),
                  ("<br>" if says == NAMELESS else ", ").join(made[says]))
            for says in sorted(made, key=lambda says: (says == NAMELESS, -len(made[says])))
        ]  # fmt: skip
        wrong, right = counts.get("wrong", 0), counts.get("correct", 0)
        lead = f": {wrong} of {len(records)} wrong" if wrong else ""
        flag = " Nobody has it." if not right else "" if wrong else " Everybody who answered has it."
        words = ", ".join(f"{count} {WORD[state]}" for state, count in counts.items())
        bar = "".join(f'<i class="{_class(state)}" style="flex:{count}"></i>' for state, count in counts.items())
        text = f"<li><b>{_title(id)}{lead}</b> <small>{words}.</small>{flag}<div class=bar>{bar}</div>"
        rows.append((-wrong, right, f"{text}<ul>{''.join(mistakes)}</ul></li>"))
    return [text for *_, text in sorted(rows, key=lambda row: row[:2])]


def _human(records: Sequence[Record], aside: Sequence[str]) -> list[str]:
    rows = []
    for record in records:
        reasons: dict[str, list[str]] = {}
        for id in without_verdict(record):
            reasons.setdefault(record["questions"][id]["line"], []).append(id)
        for reason, of in reasons.items():
            what = "" if len(of) == len(record["questions"]) else f" <small>{', '.join(of)}</small>"
            rows.append(_item(_mark("no verdict"), _link(record["name"]) + what, escape(_capital(reason))))
    said = "Left aside: neither a notebook nor a folder."
    rows += [_item(_mark("no verdict"), escape(printable(name)), said) for name in aside]
    if not rows:
        return ["<p>Nobody: every answer has a verdict.</p>"]
    return ["<p>No verdict is no points, and no judgement: please look.</p><ul>", *rows, "</ul>"]


def _conventions(truth: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each question in which this class goes its own way."""
    what = {id: "; ".join(QUESTIONS[id].switches[name].says for name in names) for id, names in truth.items()}
    return [f"<p>This class's own convention for {_title(id)}: {escape(says)}.</p>" for id, says in what.items()]


def _item(lead: str, text: str, *soft: str) -> str:
    more = "".join(f"<p class=soft>{line}</p>" for line in soft)
    return f"<li>{lead}<div class=body>{text}{more}</div></li>"


def _page(title: str, body: list[str]) -> str:
    return "\n".join([
        "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", "<main>", *body, "</main>", "</html>", "",
    ])  # fmt: skip


def _title(id: str) -> str:
    heading = texts(id[:2]).get(id, f"## {id} {QUESTIONS[id].name}").partition("\n")[0]
    return escape(heading.removeprefix("## ").replace("`", ""))


def _mark(state: str, place: str = "mark ") -> str:
    kind, word = place + _class(state), WORD[state]
    return f'<span class="{kind}" role=img aria-label="{word}" title="{word}">{MARK[state]}</span>'


def _class(state: str) -> str:
    return state.replace(" ", "-")


def _link(name: str) -> str:
    return f'<a href="students/{quote(stem(name))}.html">{escape(printable(name))}</a>'


def _capital(text: str) -> str:
    return text if text[1:2] == "." else text[:1].upper() + text[1:]  # but a. to d. are as in the notebook
