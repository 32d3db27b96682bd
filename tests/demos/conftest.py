from data.conftest import handwriting  # noqa: F401  (a fixture)
