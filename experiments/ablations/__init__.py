"""One ablation, one file: its docstring is its command, and it exports `ablation`."""
