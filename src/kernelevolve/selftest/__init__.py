"""The checker's checker: cheats that must be rejected for the right reason, odd kernels that must pass.

In: which specimens, on which device. Out: a `Report`. Left to others: every finding.
"""
