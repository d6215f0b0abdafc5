/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Batched TLB flushes from Rust: what a batch owes, and when and why it is
 * flushed. What the CPUs then do is in tlb:tlb_flush and ipi:*.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rust_tlb

#if !defined(_TRACE_RUST_TLB_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_RUST_TLB_H

#include <linux/mm_types.h>
#include <linux/tracepoint.h>

/* As `Kind` in rust/kernel/mm/tlb/policy.rs. */
#define show_rust_tlb_policy(policy)			\
	__print_symbolic(policy,			\
		{ 0, "broadcast" },			\
		{ 1, "precise" },			\
		{ 2, "page" },				\
		{ 3, "none" },				\
		{ 4, "hoisted" },			\
		{ 5, "ring" })

/* As `Why` in rust/kernel/mm/tlb/policy.rs. */
#define show_rust_tlb_why(why)				\
	__print_symbolic(why,				\
		{ 0, "end" },				\
		{ 1, "dirty" },				\
		{ 2, "phase" },				\
		{ 3, "refault" },			\
		{ 4, "full" },				\
		{ 5, "old" },				\
		{ 6, "pressure" },			\
		{ 7, "scope" },				\
		{ 8, "asked" },				\
		{ 9, "other" },				\
		{ 10, "dropped" },			\
		{ 11, "leaf" })

/* As `Touched` in rust/kernel/mm/tlb/policy.rs. */
#define show_rust_tlb_touch(why)			\
	__print_symbolic(why,				\
		{ 0, "unmapped" },			\
		{ 1, "owed elsewhere" },		\
		{ 2, "kept" },				\
		{ 3, "moved" })

/* An event of a batch is switched on, or off: see tlb_batch_is_traced(). */
int tlb_batch_event_on(void);
void tlb_batch_event_off(void);

/* A batch, or a scope, is known by an address that no other one has meanwhile. */

TRACE_EVENT_FN(rust_tlb_batch_open,
	TP_PROTO(unsigned long batch, int policy, unsigned long nr_pages),
	TP_ARGS(batch, policy, nr_pages),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(int, policy)
		__field(unsigned long, nr_pages)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->policy = policy;
		__entry->nr_pages = nr_pages;
	),
	TP_printk("batch=%lx policy=%s room=%lu", __entry->batch,
		  show_rust_tlb_policy(__entry->policy),
		  __entry->nr_pages),

	tlb_batch_event_on, tlb_batch_event_off
);

TRACE_EVENT_FN(rust_tlb_range_add,
	TP_PROTO(const struct mm_struct *mm, unsigned long start,
		 unsigned long end, unsigned long nr_ptes, int why),
	TP_ARGS(mm, start, end, nr_ptes, why),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned long, nr_ptes)
		__field(int, why)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
		__entry->nr_ptes = nr_ptes;
		__entry->why = why;
	),
	TP_printk("mm=%p start=%lx end=%lx ptes=%lu why=%s", __entry->mm,
		  __entry->start, __entry->end, __entry->nr_ptes,
		  show_rust_tlb_touch(__entry->why)),

	tlb_batch_event_on, tlb_batch_event_off
);

TRACE_EVENT_FN(rust_tlb_flush_begin,
	TP_PROTO(unsigned long batch, int policy, unsigned long nr_ptes,
		 unsigned long nr_mms, int why),
	TP_ARGS(batch, policy, nr_ptes, nr_mms, why),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(int, policy)
		__field(unsigned long, nr_ptes)
		__field(unsigned long, nr_mms)
		__field(int, why)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->policy = policy;
		__entry->nr_ptes = nr_ptes;
		__entry->nr_mms = nr_mms;
		__entry->why = why;
	),
	TP_printk("batch=%lx policy=%s ptes=%lu mms=%lu why=%s",
		  __entry->batch,
		  show_rust_tlb_policy(__entry->policy),
		  __entry->nr_ptes, __entry->nr_mms,
		  show_rust_tlb_why(__entry->why)),

	tlb_batch_event_on, tlb_batch_event_off
);

TRACE_EVENT_FN(rust_tlb_flush_end,
	TP_PROTO(unsigned long batch, unsigned long nr_calls),
	TP_ARGS(batch, nr_calls),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(unsigned long, nr_calls)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->nr_calls = nr_calls;
	),
	TP_printk("batch=%lx calls=%lu", __entry->batch, __entry->nr_calls),

	tlb_batch_event_on, tlb_batch_event_off
);

/*
 * One call of the architecture's flush functions. @mm is NULL if it is for all
 * that the architecture's batch has collected. @nr_cpus are those that are
 * asked, the calling one aside; lazy ones take no interrupt.
 */
TRACE_EVENT(rust_tlb_call_begin,
	TP_PROTO(const struct mm_struct *mm, unsigned long start,
		 unsigned long end, unsigned int nr_cpus),
	TP_ARGS(mm, start, end, nr_cpus),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(unsigned int, nr_cpus)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
		__entry->nr_cpus = nr_cpus;
	),
	TP_printk("mm=%p start=%lx end=%lx cpus=%u %s", __entry->mm,
		  __entry->start, __entry->end, __entry->nr_cpus,
		  __entry->end == ~0UL ? "full" : "ranged")
);

