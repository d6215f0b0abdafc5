// SPDX-License-Identifier: GPL-2.0
/*
 * The memory of the rings of flushes, one page per mm that asked for one, and
 * how often they helped. What is in a ring, and when it may be believed, is
 * decided in rust/kernel/mm/tlb/ring.rs.
 */

/* Before the first header that may declare an event. */
#ifndef CONFIG_RUST_TLB_EVENTS
#define NOTRACE
#endif

#include <linux/cpumask.h>
#include <linux/debugfs.h>
#include <linux/flush_ring.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>

#include <asm/tlbflush.h>

#include <trace/events/rust_tlb.h>

#include "mm_internal.h"

/*
 * Most pages that a CPU invalidates one by one under the lock of its run queue,
 * as it comes back to a lazy mm.
 */
#define LAZY_PAGES	8UL

/* As `Doubt` and `GaveUp` in ring.rs. */
#define NR_DOUBTS	7
#define NR_GAVE_UP	2

struct flush_ring_counts {
	unsigned long published;
	unsigned long gave_up[NR_GAVE_UP];
	/* By who catches up. */
	unsigned long exact[2];
	unsigned long exact_pages[2];
	unsigned long doubt[2][NR_DOUBTS];
};

static DEFINE_PER_CPU(struct flush_ring_counts, counts);

/* Somebody may have a ring. */
DEFINE_STATIC_KEY_FALSE(flush_rings_used);

/* Every new mm gets a ring, for tests. */
static bool for_all;

/*
 * As long as anybody holds this, rings are filled and read. Whatever is missed
 * while the branches are patched, is unpublished, and so everything.
 * Context: may sleep. No mmap_lock: it takes that of CPU hotplug.
 */
void flush_rings_get(void)
{
	static_branch_inc(&flush_rings_used);
}

void flush_rings_put(void)
{
	static_branch_dec(&flush_rings_used);
}

/*
 * Give @mm a ring, if it has none. It keeps it as long as it exists.
 *
 * CPUs that run @mm need not be told: what they published before is missing,
 * and so everything. cmpxchg() is a full barrier: who sees the pointer sees the
 * zeroes (litmus: tlb-ring-enable).
 * Context: may sleep.
 */
