import pytest

from tests.paths import ROOT
from tools.config_table import schema_of, table, write_into


def test_the_readme_has_the_keys_of_the_schema():
    readme = (ROOT / "README.md").read_text()
    assert write_into(readme, "r2o", table(schema_of("r2o"))) == readme, (
        "run python -m tools.config_table r2o --write README.md"
    )


def test_a_key_shows_its_type_range_and_default():
    rows = table(schema_of("r2o")).splitlines()
    assert "| `seed` | whole number, ≥ 0 | `0` | Everything random derives from it. |" in rows
    assert any(row.startswith("| `data.image_dir` | text | required |") for row in rows)


def test_a_file_without_marks_is_refused():
    with pytest.raises(ValueError, match="<!-- keys: r2o -->"):
        write_into("nothing", "r2o", "")
