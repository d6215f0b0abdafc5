/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runs of page-table entries that mremap() moves together (mm/mremap.c). Between
 * the two events of a run its locks are held, and its flush, a tlb:tlb_flush on
 * each CPU that is asked, comes before the second.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM mremap

#if !defined(_TRACE_MREMAP_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_MREMAP_H

#include <linux/mm_types.h>
#include <linux/tracepoint.h>

/* As enum mremap_run_kind in mm/mremap_run.h. */
#define show_mremap_run_kind(kind)			\
	__print_symbolic(kind,				\
		{ 0, "tables" },			\
		{ 1, "huge PMDs" },			\
		{ 2, "PTEs" })

TRACE_EVENT(mremap_run_begin,
	TP_PROTO(struct mm_struct *mm, int kind, unsigned long old_addr,
		 unsigned long new_addr),
	TP_ARGS(mm, kind, old_addr, new_addr),
	TP_STRUCT__entry(
		__field(unsigned long, mm)
		__field(int, kind)
		__field(unsigned long, old_addr)
		__field(unsigned long, new_addr)
	),
	TP_fast_assign(
		__entry->mm = (unsigned long)mm;
		__entry->kind = kind;
		__entry->old_addr = old_addr;
		__entry->new_addr = new_addr;
	),
	TP_printk("mm=%lx kind=%s old_addr=%lx new_addr=%lx", __entry->mm,
		  show_mremap_run_kind(__entry->kind), __entry->old_addr,
		  __entry->new_addr)
);

TRACE_EVENT(mremap_run_end,
	TP_PROTO(struct mm_struct *mm, unsigned long len_bytes),
	TP_ARGS(mm, len_bytes),
	TP_STRUCT__entry(
		__field(unsigned long, mm)
		__field(unsigned long, len_bytes)
	),
	TP_fast_assign(
		__entry->mm = (unsigned long)mm;
		__entry->len_bytes = len_bytes;
	),
	TP_printk("mm=%lx len_bytes=%lu", __entry->mm, __entry->len_bytes)
);

#endif /* _TRACE_MREMAP_H */

#include <trace/define_trace.h>
