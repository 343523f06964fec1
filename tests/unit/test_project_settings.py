"""The README says of every setting what it means."""

from __future__ import annotations

from pathlib import Path

from controller.settings import Settings

README = Path(__file__).parents[2] / "README.md"


def expected_table() -> str:
    """Return the table as it should be, one row for each setting in the order of their definition."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_readme_has_a_row_for_every_setting() -> None:
    """Name, default and meaning are those that the program has; a failure shows the table to put there."""
    _, _, rest = README.read_text().partition("<!-- settings -->\n")
    table, end, _ = rest.partition("\n<!-- /settings -->")
    assert end, "README.md has no table between <!-- settings --> and <!-- /settings -->"
    assert table.strip() == expected_table(), f"README.md's table should be:\n\n{expected_table()}\n"
