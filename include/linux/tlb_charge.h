/* SPDX-License-Identifier: GPL-2.0 */
/* Whom a Rust driver's memory is charged to: see mm/rust_tlb/charge.c. */
#ifndef _LINUX_TLB_CHARGE_H
#define _LINUX_TLB_CHARGE_H

#include <linux/types.h>

struct mem_cgroup;
struct obj_cgroup;
struct shrink_control;
struct shrinker;

struct obj_cgroup *tlb_charge_get_current(void);
void tlb_charge_put(struct obj_cgroup *payer);
struct mem_cgroup *tlb_charge_begin(struct obj_cgroup *payer);
void tlb_charge_end(struct mem_cgroup *before);
bool tlb_charge_is_wanted(struct obj_cgroup *payer,
			  const struct shrink_control *control);
struct shrinker *tlb_charge_shrinker_alloc(const char *name);
void tlb_charge_tell(struct obj_cgroup *payer, const struct shrinker *shrinker);
void tlb_charge_account_reclaimed(unsigned long nr_pages);

#endif /* _LINUX_TLB_CHARGE_H */
