// SPDX-License-Identifier: GPL-2.0
/*
 * Whom the memory of a Rust driver is charged to, and so who is to be asked for
 * it when a cgroup is short.
 *
 * What a driver allocates in a fault is charged to whoever happens to fault. A
 * shrinker is asked for one cgroup at a time, and would have to know the cgroup
 * of each page. So a driver can name a payer, for each open file: whoever opened
 * it. NULL is nobody: the root cgroup, or a kernel without cgroups.
 */

#include <linux/memcontrol.h>
#include <linux/nodemask.h>
#include <linux/sched/mm.h>
#include <linux/shrinker.h>
#include <linux/swap.h>
#include <linux/tlb_charge.h>

/* The cgroup of this task, pinned. */
struct obj_cgroup *tlb_charge_get_current(void)
{
#ifdef CONFIG_MEMCG
	return get_obj_cgroup_from_current();
#else
	return NULL;
#endif
}

void tlb_charge_put(struct obj_cgroup *payer)
{
#ifdef CONFIG_MEMCG
	if (payer)
		obj_cgroup_put(payer);
#endif
}

/*
 * From now on, what this task allocates with __GFP_ACCOUNT is charged to @payer,
 * until tlb_charge_end() is called with what this returns.
 */
struct mem_cgroup *tlb_charge_begin(struct obj_cgroup *payer)
{
#ifdef CONFIG_MEMCG
	return set_active_memcg(payer ? get_mem_cgroup_from_objcg(payer) :
					root_mem_cgroup);
#else
	return NULL;
#endif
}

void tlb_charge_end(struct mem_cgroup *before)
{
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg = set_active_memcg(before);

	if (memcg != root_mem_cgroup)
		mem_cgroup_put(memcg);
#endif
}

/*
 * Whether memory of @payer is what a shrinker is asked for: always, if it is
 * asked for the whole machine.
 */
bool tlb_charge_is_wanted(struct obj_cgroup *payer,
			  const struct shrink_control *control)
{
#ifdef CONFIG_MEMCG
	bool ret;

	if (!control->memcg || mem_cgroup_is_root(control->memcg))
		return true;
	if (!payer)
		return false;
	rcu_read_lock();
	/* That of a cgroup which is gone is its parent's. */
	ret = obj_cgroup_memcg(payer) == control->memcg;
	rcu_read_unlock();
	return ret;
#else
	return true;
#endif
}

/* A shrinker that is asked for one cgroup at a time. Context: may sleep. */
struct shrinker *tlb_charge_shrinker_alloc(const char *name)
{
	return shrinker_alloc(SHRINKER_MEMCG_AWARE, "%s", name);
}

/* There is something for @shrinker to free again that @payer pays for. */
void tlb_charge_tell(struct obj_cgroup *payer, const struct shrinker *shrinker)
{
#ifdef CONFIG_MEMCG
	int nid;

	if (!payer)
		return;
	rcu_read_lock();
	for_each_node_state(nid, N_MEMORY)
		set_shrinker_bit(obj_cgroup_memcg(payer), nid, shrinker->id);
	rcu_read_unlock();
#endif
}

/* Tell reclaim, if it is this task, that it has got @nr_pages. */
void tlb_charge_account_reclaimed(unsigned long nr_pages)
{
	mm_account_reclaimed_pages(nr_pages);
}
