"""Torch code that judge, worker and `translate.capture` share, so that all see the same reference and tensors.

In: problem text, Descriptions, Cases. Out: modules, tensors, Descriptions, times. Left to others: verdicts (`judge`),
candidates (`worker`). Nothing here is imported by the host, and importing this package alone imports no torch.

load      a problem file's text -> module -> model            call      model and inputs -> outputs and gradients
probe     shapes and cost without memory (fake tensors)       describe  -> Description
draw      Description and Case -> inputs and state            scale     a problem's text, small enough for the CPU
outputs   tensors -> exact metadata and bytes, and back       clock     cold-cache timing on a device or the CPU
"""
