/* SPDX-License-Identifier: GPL-2.0 */
/* The ring of flushes of an mm, on an architecture that has it: else nothing. */
#ifndef _LINUX_FLUSH_RING_H
#define _LINUX_FLUSH_RING_H

/* Who catches up. */
#define FLUSH_RING_ASKED	0	/* A CPU that is asked to flush. */
#define FLUSH_RING_LAZY		1	/* One that comes back to a lazy mm. */

#include <linux/limits.h>
#include <linux/types.h>

/* What a CPU flushed of an mm, and up to which generation. */
struct flush_ring_caught {
	u64 gen;
	/* Or ULONG_MAX, TLB_FLUSH_ALL: nothing yet, it has to be everything. */
	unsigned long nr_pages;
};

#ifdef CONFIG_RUST_TLB_RING
#include <asm/flush_ring.h>
#else

struct mm_struct;

static inline void flush_ring_init(struct mm_struct *mm) { }
static inline void flush_ring_free(struct mm_struct *mm) { }
static inline void flush_ring_publish(struct mm_struct *mm, u64 gen,
				      unsigned long start, unsigned long end,
				      unsigned int stride_shift,
				      bool freed_tables) { }
static inline struct flush_ring_caught
flush_ring_catch_up(struct mm_struct *mm, u64 local, u64 gen, int who)
{
	return (struct flush_ring_caught){ gen, ULONG_MAX };
}
#endif

#endif /* _LINUX_FLUSH_RING_H */
