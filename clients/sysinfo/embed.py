#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes files as C arrays: embed.py OUTPUT NAME=FILE..."""
import sys

with open(sys.argv[1], 'w', encoding='ascii') as out:
    out.write('/* SPDX-License-Identifier: Apache-2.0 */\n#include "assets.h"\n')
    for argument in sys.argv[2:]:
        name, _, path = argument.partition('=')
        with open(path, 'rb') as f:
            data = f.read()
        out.write(f'const unsigned char {name}[] = {{{",".join(map(str, data))}}};\n')
        out.write(f'const size_t {name}_size = {len(data)};\n')
