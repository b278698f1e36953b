"""The seal: what stands between foreign code and this machine.

In: a process that was just forked, or a command. Out: the same, sealed, and the names of the layers that held. Left to
others: forking (`nursery`), talking (`wire`), judging. `layers` says what there is, `trees` what may be seen, `keeper`
puts the layers in place and stays around them, `bubblewrap` wraps a command instead.
"""