int flush_ring_add(struct mm_struct *mm)
{
	void *ring;

	/* Broadcast flushes and Xen keep no generation of a CPU. */
	if (cpu_feature_enabled(X86_FEATURE_INVLPGB) ||
	    cpu_feature_enabled(X86_FEATURE_XENPV))
		return -EOPNOTSUPP;
	if (READ_ONCE(mm->context.flush_ring))
		return 0;

	ring = (void *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	if (!ring)
		return -ENOMEM;
	/* Whose it is. */
	set_page_private(virt_to_page(ring), mm->context.ctx_id);
	if (cmpxchg(&mm->context.flush_ring, NULL, ring)) {
		set_page_private(virt_to_page(ring), 0);
		free_page((unsigned long)ring);
	}
	return 0;
}

static struct mm_flush_ring *ring_of(struct mm_struct *mm)
{
	/* Pairs with cmpxchg() in flush_ring_add(): the zeroes are there, too. */
	return smp_load_acquire(&mm->context.flush_ring);
}

void __flush_ring_free(struct mm_struct *mm)
{
	struct page *page = virt_to_page(mm->context.flush_ring);

	/* Only in a test is it somebody else's. */
	if (page_private(page) != mm->context.ctx_id)
		return;
	set_page_private(page, 0);
	__free_page(page);
}

static void publish(struct mm_flush_ring *ring, struct mm_struct *mm, u64 gen,
		    const u64 *runs, unsigned long nr_runs)
{
	int gave_up = rust_flush_ring_publish(ring, gen, runs, nr_runs);

	if (gave_up < 0)
		this_cpu_inc(counts.published);
	else
		this_cpu_inc(counts.gave_up[gave_up]);
	trace_rust_tlb_ring_publish(mm, gen, nr_runs, gave_up);
}

/* Tests break the rules. */

#ifdef CONFIG_RUST_TLB_FAULTS
/* How long a CPU is stopped at most: then the test has failed. */
#define PAUSE_NS	(5 * NSEC_PER_SEC)

static u32 broken;
static u64 first_generation;
static DEFINE_PER_CPU(unsigned int, pause_at);
/* Times that it passes there first. */
static DEFINE_PER_CPU(unsigned int, pause_after);
static atomic_t nr_paused;
/* As nr_paused, since boot. */
static atomic_t nr_pauses;
static atomic_t nr_expired;

bool flush_ring_keeps(unsigned int rule)
{
	return !(READ_ONCE(broken) & BIT(rule));
}

/* Wait here, if this CPU is to, until it is told to go on. */
void flush_ring_pause(unsigned int at)
{
	u64 until = ktime_get_mono_fast_ns() + PAUSE_NS;

	if (this_cpu_read(pause_at) != at)
		return;
	if (this_cpu_read(pause_after)) {
		this_cpu_dec(pause_after);
		return;
	}
	atomic_inc(&nr_paused);
	atomic_inc(&nr_pauses);
	while (raw_cpu_read(pause_at) == at) {
		if (ktime_get_mono_fast_ns() > until) {
			atomic_inc(&nr_expired);
			break;
		}
		cpu_relax();
	}
	atomic_dec(&nr_paused);
}

/* Take a later generation for the one that was caught up to, if one comes. */
static u64 run_ahead(struct mm_struct *mm, u64 gen)
{
	flush_ring_pause(FLUSH_RING_AT_CAUGHT);
	if (!flush_ring_keeps(FLUSH_RING_KEEP_AHEAD))
		return atomic64_read(&mm->context.tlb_gen);
	return gen;
}

/* As flush_ring_publish_next(), with one rule broken. Returns whether one was. */
static bool publish_broken(struct mm_struct *mm, const u64 *runs,
			   unsigned long nr_runs)
{
	struct mm_flush_ring *ring = mm->context.flush_ring;
	u64 gen = atomic64_read(&mm->context.tlb_gen);

	if (!ring)
		return false;
	/* It was when the PTEs were cleared. */
	if (!flush_ring_keeps(FLUSH_RING_KEEP_CLEAR))
		return true;
	if (!flush_ring_keeps(FLUSH_RING_KEEP_FINAL))
		return rust_flush_ring_extend(ring, gen, runs[0]);
	if (flush_ring_keeps(FLUSH_RING_KEEP_ORDER))
		return false;
	publish(ring, mm, gen + 1, runs, nr_runs);
	flush_ring_pause(FLUSH_RING_AT_NEXT);
	inc_mm_tlb_gen(mm);
	return true;
}
#else
static u64 run_ahead(struct mm_struct *mm, u64 gen)
{
	return gen;
}

static bool publish_broken(struct mm_struct *mm, const u64 *runs,
			   unsigned long nr_runs)
{
	return false;
}
#endif

void __flush_ring_publish(struct mm_struct *mm, u64 gen, unsigned long start,
			  unsigned long end, unsigned int stride_shift,
			  bool freed_tables)
{
	struct mm_flush_ring *ring = ring_of(mm);
	u64 run = rust_flush_ring_run(start, end, stride_shift, freed_tables);

	flush_ring_pause(FLUSH_RING_AT_PUBLISH);
	publish(ring, mm, gen, &run, 1);
}

/*
 * Increment the generation of @mm, and say what the new one is for: no more
 * @runs than a slot holds.
 * Context: the PTEs were changed before; mm_cpumask() is read afterwards. Does
 * not sleep.
 */
void flush_ring_publish_next(struct mm_struct *mm, const u64 *runs,
			     unsigned long nr_runs)
{
	struct mm_flush_ring *ring = NULL;
	u64 gen;

	/* A slot that is claimed for long is of use to nobody. */
	guard(preempt)();
	if (flush_rings_are_used())
		ring = ring_of(mm);
	if (publish_broken(mm, runs, nr_runs))
		return;
	gen = inc_mm_tlb_gen(mm);
	if (ring)
		publish(ring, mm, gen, runs, nr_runs);
}

struct flush_ring_caught __flush_ring_catch_up(struct mm_struct *mm, u64 local,
					       u64 gen, int who)
{
	struct mm_flush_ring *ring = ring_of(mm);
	unsigned long limit = READ_ONCE(tlb_single_page_flush_ceiling);
	long nr;

	if (who == FLUSH_RING_LAZY)
		limit = min(limit, LAZY_PAGES);
	nr = rust_flush_ring_catch_up(ring, local, gen, limit);
	trace_rust_tlb_ring_collect(mm, local, gen, who, nr);
	if (nr < 0) {
		this_cpu_inc(counts.doubt[who][-1 - nr]);
		return (struct flush_ring_caught){ gen, TLB_FLUSH_ALL };
	}
	this_cpu_inc(counts.exact[who]);
	this_cpu_add(counts.exact_pages[who], nr);
	return (struct flush_ring_caught){ run_ahead(mm, gen), nr };
}

/*
 * Add to @cpus those that may have stale translations of @mm and do not drop
 * them by themselves: in mm_cpumask(), and running it, or switching. A batch's
 * flush names no mm, so that should_flush_tlb() asks all of them, those, too,
 * that have been elsewhere for long.
 *
 * It is should_flush_tlb()'s own reasoning, a little earlier. A CPU that has
 * something else loaded when it is looked at here says that it is switching
 * before it comes back, and reads the generation after that: it sees the new
 * one (litmus: tlb-ring-running).
 * Context: after the last increment of the generation, which is a full barrier.
 */
void flush_ring_note_cpus(struct mm_struct *mm, struct cpumask *cpus)
{
	int cpu;

	for_each_cpu(cpu, mm_cpumask(mm)) {
		struct mm_struct *loaded_mm =
			READ_ONCE(per_cpu(cpu_tlbstate.loaded_mm, cpu));

		if (loaded_mm == mm || loaded_mm == LOADED_MM_SWITCHING)
			__cpumask_set_cpu(cpu, cpus);
	}
}

/* Drop @nr_strides translations of the mm that is loaded. */
void flush_ring_invalidate(unsigned long start, unsigned long nr_strides,
			   unsigned int stride_shift)
{
	for (; nr_strides; nr_strides--, start += 1UL << stride_shift)
		flush_tlb_one_user(start);
}

/* Context: as flush_ring_init(). */
void __flush_ring_init(struct mm_struct *mm)
{
#ifdef CONFIG_RUST_TLB_FAULTS
	if (!flush_ring_keeps(FLUSH_RING_KEEP_OWN))
		return;
	atomic64_set(&mm->context.tlb_gen, READ_ONCE(first_generation));
#endif
	mm->context.flush_ring = NULL;
	/* Without memory for it there is none, which is slower and no worse. */
	if (READ_ONCE(for_all))
		flush_ring_add(mm);
}

/* In debugfs: tlb_flush_ring/. */

static const char * const doubts[NR_DOUBTS] = {
	"far", "unpublished", "overwritten", "torn", "everything", "tables",
	"many",
};

#define SUM(field)							\
({									\
	unsigned long __sum = 0;					\
	int __cpu;							\
									\
	for_each_possible_cpu(__cpu)					\
		__sum += READ_ONCE(per_cpu(counts, __cpu).field);	\
	__sum;								\
})

static int counts_show(struct seq_file *m, void *unused)
{
	static const char * const whos[] = { "asked", "lazy" };
	int who, doubt;

	seq_printf(m, "published %lu\n", SUM(published));
	seq_printf(m, "gave_up_busy %lu\n", SUM(gave_up[0]));
	seq_printf(m, "gave_up_late %lu\n", SUM(gave_up[1]));
	for (who = 0; who < ARRAY_SIZE(whos); who++) {
		seq_printf(m, "%s_exact %lu\n", whos[who], SUM(exact[who]));
		seq_printf(m, "%s_exact_pages %lu\n", whos[who],
			   SUM(exact_pages[who]));
		for (doubt = 0; doubt < NR_DOUBTS; doubt++)
			seq_printf(m, "%s_%s %lu\n", whos[who], doubts[doubt],
				   SUM(doubt[who][doubt]));
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(counts);

static int for_all_get(void *data, u64 *val)
{
	*val = for_all;
	return 0;
}

static int for_all_set(void *data, u64 val)
{
	static DEFINE_MUTEX(lock);

	guard(mutex)(&lock);
	if (for_all == !!val)
		return 0;
	WRITE_ONCE(for_all, val);
	if (val)
		flush_rings_get();
	else
		flush_rings_put();
	return 0;
}
DEFINE_DEBUGFS_ATTRIBUTE(for_all_fops, for_all_get, for_all_set, "%llu\n");

#ifdef CONFIG_RUST_TLB_FAULTS
/* "cpu place passes": one of FLUSH_RING_AT_*, or 0 to let the CPU go on. */
static ssize_t pause_write(struct file *file, const char __user *text,
			   size_t len, loff_t *pos)
{
	unsigned int cpu, at, after;
	char line[32] = {};

	if (len >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, text, len))
		return -EFAULT;
	if (sscanf(line, "%u %u %u", &cpu, &at, &after) != 3 ||
	    cpu >= nr_cpu_ids)
		return -EINVAL;
	WRITE_ONCE(per_cpu(pause_after, cpu), after);
	WRITE_ONCE(per_cpu(pause_at, cpu), at);
	return len;
}

static const struct file_operations pause_fops = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = pause_write,
	.llseek = noop_llseek,
};

static void add_faults(struct dentry *dir)
{
	debugfs_create_x32("broken", 0600, dir, &broken);
	debugfs_create_u64("first_generation", 0600, dir, &first_generation);
	debugfs_create_file("pause", 0200, dir, NULL, &pause_fops);
	debugfs_create_atomic_t("nr_paused", 0400, dir, &nr_paused);
	debugfs_create_atomic_t("nr_pauses", 0400, dir, &nr_pauses);
	debugfs_create_atomic_t("nr_expired", 0600, dir, &nr_expired);
}
#else
static void add_faults(struct dentry *dir) { }
#endif

static int __init flush_ring_debugfs(void)
{
	struct dentry *dir = debugfs_create_dir("tlb_flush_ring", NULL);

	debugfs_create_file("counts", 0400, dir, NULL, &counts_fops);
	debugfs_create_file("for_all", 0600, dir, NULL, &for_all_fops);
	add_faults(dir);
	return 0;
}
late_initcall(flush_ring_debugfs);
