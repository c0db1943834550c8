"""What the README says of the methods is what they say of themselves."""

from scripts import readme_methods


def test_the_table_of_methods_is_up_to_date():
    text = readme_methods.README.read_text()
    between = text.split(readme_methods.BEGIN)[1].split(readme_methods.END)[0]
    assert between.strip() == readme_methods.table().strip(), "run python -m scripts.readme_methods"
