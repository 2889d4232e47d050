import pytest

from tests.paths import ROOT
from tools.config_table import main, renew, schema_of, table


def test_the_docs_have_the_keys_of_every_schema():
    text = (ROOT / "docs" / "configs.md").read_text()
    assert renew(text) == text, "run python -m tools.config_table --write docs/configs.md"
    for schema_file in ROOT.glob("*_config.py"):
        assert f"<!-- keys: {schema_file.stem.removesuffix('_config')} -->" in text
    for folder in (ROOT / "configs" / "evaluation").iterdir():
        assert f"<!-- keys: evaluation.{folder.name} -->" in text


def test_a_row_says_type_range_default_and_meaning():
    assert "| `optimizer.base_lr` | number, &gt; 0 | `0.3` | Learning rate at a global batch of 256" in table(
        schema_of("r2o")
    )


def test_a_table_replaces_what_stands_between_its_marks():
    text = "before\n<!-- keys: r2o -->\nold\n<!-- end -->\nafter\n"
    assert renew(text) == f"before\n<!-- keys: r2o -->\n{table(schema_of('r2o'))}\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="no lines"):
        renew("a text without marks")


def test_a_methods_table_is_printed(capsys):
    main(["r2o"])
    assert capsys.readouterr().out.strip() == table(schema_of("r2o"))
