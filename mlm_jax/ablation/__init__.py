"""Ablations: variants of one experiment, run by seeds, tested against a baseline, as a page.

`plan` says what is compared and checks it, `runner` runs it, `statistics` tests it, `page` shows
it; `ablate` does all of this. `comparison` puts runs side by side that were never planned together.
"""
