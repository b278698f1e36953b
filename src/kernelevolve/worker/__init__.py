"""The untrusted side: builder and worker processes that load a candidate, plan, build, interpret and run it.

In: messages of `protocol` over a socket. Out: claims, which the host and the judge check. Left to others: seeds,
oracle, tolerances, verdicts on values. Not safe against malicious code by itself: `nursery` seals each process before
it gets here.
"""
