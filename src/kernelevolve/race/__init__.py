"""The race: policies compared at equal budget, on recorded landscapes, made-up ones, or live.

In: problems, policies, seeds, a number of candidates. Out: curves of the best fitness, and what they say. Left to
others: searching; every lap is a real run (`runs`), whose writer and evaluator may answer from a recording.
"""
