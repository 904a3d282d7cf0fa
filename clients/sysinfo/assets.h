/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The page's files, embedded by embed.py. */

#include <stddef.h>

extern const unsigned char asset_script[], asset_style[], asset_icon[];
extern const size_t asset_script_size, asset_style_size, asset_icon_size;
