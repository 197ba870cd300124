"""The ledger: every claim of the articles stands once, has a verdict, and leads to what it rests on."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from browser import PAGES, without_javascript

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "book" / "_ext" / "kd_claims.py"
specification = importlib.util.spec_from_file_location("kd_claims", SOURCE)
kd_claims = importlib.util.module_from_spec(specification)
specification.loader.exec_module(kd_claims)

ROWS = {row["id"]: row for row in yaml.safe_load((ROOT / "book" / "claims.yml").read_text("utf-8"))}
GOOD = {
    "id": "C01",
    "article": "000",
    "claim": "It is warm.",
    "zh": "温度",
    "verdict": "right",
    "truth": "It is.",
    "evidence": "none",
    "why": "a forecast",
    "chapter": "03",
}


def test_every_claim_stands_once():
    ids = re.findall(r"^- id: (\S+)$", (ROOT / "book" / "claims.yml").read_text("utf-8"), re.M)
    assert sorted(ids) == sorted(f"C{number:02d}" for number in range(1, 128))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_row(row):
    assert kd_claims.mistakes(row) == []
    assert row["article"] in ("000", "001", "002", "003", "004")
    assert all(re.search(r"[\u4e00-\u9fff]|\w", key) and len(key) <= 16 for key in kd_claims.keys(row))
    assert row.get("why") is None or row["evidence"] == "none"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "maybe"}, "verdict must be one of"),
        ({"verdict": ""}, "no verdict"),
        ({"why": ""}, "no evidence, and no reason why"),
        ({"evidence": "computed"}, "computed, and no page that shows it"),
        ({"evidence": "derived", "source": "somebody"}, "derived, and no page that shows it"),
        ({"evidence": "cited", "shown": "03_temperature#order"}, "cited, and no source"),
        ({"evidence": "hearsay"}, "evidence must be one of"),
        ({"zh": []}, "no zh"),
    ],
)
def test_what_a_row_lacks_is_said(change, said):
    assert kd_claims.mistakes(GOOD) == []
    assert any(said in mistake for mistake in kd_claims.mistakes(GOOD | change))


def section(text: str, label: str) -> str | None:
    """The section that a label names or stands in, with its subsections; None without the label."""
    lines = text.splitlines()
    target = re.compile(rf"\({re.escape(label)}\)=|\s*:?(name|label): {re.escape(label)}")
    places = [number for number, line in enumerate(lines) if target.fullmatch(line)]
    if not places:
        return None
    fenced, heads = False, []
    for number, line in enumerate(lines):
        fenced ^= line.startswith("```")
        if not fenced and (found := re.match("(#+) ", line)):
            heads.append((number, len(found[1])))
    start, level = [head for head in heads if head[0] <= places[0] + 1][-1]
    end = next((number for number, other in heads if number > start and other <= level), len(lines))
    return "\n".join(lines[start:end])


def asserts(text: str) -> list[str]:
    cells = re.findall(r"^```\{code-cell\}.*?^```$", text, re.M | re.S)
    return [line for cell in cells for line in re.findall(r"^\s*assert\b.*", cell, re.M)]


WRITTEN = {
    chapter
    for page in PAGES
    for chapter in re.findall(r"^```\{claims\} (\S+)$", (ROOT / f"{page}.md").read_text("utf-8"), re.M)
}
SHOWN = {name: row for name, row in ROWS.items() if row.get("shown")}


@pytest.mark.parametrize("row", SHOWN.values(), ids=SHOWN)
def test_shown_lands_and_is_checked_there(row):
    page, _, label = row["shown"].partition("#")
    if f"book/{page}" not in PAGES:
        assert row["chapter"] not in WRITTEN, f"{row['id']}: {page} is not in _toc.yml"
        return  # the ledger says that the chapter is not written
    found = section((ROOT / "book" / f"{page}.md").read_text("utf-8"), label)
    assert found is not None, f"{row['id']}: {page} has no label {label}"
    if row["evidence"] in ("computed", "recorded"):
        assert asserts(found), f"{row['id']}: no cell of {row['shown']} asserts anything"


ONE = """# One

(warm)=
## Warm

```{code-cell} ipython3
print(1)
```

## Cold

