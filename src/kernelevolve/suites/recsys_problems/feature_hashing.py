"""Raw 64-bit ids hashed into the rows of embedding tables: the finaliser of MurmurHash3, then modulo the table size.

Ids are any int64, negative ones too. The shifts are logical (bits shifted in are zero) although torch shifts int64
arithmetically, so the sign bits are masked away. Multiplication wraps around. The row is never negative: torch's
remainder takes the sign of the divisor, where C's % takes that of the dividend.
"""

import torch
import torch.nn as nn


class Model(nn.Module):
    # 0xff51afd7ed558ccd and 0xc4ceb9fe1a85ec53 as signed 64-bit numbers.
    FIRST = -49064778989728563
    SECOND = -4265267296055464877

    def __init__(self, table_size):
        super().__init__()
        self.table_size = table_size

    def forward(self, ids):
        low = 0x7FFFFFFF  # the 31 bits that a logical shift by 33 leaves
        x = ids ^ ((ids >> 33) & low)
        x = x * self.FIRST
        x = x ^ ((x >> 33) & low)
        x = x * self.SECOND
        x = x ^ ((x >> 33) & low)
        return torch.remainder(x, self.table_size)


batch = 65536
features = 64
table_size = 1000003


def get_inputs():
    return [torch.randint(-(2**62), 2**62, (batch, features))]


def get_init_inputs():
    return [table_size]
