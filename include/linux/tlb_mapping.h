/* SPDX-License-Identifier: GPL-2.0 */
/* Address spaces for open files of Rust drivers: see mm/rust_tlb/mapping.c. */
#ifndef _LINUX_TLB_MAPPING_H
#define _LINUX_TLB_MAPPING_H

struct address_space;
struct file;

struct address_space *tlb_mapping_new(void);
void tlb_mapping_get(struct address_space *mapping);
void tlb_mapping_put(struct address_space *mapping);
void tlb_mapping_install(struct file *file, struct address_space *mapping);

#endif /* _LINUX_TLB_MAPPING_H */
