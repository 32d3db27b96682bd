"""The fixture `two_ranks`: two processes that all tests share."""

pytest_plugins = ["mmcomponents.testing.pytest_plugin"]
