"""The host side of measuring: the ladder, its roles as processes, tuning, and the build cache.

In: a Candidate. Out: an Evaluation. Left to others: values and verdicts on them (`judge`), running foreign code
(`worker`). No torch here: everything that touches a tensor happens in another process.
"""
