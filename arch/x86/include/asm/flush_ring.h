/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The ring of flushes of an mm: what its last generations were for. A CPU that
 * missed some of them invalidates those pages, and not all that it has. The
 * protocol is in rust/kernel/mm/tlb/ring.rs, its memory in
 * arch/x86/mm/flush_ring.c.
 *
 * An mm without a ring pays a branch that is patched out as long as nobody uses
 * rings, and else a load and a test. Include <linux/flush_ring.h>.
 */
#ifndef _ASM_X86_FLUSH_RING_H
#define _ASM_X86_FLUSH_RING_H

#include <linux/cpumask_types.h>
#include <linux/jump_label.h>
#include <linux/mm_types.h>
#include <linux/types.h>

struct mm_struct;
struct mm_flush_ring;

/* As `MAX_RUNS` in ring.rs. */
#define FLUSH_RING_RUNS		7

DECLARE_STATIC_KEY_FALSE(flush_rings_used);

void flush_rings_get(void);
void flush_rings_put(void);
int flush_ring_add(struct mm_struct *mm);
void __flush_ring_init(struct mm_struct *mm);
void __flush_ring_free(struct mm_struct *mm);
void __flush_ring_publish(struct mm_struct *mm, u64 gen, unsigned long start,
			  unsigned long end, unsigned int stride_shift,
			  bool freed_tables);
void flush_ring_publish_next(struct mm_struct *mm, const u64 *runs,
			     unsigned long nr_runs);
struct flush_ring_caught __flush_ring_catch_up(struct mm_struct *mm, u64 local,
					       u64 gen, int who);
void flush_ring_note_cpus(struct mm_struct *mm, struct cpumask *cpus);
void flush_ring_invalidate(unsigned long start, unsigned long nr_strides,
			   unsigned int stride_shift);

/* In rust/kernel/mm/tlb/ring_entry.rs. */
u64 rust_flush_ring_run(unsigned long start, unsigned long end,
			unsigned int stride_shift, bool tables_freed);
int rust_flush_ring_publish(struct mm_flush_ring *ring, u64 gen,
			    const u64 *runs, unsigned long nr_runs);
long rust_flush_ring_catch_up(struct mm_flush_ring *ring, u64 local, u64 gen,
			      unsigned long limit);

bool rust_flush_ring_extend(struct mm_flush_ring *ring, u64 gen, u64 run);

/* Rules that tests break, numbered as in ring.rs; from here on they are C's. */
#define FLUSH_RING_KEEP_AHEAD	16	/* The local generation is what was read first. */
#define FLUSH_RING_KEEP_ORDER	17	/* A slot is filled after the increment. */
#define FLUSH_RING_KEEP_FINAL	18	/* A published slot is not extended. */
#define FLUSH_RING_KEEP_BUMP	19	/* Each deferral increments. */
#define FLUSH_RING_KEEP_CLEAR	20	/* PTEs are cleared before the increment. */
#define FLUSH_RING_KEEP_OWN	21	/* A child has no ring of its parent's. */
#define FLUSH_RING_KEEP_DONE	22	/* What is being flushed is not flushed. */

/* Where a CPU can be stopped. */
#define FLUSH_RING_AT_PUBLISH	1	/* After the increment, before the slot. */
#define FLUSH_RING_AT_RUN	2	/* Before the first run of a slot. */
#define FLUSH_RING_AT_RELEASE	3	/* Before the tag of a slot. */
#define FLUSH_RING_AT_READ	4	/* Between a tag and its runs. */
#define FLUSH_RING_AT_CAUGHT	5	/* After catching up, IRQs off. */
#define FLUSH_RING_AT_CLEAR	6	/* Before a PTE is cleared, lock held. */
#define FLUSH_RING_AT_NEXT	7	/* Between a predicted slot and its increment. */

#ifdef CONFIG_RUST_TLB_FAULTS
bool flush_ring_keeps(unsigned int rule);
void flush_ring_pause(unsigned int at);
#else
static inline bool flush_ring_keeps(unsigned int rule) { return true; }
static inline void flush_ring_pause(unsigned int at) { }
#endif

static __always_inline bool flush_rings_are_used(void)
{
	return static_branch_unlikely(&flush_rings_used);
}

static __always_inline bool mm_has_flush_ring(const struct mm_struct *mm)
{
	return flush_rings_are_used() && READ_ONCE(mm->context.flush_ring);
}

/*
 * A new mm has no ring, also if it is the copy of one that has.
 * Context: after its generation was set; may sleep.
 */
static inline void flush_ring_init(struct mm_struct *mm)
{
	if (IS_ENABLED(CONFIG_RUST_TLB_FAULTS) || flush_rings_are_used())
		__flush_ring_init(mm);
	else
		mm->context.flush_ring = NULL;
}

/* Context: nobody has @mm loaded any more. */
static inline void flush_ring_free(struct mm_struct *mm)
{
	if (unlikely(mm->context.flush_ring))
		__flush_ring_free(mm);
}

/*
 * Say what @gen of @mm is for.
 * Context: @gen is what inc_mm_tlb_gen() has just returned, and mm_cpumask() is
 * read afterwards. Does not sleep; not in an NMI.
 */
static __always_inline void flush_ring_publish(struct mm_struct *mm, u64 gen,
					       unsigned long start,
					       unsigned long end,
					       unsigned int stride_shift,
					       bool freed_tables)
{
	if (mm_has_flush_ring(mm))
		__flush_ring_publish(mm, gen, start, end, stride_shift,
				     freed_tables);
}

/*
 * Invalidate, on this CPU, what @mm flushed from generation @local up to @gen,
 * and no more, if that is known: says how many pages that was, and which
 * generation it brought the CPU to. ULONG_MAX: the caller has to flush
 * everything. By value, so that nothing of the callers' has an address, and
 * they no stack protector.
 * Context: IRQs off, @mm is loaded; @gen is its generation, read just before.
 */
static __always_inline struct flush_ring_caught
flush_ring_catch_up(struct mm_struct *mm, u64 local, u64 gen, int who)
{
	if (mm_has_flush_ring(mm))
		return __flush_ring_catch_up(mm, local, gen, who);
	return (struct flush_ring_caught){ gen, ULONG_MAX };
}

#endif /* _ASM_X86_FLUSH_RING_H */
