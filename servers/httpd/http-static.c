/* SPDX-License-Identifier: Apache-2.0 */
/* Files below the configured document root, by the library: HEAD, ranges, conditional requests,
 * gzip. No directory listings. Comes after our own handler, which has judged the request by then.
 */

#include "http.h"

#define GZIP_MIN_SIZE 256
#define GZIP_QUALITY 4

void http_static_register(Http *h, h2o_pathconf_t *path)
{
    h2o_compress_args_t compress = {
        .min_size = GZIP_MIN_SIZE, .gzip = {.quality = GZIP_QUALITY}, .brotli = {.quality = -1}};

    if (!h->settings->root[0])
        return;
    h2o_compress_register(path, &compress);
    h2o_file_register(path, h->settings->root, h2o_file_default_index_files, NULL, 0);
}
