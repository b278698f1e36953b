"""Models by name, behind a guard that keeps accounts, retries and hides keys.

In: a model's name and a run's ledger. Out: a pydantic-ai Model. Left to others: what is said to it (`propose`).

`models` opens them, `ledger` holds money and tokens, `forecast` says before a run what it may cost, `reach` what the
present keys can reach. Importing any of them imports neither pydantic-ai nor a provider's package.
"""
