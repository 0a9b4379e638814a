"""Evaluations of an encoder: a module with three names for each.

`Options` has its keys of the configuration, which `configs/evals/` explains.
`measure_accuracy(options, encoder, load, log)` gets an encoder of `features`, a
function from the name of a split to its image set, and one that is called with
lines of progress; what trains gets `training.train.train_in_memory` too, as
`train`. It raises ConfigError for a value that cannot be used, DataError for
labels that are absent or do not fit and for splits that overlap, DivergedError
for a representation or all losses that are not finite. `list_headlines` returns
what the verb prints of its results.
"""
