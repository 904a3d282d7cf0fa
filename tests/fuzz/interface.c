/* SPDX-License-Identifier: Apache-2.0 */
#include "hybus/interface.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int strict = 0; strict < 2; strict++) {
        hybus_xml *xml = NULL;
        char *error = NULL;

        if (hybus_xml_parse("fuzz", (const char *)data, size, strict ? HYBUS_XML_STRICT : 0, &xml,
                            &error) == 0)
            for (size_t i = 0; i < xml->n_interfaces; i++)
                for (size_t j = 0; j < xml->interfaces[i].n_members; j++) {
                    hybus_xml_member *m = &xml->interfaces[i].members[j];
                    hybus_xml_doc doc;

                    if (hybus_xml_doc_parse(m->doc, m->name, &doc) == 0)
                        hybus_xml_doc_done(&doc);
                }
        hybus_xml_free(xml);
        free(error);
    }
    return 0;
}
