/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Publishing an object. What the interface file says is what people are told, asked for and judged
 * by, so a vtable that says anything else does not start:
 *
 *   - every member stands in the file and in the vtable, with the same types and access;
 *   - every member has a permission; without one nobody could ever use it;
 *   - methods and writable properties have SD_BUS_VTABLE_UNPRIVILEGED, and nothing asks for a
 *     capability: sd-bus would refuse all but root by itself, after our filter has allowed the
 * call;
 *   - nothing is hidden from introspection;
 *   - changes of a property are announced as the file says (EmitsChangedSignal), and never with the
 *     value: a signal goes to whoever listens, a guarded value does not;
 *   - what has an argument annotated org.hybridos.Secret is SD_BUS_VTABLE_SENSITIVE.
 */

#include <systemd/sd-bus.h>

#include "base.h"

typedef struct hybus_object hybus_object;

/* Reads the file from the vendor's directory (HYBRIDOS_INTERFACES names another, for tests).
 * `vtable` and `userdata` outlive the object. <0: not published, and said so. */
HYBUS_EXPORT int hybus_object_publish(sd_bus *bus, const char *path, const char *interface,
                                      const sd_bus_vtable *vtable, void *userdata,
                                      hybus_object **ret);
HYBUS_EXPORT void hybus_object_free(hybus_object *o);
HYBUS_DEFINE_CLEANUP(hybus_object, hybus_object_free)

/* Announces that these properties have other values now (names up to NULL); readers ask for them.
 */
HYBUS_EXPORT void hybus_object_changed(hybus_object *o, const char *property, ...)
    __attribute__((sentinel));
