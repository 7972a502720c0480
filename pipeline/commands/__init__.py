"""One module per command of the `ge2e` program."""