```{code-cell} ipython3
---
mystnb:
  figure:
    name: fig-cold
---
# not a heading
assert True
```
"""


def test_the_section_of_a_label():
    assert section(ONE, "warm").startswith("## Warm") and not asserts(section(ONE, "warm"))
    assert section(ONE, "fig-cold").startswith("## Cold") and len(asserts(section(ONE, "fig-cold"))) == 1
    assert section(ONE, "col") is None
    assert len(asserts(ONE)) == 1


def built(folder: Path, rows: list[dict], pages: dict[str, str]) -> tuple[dict[str, str], str]:
    """A book of a few lines with the real directives: its pages, and what the build complained about."""
    (folder / "book").mkdir()
    (folder / "book" / "claims.yml").write_text(yaml.safe_dump(rows, allow_unicode=True), "utf-8")
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    (folder / "conf.py").write_text(
        f"import sys\nsys.path.append({str(SOURCE.parent)!r})\nextensions = ['myst_parser', 'kd_claims']\n"
        f"html_static_path = [{str(ROOT / 'book' / '_static')!r}]\nhtml_theme = 'basic'\n",
        "utf-8",
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(folder), str(folder / "html")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {name: (folder / "html" / f"{name}.html").read_text("utf-8") for name in pages}, said


def test_a_chapter_that_is_not_written_is_said_so(tmp_path):
    planned = {"evidence": "computed", "why": "", "shown": "18_data#noise"}
    rows = [GOOD, GOOD | {"id": "C02", "chapter": "18"} | planned]
    pages = {
        "index": "# All\n\n```{claims} all\n```\n",
        "03_warm": "---\norphan: true\n---\n# Warm\n\n```{claims} 03\n```\n",
    }
    html, said = built(tmp_path, rows, pages)
    first, second = html["index"].split('id="c02"')
    assert 'href="03_warm.html#c01"' in first and "not written" not in first
    assert "Chapter 18 is not written yet." in second and "#c02" not in second
    assert 'id="c01"' in html["03_warm"] and 'id="c02"' not in html["03_warm"]
    assert not said


def test_a_faulty_row_and_an_unfit_statement_stop_the_build(tmp_path):
    lost = {"id": "C04", "chapter": "all", "shown": "18_data#noise"}
    rows = [GOOD, GOOD | {"id": "C02", "verdict": "half right"}, GOOD | {"id": "C03", "truth": ""}, GOOD | lost]
    pages = {"index": "# All\n\n```{claims} all\n```\n\n```{statements} C01 C02\n```\n\n```{claims} 99\n```\n"}
    _, said = built(tmp_path, rows, pages)
    assert "C03: no truth" in said
    assert "C04: there is no page 18_data" in said
    assert "neither right nor wrong: ['C02']" in said
    assert "no claim of chapter 99" in said


# ------------------------------------------------------------------- in the browser


def ledger(book, opened, width=1280, anchor=""):
    page = opened(book / "book/back/claims.html", width, anchor)
    page.wait_for_selector(".claim-filter")
    return page


def number(name: str) -> int:
    return int(name[1:])


def shown(page) -> list[str]:
    """The ids of the rows that can be seen; the page must say how many they are."""
    page.wait_for_timeout(20)
    ids = page.locator("ul.ledger > .claim").evaluate_all("rows => rows.filter(r => r.offsetHeight).map(r => r.id)")
    assert re.search(rf"\b{len(ids)} of {len(ROWS)}\b", page.get_by_role("status").text_content())
    return ids


def test_every_row_links_to_its_evidence_and_its_chapter(book, opened):
    page = ledger(book, opened)
    rows = page.locator("ul.ledger > .claim").evaluate_all(
        "rows => rows.map(r => [r.id, [...r.querySelectorAll('a')].map(a => [a.textContent, a.getAttribute('href')]),"
        " r.querySelectorAll('.claim-open').length])"
    )
    assert [name for name, *_ in rows] == shown(page) == [name.lower() for name in sorted(ROWS, key=number)]
    for name, links, waiting in rows:
        data = ROWS[name.upper()]
        ledgers = book / "book/back"
        assert waiting == (data["chapter"] not in WRITTEN)
        if data.get("shown") and f"book/{data['shown'].partition('#')[0]}" in PAGES:
            (address,) = [href for text, href in links if text == "Shown here"]
            file = (ledgers / address.partition("#")[0]).resolve()
            assert file == book / "book" / f"{data['shown'].partition('#')[0]}.html"
        chapters = [href.partition("#")[0] for _, href in links if href.endswith(f"#{name}")]
        assert len(chapters) + waiting == 1
        assert all(f'id="{name}"' in (ledgers / chapter).resolve().read_text("utf-8") for chapter in chapters)
    assert not page.complaints


PHRASES = [
    ("过于平滑", "c82"),
    ("对抗蒸馏", "c46"),
    ("序列蒸馏", "c48"),
    ("温度越小", "c93"),
    ("硬标签", "c32"),
    ("较低的温度可以帮助学生模型捕捉到教师模型的细微差异。", "c03"),
    ("通过学习率来平衡两个损失的权重", "c122"),
    ("「多任务学习」", "c116"),
    ("ＢＬＥＵ", "c86"),
    ("10–20", "c18"),
    ("T=0.01", "c82"),
    ("soft label", "c76"),
    ("adversarial KD generalization", "c47"),
    ("Compression  RATIO", "c11"),
    ("a low temperature helps the student catch fine differences of the teacher", "c03"),
    ("1000 training images", "c74"),
    ("MobileNet准确率76%", "c78"),
    ("interpretability", "c45"),
    ("dark knowledge", "c113"),
    ("c3", "c03"),
    ("C 127", "c127"),
]


def test_words_of_the_articles_find_the_claim(book, opened):
    page = ledger(book, opened)
    wrong = []
    for typed, wanted in PHRASES:
        page.locator("#claim-words").fill(typed)
        ids = shown(page)
        if wanted not in ids or len(ids) > 20:
            wrong.append(f"{typed}: {len(ids)} rows, {wanted} {'is' if wanted in ids else 'is not'} among them")
    assert not wrong, "\n".join(wrong)


def test_the_filter_by_keyboard(book, opened):
    page = ledger(book, opened, 390)
    page.locator("#claim-words").focus()
    page.keyboard.type("temperature")
    by_words = shown(page)
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    wrong = shown(page)
    assert wrong == [name for name in by_words if ROWS[name.upper()]["verdict"] == "wrong"]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert shown(page) == [name for name in wrong if ROWS[name.upper()]["article"] == "000"] != []
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert len(shown(page)) == len(ROWS)
    page.locator("#claim-words").fill("zzzz")
    assert shown(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not page.complaints


def test_an_address_opens_its_row(book, opened):
    page = ledger(book, opened, anchor="#c82")
    page.wait_for_function("document.activeElement.id === 'c82'")
    page.locator("#claim-words").fill("BLEU")
    assert "c43" not in shown(page)
    page.evaluate("location.hash = '#c43'")
    page.wait_for_function("document.activeElement.id === 'c43'")
    assert len(shown(page)) == len(ROWS)
    page.wait_for_function(
        "(r => r.top > 0 && r.bottom < innerHeight)(document.querySelector('#c43').getBoundingClientRect())"
    )
    assert not page.complaints


def test_the_ledger_without_javascript(browser, book):
    with without_javascript(browser, book / "book/back/claims.html") as page:
        assert page.locator("ul.ledger > .claim").evaluate_all("r => r.every(row => row.offsetHeight > 0)")
        assert page.locator("ul.ledger > .claim").count() == len(ROWS)
        assert page.locator(".claim-filter").count() == 0


# ------------------------------------------------------------------- the statements, before and after

BEFORE, AFTER = "book/pretest.html", "book/back/posttest.html"


def truths(page) -> list[str]:
    """The right answer to each statement of a page, from the data."""
    ids = page.locator("ol.statements > li").evaluate_all("items => items.map(i => i.id.split('-')[1].toUpperCase())")
    assert len(ids) == len(set(ids)) >= 12
    return ["true" if ROWS[name]["verdict"] == "right" else "false" for name in ids]


def answer(page, answers: list[str]) -> None:
    """By keyboard alone: Tab goes to the next statement, Space takes true, an arrow goes on to false."""
    page.locator("ol.statements input").first.focus()
    for said in answers:
        page.keyboard.press("Space")
        if said == "false":
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")


def status(page) -> str:
    return page.get_by_role("status").text_content()


def test_the_first_round_gives_nothing_away(book, opened):
    page = opened(book / BEFORE)
    right = truths(page)
    assert 4 <= right.count("true") <= len(right) - 4
    content = page.locator("article").inner_html()
    assert not re.search(r"verdict|answer-(true|false)|#c\d\d|The truth", content)
    before = page.locator("ol.statements > li > p").all_text_contents()
    page.goto((book / AFTER).as_uri())
    assert page.locator("ol.statements > li > p").all_text_contents() == before
    assert not page.locator("ol.statements details").first.is_visible()
    assert truths(page) == right


def test_two_rounds_and_the_gain(book, opened):
    page = opened(book / BEFORE, 390)
    right = truths(page)
    answer(page, ["true"] * 11)
    assert status(page).startswith("11 of 12 answered. Kept in this browser")
    page.reload()
    assert status(page).startswith("11 of 12 answered.")
    assert page.locator("ol.statements input:checked").count() == 11
    page.goto((book / AFTER).as_uri())
    answer(page, right[:-1] + ["true" if right[-1] == "false" else "false"])
    page.keyboard.press("Enter")
    then = right[:11].count("true")
    assert status(page) == f"11 of 12 right. Before the book {then}: a gain of {11 - then}."
    items = page.locator("ol.statements > li")
    assert items.evaluate_all("i => i.map(item => item.dataset.mark)") == ["right"] * 11 + ["wrong"]
    for item, truth in zip(items.all(), right, strict=True):
        text = item.locator("details").inner_text()
        assert f"{truth.capitalize()}." in text and "Claim C" in text
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.goto((book / BEFORE).as_uri())
    page.get_by_role("button", name="Forget my answers").click()
    page.reload()
    assert status(page).startswith("0 of 12")
    assert not page.complaints


def test_the_statements_without_storage(book, opened):
    page = opened(book / BEFORE)
    page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no') }})")
    page.reload()
    answer(page, ["true"] * 12)
    assert "This browser keeps nothing" in status(page)
    page.goto((book / AFTER).as_uri())
    answer(page, truths(page))
    page.keyboard.press("Enter")
    assert status(page).startswith("12 of 12 right.") and "no gain to show" in status(page)


def test_the_statements_without_javascript(browser, book):
    with without_javascript(browser, book / BEFORE) as page:
        assert page.locator("ol.statements > li").count() == 12
        assert page.locator("ol.statements :is(details, input)").count() == 0
    with without_javascript(browser, book / AFTER) as page:
        fold = page.locator("ol.statements details")
        assert fold.count() == 12 and not fold.locator("p").first.is_visible()
        fold.first.locator("summary").click()
        assert fold.locator("p").first.is_visible()
