# SPDX-License-Identifier: Apache-2.0
class Problem(Exception):
    """Something that the person at the keyboard can act on, told in one sentence."""
