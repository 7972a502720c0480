"""One module per command of the `ge2e` program, of the same name: `add_arguments(parser)`, and flags to an exit status.

Each must not know how its work is done: that is a module of `pipeline` or `ge2e_transforms`. Beam, and what else takes
long to import, is imported when the command runs, so that help is there at once. Commands share `dataset_summary`,
`extras`, `grow`, `manifest_kinds`, `results` and `terminal`.
"""
