"""Interview and references: a question has its four parts, its links land, and every source can be opened."""

import re
from pathlib import Path

import pytest

from kdcourse.grading import check
from kdcourse.grading.questions import QUESTIONS as GRADED
from kdcourse.grading.spec import Choice

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
PAGE = (BOOK / "back/interview.md").read_text("utf-8")
ARTICLES = "000-1 000-2 000-3 000-4 000-5 000-p 001-1 003-1 003-2 003-3 003-4 003-5 003-p1 003-p2 " \
           "004-1 004-2 004-3 004-4 004-p1 004-p2"  # fmt: skip
QUESTION = re.compile(r"^\((q-[a-z0-9-]+)\)=\n### (.+?)\n(.*?)(?=^\(q-|^## |\Z)", re.M | re.S)
QUESTIONS = {label: body for label, _, body in QUESTION.findall(PAGE)}
WRONG = "**The common wrong answer.**"
LINK = re.compile(r"\{(?:ref|numref)\}`(?:[^`<]*<)?([\w-]+)>?`")

each_question = pytest.mark.parametrize("label", QUESTIONS)


def labels_that_are_built() -> set[str]:
    """Labels and figures of the pages that the table of contents lists, this page aside."""
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    files = [ROOT / f"{name}.md" for name in re.findall(r"file: (\S+)", toc) if not name.endswith("interview")]
    text = "\n".join(file.read_text("utf-8") for file in files)
    return {a or b for a, b in re.findall(r"^\(([\w-]+)\)=|^ +name: ([\w-]+)$", text, re.M)}


def test_all_questions_of_the_articles_are_there_and_as_many_of_ours() -> None:
    assert len(QUESTIONS) == PAGE.count("\n(q-") and len(set(QUESTIONS)) == len(QUESTIONS)
    theirs = {f"q-{number}" for number in ARTICLES.split()}
    assert theirs <= QUESTIONS.keys()
    assert len(QUESTIONS.keys() - theirs) >= 20
    for label in theirs:
        assert re.match(rf"\n\*Article {label[2:5]}, ", QUESTIONS[label]), label


@each_question
def test_a_question_has_its_four_parts(label: str) -> None:
    body = QUESTIONS[label]
    parts = ["**Short answer.** ", ":::{dropdown} Deeper\n", "\n:::\n", f'{WRONG} "', "**What refutes "]
    places = [body.find(part) for part in parts]
    assert -1 not in places and places == sorted(places), dict(zip(parts, places, strict=True))
    assert LINK.search(body[places[3] :]), "no link to the place that shows it"


@each_question
def test_a_short_answer_can_be_said_aloud(label: str) -> None:
    """Two sentences, and no more than somebody says in half a minute."""
    short = QUESTIONS[label].split("**Short answer.** ")[1].split("\n")[0]
    short = re.sub(r"\{glue:text\}`\w+`", "0.1", short)
    assert 1 <= len(re.findall(r"[.?](?= [A-Z]|$)", short)) <= 2, short
    assert len(short.split()) <= 65, len(short.split())


@each_question
def test_every_link_of_a_question_lands(label: str) -> None:
    missing = set(LINK.findall(QUESTIONS[label])) - labels_that_are_built()
    assert not missing, f"{label} links to {missing}, which no page of the table of contents holds"


@each_question
def test_no_answer_needs_a_number_that_was_typed_in(label: str) -> None:
    """Measured numbers are glued; what may stand are settings, examples, and numbers of a cited paper."""
    body = re.sub(r"`[^`]*`|\$[^$]*\$", "", QUESTIONS[label])
    typed = re.findall(r"\d ± \d|[+−-]\d+\.\d", body)
    assert not typed, typed


def entries() -> dict[str, str]:
    text = (BOOK / "references.bib").read_text("utf-8")
    return {key: body for key, body in re.findall(r"^@\w+\{([\w-]+),\n(.*?)^\}$", text, re.M | re.S)}


@pytest.mark.parametrize("key", entries())
def test_every_entry_of_the_bibliography_can_be_opened_and_is_cited(key: str) -> None:
    body = entries()[key]
    links = re.findall(r"^ *(doi|eprint|url) *= *\{(.+)\},?$", body, re.M)
    assert links, f"{key} needs a doi, an eprint (an arXiv number) or a url in book/references.bib"
    forms = {"doi": r"10\.\d{4,}/\S+", "eprint": r"\d{4}\.\d{4,5}", "url": r"https://\S+"}
    for kind, value in links:
        assert re.fullmatch(forms[kind], value), f"{key}: {value} is no {kind}"
    for field in ("author", "title", "year"):
        assert re.search(rf"^ *{field} *=", body, re.M), f"{key} has no {field}"
    pages = [*BOOK.rglob("*.md"), *BOOK.glob("*.yml")]
    cited = re.compile(rf"\{{cite:\w+\}}`[^`]*\b{re.escape(key)}\b")
    on_a_page = any(cited.search(page.read_text("utf-8")) for page in pages)
    in_the_package = any(links[0][1] in file.read_text("utf-8") for file in (ROOT / "kdcourse").rglob("*.py"))
    assert on_a_page or in_the_package, f"{key} is cited on no page and in no docstring: cite it or drop it"


def test_no_paper_stands_twice_in_the_bibliography() -> None:
    text = (BOOK / "references.bib").read_text("utf-8")
    assert text.count("\n@") + text.startswith("@") == len(entries())
    links = re.findall(r"^ *(?:doi|eprint) *= *\{(.+)\}", text, re.M)
    assert len(set(links)) == len(links), {link for link in links if links.count(link) > 1}


def test_every_reference_of_the_articles_has_a_verdict_and_what_to_cite() -> None:
    text = (BOOK / "back/references.md").read_text("utf-8").split("(bibliography)=")[0]
    rows = re.findall(r"^([^\s#(:{*].*)\n: (.+)$", text, re.M)
    assert len(rows) == 13  # ten references and three tools
    for name, what in rows:
        assert re.search(r"\{cite:|https://", what), f"{name}: nothing to cite instead"
    missing = text.split("### Not found")[1].split("(article-tools)")[0]
    assert missing.count("We could not find a paper of this title") == 3
    assert "invented" not in text and "fake" not in text and "December 2026" in missing


CHOICES = [question for question in GRADED.values() if question.id.startswith("22.") and isinstance(question, Choice)]


def test_the_self_test_gives_nothing_away_by_letter_or_length() -> None:
    text = (ROOT / "solutions/22_interview.md").read_text("utf-8")
    longest = 0
    for question in CHOICES:
        part = text.split(f"## {question.id} ")[1].split("```")[0]
        options = dict(re.findall(r"^- \*\*([a-d])\*\* (.+)$", part, re.M))
        assert options.keys() == question.options.keys()
        longest += max(options, key=lambda letter: len(options[letter])) == question.right
    assert longest <= len(CHOICES) / 3
    letters = [question.right for question in CHOICES]
    assert all(len(CHOICES) // 4 - 1 <= letters.count(letter) <= len(CHOICES) // 4 + 2 for letter in "abcd")
    assert not any(a == b == c for a, b, c in zip(letters, letters[1:], letters[2:], strict=False))


def test_a_wrong_answer_is_sent_to_the_page_and_not_to_a_chapter() -> None:
    with pytest.raises(AssertionError, match='the page "Interview questions"'):
        check("22.1", "a")
