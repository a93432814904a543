/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Output: what was counted, as harness/boot/shadow/record.py reads it. */
#ifndef OUTPUT_H
#define OUTPUT_H

/* Write PREFIX.report, PREFIX.places and PREFIX.modules. */
void output_write(const char *prefix);

#endif
