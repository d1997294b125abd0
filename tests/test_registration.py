"""Datasets that a benchmark may score are registered first; every other one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from itm.core.errors import DataError, SettingError
from itm.data.catalog import CATALOG
from itm.evaluation.registration import check_registered, read_registration

PAGE = Path(__file__).parents[1] / "experiments" / "miniature" / "registration.md"
ROWS = "# Page\n\n| `data=` | half | more |\n|---|---|---|\n| `digits` | choosing | 1 |\n| `cats` | judging | 2 |\n"


def test_the_table_of_a_page_is_read_in_its_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"{ROWS}\nText on `dogs` | judging |.\n")
    assert list(read_registration(page).items()) == [("digits", "choosing"), ("cats", "judging")]


@pytest.mark.parametrize(
    "text",
    ["no table", f"{ROWS}| `digits` | judging | 3 |\n", f"{ROWS}| `dogs` | hidden | 3 |\n"],
    ids=["empty", "twice", "other part"],
)
def test_a_page_that_is_not_a_registration_is_refused(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(DataError, match=r"page.md: expected rows such as"):
        read_registration(page)


def test_a_missing_page_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.md: not readable as a registration"):
        read_registration(tmp_path / "none.md")


def test_a_dataset_without_a_row_is_refused():
    check_registered(["digits"], {"digits": "choosing"}, PAGE)
    with pytest.raises(SettingError, match=r"data.name=cats: not registered in .*registration.md"):
        check_registered(["digits", "cats"], {"digits": "choosing"}, PAGE)


def test_every_registered_target_is_a_dataset_and_has_a_contact_sheet():
    registered = read_registration(PAGE)
    assert set(registered) <= set(CATALOG)
    new = {name for name, part in registered.items() if part != "published"}
    assert len(new) >= 12
    assert {sheet.stem for sheet in (PAGE.parent / "contact_sheets").glob("*.jpg")} == new


@pytest.mark.parametrize("name", ["miniature", "miniature_ablations"])
def test_a_score_on_an_unregistered_target_is_refused_before_its_images_are_read(run, capsys, name):
    with pytest.raises(SystemExit) as stop:
        run(f"+experiment={name}", "data.name=elpv", "tracking=none")
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_refusal_names_the_target_and_the_page(run, capsys):
    with pytest.raises(SystemExit):
        run("+experiment=miniature", "data.name=nowhere/photos", "tracking=none")
    said = capsys.readouterr().err
    assert said.startswith("error: data.name=nowhere/photos: not registered in ")
    assert "registration.md" in said
