/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel's mmu_gather tracked, just before it flushes: gathers of
 * rust/kernel/mm/tlb/gather.rs only.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rust_tlb

#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rust_tlb_gather

#if !defined(_TRACE_RUST_TLB_GATHER_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_RUST_TLB_GATHER_H

#include <linux/mm_types.h>
#include <linux/tracepoint.h>

TRACE_EVENT(rust_tlb_gather_end,
	TP_PROTO(const struct mm_struct *mm, unsigned long start,
		 unsigned long end, bool freed_tables),
	TP_ARGS(mm, start, end, freed_tables),
	TP_STRUCT__entry(
		__field(const void *, mm)
		__field(unsigned long, start)
		__field(unsigned long, end)
		__field(bool, freed_tables)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->start = start;
		__entry->end = end;
		__entry->freed_tables = freed_tables;
	),
	TP_printk("mm=%p start=%lx end=%lx freed_tables=%d", __entry->mm,
		  __entry->start, __entry->end, __entry->freed_tables)
);

#endif /* _TRACE_RUST_TLB_GATHER_H */

#include <trace/define_trace.h>
