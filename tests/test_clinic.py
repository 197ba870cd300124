"""The bug clinic: each test fails on the program that has the bug, and passes on the cure."""

import ast
import re
import runpy
import warnings
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]
CLINIC = ROOT / "book/back/clinic"
BUGS = {row["id"]: row for row in yaml.safe_load((ROOT / "book/bugs.yml").read_text("utf-8"))}
PAGE = (ROOT / "book/back/clinic.md").read_text("utf-8")
GROUPS = re.findall(r"^```\{bugs\} (\w+)$", PAGE, flags=re.MULTILINE)
KINDS = {"live", "analogue", "recorded", "repeats"}
admit = runpy.run_path(str(CLINIC / "ward.py"))["admit"]
CHECKS = vars(admit("back/clinic/checks.py")[0])
WARDS = {group: admit(f"back/clinic/{group}.py") for group in GROUPS}
TREATED = sorted(
    {
        (row["group"], patient, test)
        for row in BUGS.values()
        if row.get("patient")
        for patient, test in ({row["patient"]: row["test"]} | row.get("also", {})).items()
    }
)
FILES = sorted(CLINIC.glob("*.py"))


@pytest.mark.parametrize(("group", "patient", "test"), TREATED)
def test_the_test_fails_on_the_bug_and_passes_on_the_cure(group, patient, test):
    sick, well = (getattr(ward, patient) for ward in WARDS[group])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of some of these bugs; the page says so
        torch.manual_seed(0)
        with pytest.raises(Exception) as caught:
            CHECKS[test](sick)
    torch.manual_seed(0)
    CHECKS[test](well)
    said = {row.get("torch") for row in BUGS.values() if row.get("patient") == patient} - {None}
    assert caught.type is AssertionError or said
    assert all(message in str(caught.value) for message in said)


def test_all_84_bugs_of_the_articles_are_there_and_nothing_is_left_empty():
    assert [name for name in BUGS if name[0] == "B"] == [f"B{n:02}" for n in range(1, 85)]
    for name, row in BUGS.items():
        assert all(row[field].strip() for field in ("wrong", "sees", "cure", "program")), name
        assert row["kind"] in KINDS and row["group"] in GROUPS, name
        treated = row["kind"] in ("live", "analogue")
        assert treated == bool(row.get("patient")) == bool(row.get("test")), name
        assert bool(row.get("repeats")) == (row["kind"] == "repeats"), name
        assert all(other in BUGS and BUGS[other].get("patient") for other in row.get("repeats", [])), name
        assert row["kind"] != "recorded" or row.get("tensorflow") or row.get("source"), name
        assert row["id"][0] == "B" or row["source"], name


def test_every_patient_is_some_row_s_and_every_check_is_used():
    for group in GROUPS:
        blocks = re.split(r"\n\n\n", (CLINIC / f"{group}.py").read_text("utf-8"))
        sick = {re.match(r"def (\w+)", block)[1] for block in blocks if "# cure:" in block}
        assert sick == {patient for where, patient, _ in TREATED if where == group}
    named = {test for *_, test in TREATED}
    checks = {part.name for part in ast.parse((CLINIC / "checks.py").read_text("utf-8")).body if hasattr(part, "name")}
    helpers = {"Counted", "Labelled", "easy_digits", "share_right"}
    assert named <= checks and checks - named == helpers


def test_the_algorithms_of_article_002_are_covered():
    """B33 to B44, which the chapters on algorithms point to."""
    for n in range(33, 45):
        row = BUGS[f"B{n}"]
        assert row["article"] == "002" and row["patient"] and row["test"]


def test_what_is_shown_elsewhere_has_a_place():
    text = "\n".join(page.read_text("utf-8") for page in (ROOT / "book").rglob("*.md"))
    labels = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE)) | set(re.findall(r"name: (fig-[\w-]+)", text))
    assert {row["shown"] for row in BUGS.values() if row.get("shown")} <= labels


def test_the_page_prints_each_group_once_and_lists_every_symptom_first():
    assert sorted(GROUPS) == sorted({row["group"] for row in BUGS.values()})
    start = PAGE.split("\n## ")[0]
    assert all(f"(#clinic-{group})" in start and f"\n(clinic-{group})=\n" in PAGE for group in GROUPS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_program_fits_a_phone(path):
    for block in re.split(r"\n\n\n", path.read_text("utf-8")):
        if block.startswith("def ") and path.stem != "ward":
            lines = block.strip().splitlines()
            assert len(lines) <= 15 + ("# cure:" in block), f"{len(lines)} lines: {lines[0]}"
            for line in lines:
                assert len(line) <= 88, f"{len(line)} columns: {line}"
