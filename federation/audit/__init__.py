"""The bias audit: bounds and verdicts for every group of people, from the scores of any verifier.

Releases and their commands call it, and so do experiments.

comparisons   the input, as arrays
strings       the rest of the input: fixed strings that need no face, and how often they are accepted
audit         `audit_scores`: from comparisons to a report
intervals     bounds of a rate when comparisons share people
bootstrap     bounds of everything else, by drawing people
differentials measures of the literature
marginals     single axes, for comparison
wolf          what is said about fixed strings: rates, bounds, the limit of general use
cells         what is said about one group: rates, bounds, verdicts
report        the whole result and its canonical bytes
comparing     two reports: did the worst cell get worse?
searching     what a search would do with these errors
"""