TRACE_EVENT(rust_tlb_call_end,
	TP_PROTO(const struct mm_struct *mm),
	TP_ARGS(mm),
	TP_STRUCT__entry(
		__field(const void *, mm)
	),
	TP_fast_assign(
		__entry->mm = mm;
	),
	TP_printk("mm=%p", __entry->mm)
);

TRACE_EVENT_FN(rust_tlb_page_release,
	TP_PROTO(unsigned long batch, unsigned long pgoff),
	TP_ARGS(batch, pgoff),
	TP_STRUCT__entry(
		__field(unsigned long, batch)
		__field(unsigned long, pgoff)
	),
	TP_fast_assign(
		__entry->batch = batch;
		__entry->pgoff = pgoff;
	),
	TP_printk("batch=%lx pgoff=%lu", __entry->batch, __entry->pgoff),

	tlb_batch_event_on, tlb_batch_event_off
);

/* The current task has to wait for the flush of a page that @owner unmapped. */
TRACE_EVENT(rust_tlb_pending_hit,
	TP_PROTO(unsigned long pgoff, int owner),
	TP_ARGS(pgoff, owner),
	TP_STRUCT__entry(
		__field(unsigned long, pgoff)
		__field(int, owner)
	),
	TP_fast_assign(
		__entry->pgoff = pgoff;
		__entry->owner = owner;
	),
	TP_printk("pgoff=%lu owner=%d", __entry->pgoff, __entry->owner)
);

/*
 * PTEs of one page table, from @old on, were moved to @new; so many of them were
 * flushed before it was unlocked.
 */
TRACE_EVENT(rust_tlb_move,
	TP_PROTO(const struct mm_struct *mm, unsigned long old,
		 unsigned long new, unsigned long nr_ptes,
		 unsigned long nr_flushed),
	TP_ARGS(mm, old, new, nr_ptes, nr_flushed),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, old)
		__field(unsigned long, new)
		__field(unsigned long, nr_ptes)
		__field(unsigned long, nr_flushed)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->old = old;
		__entry->new = new;
		__entry->nr_ptes = nr_ptes;
		__entry->nr_flushed = nr_flushed;
	),
	TP_printk("mm=%p old=%lx new=%lx ptes=%lu flushed=%lu", __entry->mm,
		  __entry->old, __entry->new, __entry->nr_ptes,
		  __entry->nr_flushed)
);

/* As `Doubt` in rust/kernel/mm/tlb/ring.rs, below -1. */
#define show_rust_tlb_caught(nr)			\
	__print_symbolic(nr >= 0 ? 0 : nr,		\
		{ 0, "exact" },				\
		{ -1, "full: far" },			\
		{ -2, "full: unpublished" },		\
		{ -3, "full: overwritten" },		\
		{ -4, "full: torn" },			\
		{ -5, "full: everything" },		\
		{ -6, "full: tables" },			\
		{ -7, "full: many" })

/* As `GaveUp` in rust/kernel/mm/tlb/ring.rs, from 0. */
#define show_rust_tlb_published(gave_up)		\
	__print_symbolic(gave_up,			\
		{ -1, "published" },			\
		{ 0, "gave up: busy" },			\
		{ 1, "gave up: late" })

/* What generation @gen of @mm is for goes into the ring of @mm. */
TRACE_EVENT(rust_tlb_ring_publish,
	TP_PROTO(const struct mm_struct *mm, u64 gen, unsigned long nr_runs,
		 int gave_up),
	TP_ARGS(mm, gen, nr_runs, gave_up),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(u64, gen)
		__field(unsigned long, nr_runs)
		__field(int, gave_up)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->gen = gen;
		__entry->nr_runs = nr_runs;
		__entry->gave_up = gave_up;
	),
	TP_printk("mm=%p gen=%llu runs=%lu %s", __entry->mm, __entry->gen,
		  __entry->nr_runs, show_rust_tlb_published(__entry->gave_up))
);

/*
 * This CPU catches up with the flushes of @mm after generation @local, up to
 * @gen: as it is asked to (@who is 0), or as it comes back to @mm (1).
 */
TRACE_EVENT(rust_tlb_ring_collect,
	TP_PROTO(const struct mm_struct *mm, u64 local, u64 gen, int who,
		 long nr_pages),
	TP_ARGS(mm, local, gen, who, nr_pages),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(u64, local)
		__field(u64, gen)
		__field(int, who)
		__field(long, nr_pages)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->local = local;
		__entry->gen = gen;
		__entry->who = who;
		__entry->nr_pages = nr_pages;
	),
	TP_printk("mm=%p from=%llu to=%llu by=%s pages=%ld %s", __entry->mm,
		  __entry->local, __entry->gen,
		  __entry->who ? "lazy" : "asked",
		  __entry->nr_pages < 0 ? 0 : __entry->nr_pages,
		  show_rust_tlb_caught(__entry->nr_pages))
);

#endif /* _TRACE_RUST_TLB_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
